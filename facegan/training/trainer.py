"""`Trainer`: the nets and all that changes with them, round by round, as one state that can be saved and taken up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from facegan.config import TrainConfig
from facegan.errors import CheckpointError, DatasetError
from facegan.files import parsing
from facegan.nets import NetSpec, make_discriminator, make_generator
from facegan.nets.weights import require_same_tensors
from facegan.training.cuda_graphs import CudaGraphCache, Snapshot, graphs_disabled_reason
from facegan.training.distributed import SINGLE, World
from facegan.training.ema import Ema
from facegan.training.optim import NetOptimizer, schedule_factor, set_rate
from facegan.training.precision import Precision, gpu_math
from facegan.training.step import TOTALS_G, GanStep, StepVariant

# What `train` needs of a dataset; `facegan.stream.FaceShards` has it, and so may any object.


class Batches(Protocol):
    """An endless iterator of uint8 (N, C, H, W) batches on the device, whose position can be kept and set."""

    def __iter__(self) -> Iterator[Tensor]: ...
    def __next__(self) -> Tensor: ...
    def state_dict(self) -> Mapping[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> None: ...
    def describe(self) -> Mapping[str, Any]:
        """What run.json tells of how they come; it changes no batch, and so may differ from start to start."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class OnDeviceBatches(Protocol):
    """`Batches` whose faces may all lie on the device: a recorded round then takes its batches from there itself."""

    @property
    def faces(self) -> Tensor | None:
        """All faces, uint8 (F, H, W, C) on the device; None while they do not lie there."""
        ...

    def numbers(self) -> Tensor:
        """The next batch as numbers into `faces`, int64 (N,), in the place of ``next``."""
        ...


class Faces(Protocol):
    """Square images of one size."""

    @property
    def size(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    def __len__(self) -> int: ...
    def batches(
        self, batch_size: int, *, seed: int = 0, device: str = "cpu", rank: int = 0, world_size: int = 1
    ) -> Batches:
        """``rank`` and ``world_size`` are given where several processes train together: each gets its share."""
        ...


def spec_of(config: TrainConfig, size: int, channels: int) -> NetSpec:
    """The generator's; the discriminator's may have another width."""
    return NetSpec(config.nets, size, channels, config.latent, config.width, config.norm, config.latent_distribution)


class Trainer:
    """The nets, their optimizers and their average, and the rounds that change them.

    Random numbers follow from the seed and the images' numbers, so this state and the stream's position are the whole
    state.

    Args:
        ranks: the processes that train together; each holds the whole state.

    Raises:
        SettingsError: nets that can't be made, or a batch that the processes can't share evenly.
    """

    def __init__(
        self,
        config: TrainConfig,
        spec: NetSpec,
        device: torch.device,
        precision: Precision,
        ranks: World = SINGLE,
    ) -> None:
        self.config, self.spec, self.device, self.ranks = config, spec, device, ranks
        self.precision: Precision = precision
        # Channels last is the layout that oneDNN and cuDNN compute in; otherwise they reorder at every layer.
        place: dict[str, Any] = {"device": device, "memory_format": torch.channels_last}
        self.generator = make_generator(spec, config.seed).to(**place).train()
        narrow = replace(spec, width=config.width_d or spec.width)
        self.discriminator = make_discriminator(narrow, config.seed).to(**place).train()
        self.ema = Ema(self.generator, config.ema_images, weight_on_device=device.type == "cuda")
        if config.sync_batchnorm and ranks.size > 1:
            # Ioffe & Szegedy 2015 (arXiv:1502.03167), with mean and variance of the global batch.
            nn.SyncBatchNorm.convert_sync_batchnorm(self.generator)
            nn.SyncBatchNorm.convert_sync_batchnorm(self.discriminator)
        self.g = NetOptimizer(self.generator, config.lr_g, config, precision)
        self.d = NetOptimizer(self.discriminator, config.lr_d, config, precision)
        self.work = GanStep(config, spec, precision, self.g, self.d, self.ema, ranks)
        self.not_recorded = graphs_disabled_reason(config, self.d)
        self._recordings = None if self.not_recorded else CudaGraphCache(self.work, self.tensors)
        self.warn: Callable[[str], None] = lambda text: None  # told where rounds can't be recorded after all
        self.lr_scale = 1.0  # multiplies both learning rates; a roll-back halves it
        self.rounds = 0
        self.counts = _no_counts()  # of what the totals add up

    @property
    def round_images(self) -> int:
        return self.config.round_images

    @property
    def images(self) -> int:
        """Real images shown to the discriminator; rounds of G's warm-up count as if they showed some."""
        return self.rounds * self.round_images

    def round(self, reals: Iterator[Tensor]) -> None:
        """``d_steps`` discriminator steps on as many batches, uint8 (N, C, H, W), and ``g_steps`` generator steps.

        Does not wait for the device.
        """
        faces = reals.faces if isinstance(reals, OnDeviceBatches) else None
        kind = StepVariant.of(self.config, self.rounds, gathered=faces is not None)
        self._fetch(reals, faces, len(kind.penalties))
        self._aim()
        self._play(kind)
        self.rounds += 1
        for name, more in (("d", len(kind.penalties)), ("gp", sum(kind.penalties)), ("g", kind.g_steps)):
            self.counts[name] += more

    def round_unless(self, stop: Callable[[], bool], reals: Batches) -> bool:
        """As `round`, and ``stop`` is asked at each layer: True discards the round, and all is as it was before.

        Returns:
            Whether the round was finished.
        """
        before, position = Snapshot(self.work, self.tensors()), dict(reals.state_dict())
        try:
            with _asked_at_layers(stop, self.generator, self.discriminator):
                self.round(reals)
        except _Discarded:
            self.work.forget()
            before.restore()
            reals.load_state_dict(position)
            return False
        return True

    def _fetch(self, reals: Iterator[Tensor], faces: Tensor | None, batches: int) -> None:
        if isinstance(reals, OnDeviceBatches) and faces is not None:
            if self._recordings and self.work.faces is not None and self.work.faces is not faces:
                self._recordings.close()  # they know where the others lay
            self.work.faces = faces
            for place in self.work.chosen[:batches]:
                place.copy_(reals.numbers(), non_blocking=True)
        else:
            for place in self.work.reals[:batches]:
                place.copy_(_checked(next(reals), place), non_blocking=True)

    def _aim(self) -> None:
        """Puts what changes from round to round in its places."""
        factor = self.lr_scale * schedule_factor(self.config.schedule, self.images, self.config.images)
        set_rate(self.g.optimizer, self.config.lr_g * factor)
        set_rate(self.d.optimizer, self.config.lr_d * factor)
        self.ema.aim(self.round_images, self.images + self.round_images)
        self.work.number.fill_(self.rounds)

    def math(self) -> AbstractContextManager[None]:
        """How its device computes: rounds enter it themselves, and what makes pictures of the nets has to."""
        return gpu_math(self.device, tf32=self.config.tf32, deterministic=self.config.deterministic)

    def _play(self, kind: StepVariant) -> None:
        with self.math():
            if self._recordings and not self._recordings.has(kind):
                self._record(self._recordings, kind)
            if self._recordings:
                self._recordings.play(kind)
            else:
                self.work(kind)

    def _record(self, recordings: CudaGraphCache, kind: StepVariant) -> None:
        """All processes or none: a recording's warm-up has all-reduces in which each has to take part."""
        why = recordings.prepare(kind)
        if self.ranks.any(bool(why)):
            self.close()
            self.not_recorded = why or "another process could not record them"
            self.warn(f"this training runs without CUDA graphs, and slower: {self.not_recorded}.")

    def close(self) -> None:
        """Gives up what was recorded; the state stays."""
        if self._recordings:
            self._recordings.close()
        self._recordings = None

    def means(self) -> dict[str, float]:
        """Means since `clear_means`; waits for the device, and for the other processes, which get the same.

        ``loss_d``, ``loss_g``; ``d_real``, ``d_fake``: logits; ``d_accuracy``: share of images that D places rightly
        (`facegan.training.losses`); ``grad_g``: L2 norm of G's gradient; with a penalty ``gp``, without its weight,
        over the steps that have it; in fp16 ``skipped``: how many steps the scalers left out, of both nets.
        """
        self.agree()
        sums = dict(zip(self.work.counted, (self.work.totals.sum(0) / self.ranks.size).tolist(), strict=True))
        counted = {name: self.counts["gp" if name == "gp" else "g" if name in TOTALS_G else "d"] for name in sums}
        means = {name: total / max(counted[name], 1) for name, total in sums.items()}
        if not self.config.regularisers:
            del means["gp"]
        if self.precision == "fp16":
            means["skipped"] = self.work.skipped.item()
        return means

    def agree(self) -> None:
        """Each process gets to know what the others counted for the log. Exact, and so free to be done at any time."""
        if self.ranks.size > 1:
            own = self.work.totals[self.ranks.rank].clone()
            self.work.totals.zero_()[self.ranks.rank] = own
            self.ranks.sum_(self.work.totals)

    def clear_means(self) -> None:
        self.work.totals.zero_()
        self.work.skipped.zero_()
        self.counts = _no_counts()

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state, by name; the tensors themselves, not copies."""
        parts: dict[str, dict[str, Tensor]] = {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "ema": self.ema.net.state_dict(),
            "optim_g": self.g.tensors(),
            "optim_d": self.d.tensors(),
            "log": {"totals": self.work.totals, "skipped": self.work.skipped},
            "loss": {"k": self.work.k} if self.work.loss.autoencoder else {},
        }
        return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    def numbers(self) -> dict[str, Any]:
        """The rest of the state, as JSON has it."""
        return {
            "rounds": self.rounds,
            "counts": self.counts,
            "lr_scale": self.lr_scale,
            "scaler": {"generator": self.g.scaler.state_dict(), "discriminator": self.d.scaler.state_dict()},
            "spec": asdict(self.spec),
        }

    @torch.no_grad()
    def load(self, what: str, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Takes up a state; ``what`` names it in errors.

        Raises:
            CheckpointError: it is of other nets.
        """
        differences = NetSpec(**numbers["spec"]).differences(self.spec)
        if differences:
            raise CheckpointError(
                f"{what} belongs to another architecture: it has {differences[0]}.\n"
                "Use the settings that it was made with, or another --run folder."
            )
        own = self.tensors()
        counts = numbers.get("counts", _no_counts())
        if "counts" not in numbers:  # of an older facegan, which counted less: the next row's means begin here
            tensors = {**tensors, **{name: torch.zeros_like(own[name]) for name in ("log.totals", "log.skipped")}}
        totals, place = tensors.get("log.totals"), own["log.totals"]
        if totals is not None and totals.shape != place.shape and totals.numel() % place.shape[1] == 0:
            # Of another number of processes: each begins with the mean, and the row comes out as it was counted.
            tensors = {**tensors, "log.totals": totals.reshape(-1, place.shape[1]).mean(0).expand(place.shape)}
        require_same_tensors(what, tensors, own)
        # In place: the layout in memory stays as it was made, which fused Adam relies on (a moment in another layout
        # than its weight would be applied to the wrong elements), and recordings find each tensor where it was.
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
        self.rounds, self.counts, self.lr_scale = numbers["rounds"], dict(counts), numbers.get("lr_scale", 1.0)
        with parsing(what, "Name an earlier checkpoint by --init in another --run folder."):
            self.g.scaler.load_state_dict(numbers["scaler"]["generator"])
            self.d.scaler.load_state_dict(numbers["scaler"]["discriminator"])


class _Discarded(Exception):
    """A round that was broken off."""


@contextmanager
def _asked_at_layers(stop: Callable[[], bool], *nets: nn.Module) -> Iterator[None]:
    """Asks before each layer computes its output or its gradient; raises where ``stop`` says so."""

    def ask(*_: object) -> None:
        if stop():
            raise _Discarded

    def ask_in_backward(layer: nn.Module, given: object, output: object) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(ask)

    layers = [layer for net in nets for layer in net.modules() if next(layer.children(), None) is None]
    hooks = [layer.register_forward_pre_hook(ask) for layer in layers]
    hooks += [layer.register_forward_hook(ask_in_backward) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _no_counts() -> dict[str, int]:
    return {"d": 0, "g": 0, "gp": 0}


def _checked(batch: Tensor, place: Tensor) -> Tensor:
    """Raises:
    DatasetError: the batch is not as `facegan.training.trainer.Batches` has it.
    """
    if batch.dtype != torch.uint8:
        nan = ", some NaN" if batch.is_floating_point() and bool(batch.isnan().any()) else ""
        raise DatasetError(f"The faces come as {str(batch.dtype).removeprefix('torch.')}{nan}: they have to be uint8.")
    if batch.shape != place.shape:
        raise DatasetError(
            f"A batch of faces has the shape {tuple(batch.shape)}, and {tuple(place.shape)} was expected."
        )
    return batch

"""`Trainer`: the nets and all that changes with them, step by step, as one state that can be saved and loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from facegan.config import TrainConfig
from facegan.errors import CheckpointError, DatasetError, SettingsError
from facegan.nets import Condition, NetSpec, make_discriminator, make_generator
from facegan.nets.registry import freeze_layers
from facegan.nets.weights import require_same_tensors
from facegan.system import keep_freed_memory
from facegan.training.cuda_graphs import CudaGraphCache, Snapshot, graphs_disabled_reason
from facegan.training.distributed import SINGLE, World
from facegan.training.optim import Ema, NetOptimizer, schedule_factor, set_rate
from facegan.training.precision import Precision, gpu_math
from facegan.training.step import TOTALS_G, GanStep, StepVariant


class Batches(Protocol):
    """An endless iterator of uint8 (N, C, H, W) batches on the device, whose position can be read and set."""

    def __iter__(self) -> Iterator[Tensor]: ...
    def __next__(self) -> Tensor: ...
    def state_dict(self) -> Mapping[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> None: ...
    def describe(self) -> Mapping[str, Any]:
        """How the batches are delivered, for run.json. It changes no batch, so it may differ from start to start."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class OnDeviceBatches(Protocol):
    """`Batches` whose images may all be on the device: a captured step then gathers its batches from there."""

    @property
    def faces(self) -> Tensor | None:
        """All images, uint8 (F, H, W, C) on the device; None until they are there."""
        ...

    def numbers(self) -> Tensor:
        """The next batch as indices into `faces`, int64 (N,), instead of ``next``."""
        ...


class LabelledBatches(Protocol):
    """`Batches` that say which faces they are, for a training with a condition."""

    @property
    def indices(self) -> Tensor:
        """Of the batch that ``next`` returned last: the faces' numbers, int64 (N,)."""
        ...


class Faces(Protocol):
    """Square images of one size. `facegan.FaceShards` is one, and so may any object be."""

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
        """``rank`` and ``world_size`` are passed where several processes train together: each gets its share."""
        ...


@runtime_checkable
class LabelledFaces(Protocol):
    """`Faces` with attributes; their batches are `LabelledBatches`."""

    def attributes(self, names: Sequence[str]) -> Any:
        """A pyarrow.Table with these columns and a row for each face; SettingsError if there is no such attribute."""
        ...


def spec_of(config: TrainConfig, size: int, channels: int, condition: Condition | None = None) -> NetSpec:
    """The generator's spec; the discriminator's may have another width."""
    distribution = config.latent_distribution
    return NetSpec(config.nets, size, channels, config.latent, config.width, config.norm, distribution, condition)


def epoch_of(config: TrainConfig, faces: Faces) -> np.ndarray | None:
    """The faces of the first epoch, int64 (F,), if their shares are chosen.

    Raises SettingsError if the faces lack the attributes, or the shares cannot be reached.
    """
    if not config.shares:
        return None
    order = getattr(faces, "order", None)
    if order is None:
        raise SettingsError("--balance needs faces with attributes: a dataset of facegan prep --attributes FILE.")
    return order(config.seed, config.shares).at(0, len(faces))


def condition_of(
    config: TrainConfig, faces: Faces, epoch: np.ndarray | None = None
) -> tuple[Condition | None, Tensor | None]:
    """What a training with ``--condition`` tells its nets; and rows of the condition's table, int64 (2, F): of each
    face, and of the faces of an epoch, from which those of fakes are drawn.

    Raises SettingsError if the faces lack the attributes, or these are no condition.
    """
    if not config.condition:
        return None, None
    if not isinstance(faces, LabelledFaces):
        raise SettingsError(
            f"--condition {config.condition} needs faces with attributes: a dataset of facegan prep --attributes FILE."
        )
    names = config.condition.split(",")
    table = faces.attributes(names)
    condition, rows = Condition.of_faces({name: table.column(name).to_numpy() for name in names})
    return condition, torch.stack([rows, rows if epoch is None else rows[torch.from_numpy(epoch)]])


class Trainer:
    """The nets, their optimizers, their moving average, and the steps that change them.

    Random numbers follow from the seed and the images' numbers, so that this state and the position of the batches are
    the whole state. Each of the processes that train together, ``world``, holds all of it.
    """

    def __init__(
        self,
        config: TrainConfig,
        spec: NetSpec,
        device: torch.device,
        precision: Precision,
        world: World = SINGLE,
        labels: Tensor | None = None,
    ) -> None:
        """``labels``: as for `GanStep`."""
        self.config, self.spec, self.device, self.world = config, spec, device, world
        self.precision: Precision = precision
        if device.type == "cpu":
            keep_freed_memory()
        # oneDNN and cuDNN compute in channels last; in any other layout they reorder tensors at every layer.
        layout: dict[str, Any] = {"device": device, "memory_format": torch.channels_last}
        self.generator = make_generator(spec, config.seed).to(**layout).train()
        spec_d = replace(spec, width=config.width_d or spec.width)
        self.discriminator = make_discriminator(spec_d, config.seed).to(**layout).train()
        if config.freeze_d:
            freeze_layers(self.discriminator, config.freeze_d)
        self.ema = Ema(self.generator, config.ema_images, weight_on_device=device.type == "cuda")
        if config.sync_batchnorm and world.size > 1:
            # In place: children are replaced, parameters and buffers stay the same tensors.
            nn.SyncBatchNorm.convert_sync_batchnorm(self.generator)
            nn.SyncBatchNorm.convert_sync_batchnorm(self.discriminator)
        self.g = NetOptimizer(self.generator, config.lr_g, config, precision)
        self.d = NetOptimizer(self.discriminator, config.lr_d, config, precision)
        self.gan_step = GanStep(config, precision, self.g, self.d, self.ema, world, labels)
        self.no_graphs_reason = graphs_disabled_reason(config, self.d)  # "": steps are captured as CUDA graphs
        self._graphs = None if self.no_graphs_reason else CudaGraphCache(self.gan_step, self.tensors)
        self.lr_scale = 1.0  # multiplies both learning rates; a roll-back halves it
        self.steps = 0
        self.counts = {"d": 0, "g": 0, "gp": 0}  # of what `GanStep.totals` adds up

    @property
    def images(self) -> int:
        """Real images shown to the discriminator; steps of G's warm-up count as if they showed some."""
        return self.steps * self.config.step_images

    def train_step(self, reals: Iterator[Tensor]) -> None:
        """``d_steps`` updates of D on as many batches, uint8 (N, C, H, W), then ``g_steps`` updates of G.

        Does not wait for the device.
        """
        config, faces = self.config, reals.faces if isinstance(reals, OnDeviceBatches) else None
        variant = StepVariant.of(config, self.steps, gathers=faces is not None)
        self._fetch(reals, faces, len(variant.penalties))
        factor = self.lr_scale * schedule_factor(config.schedule, self.images, config.images)
        set_rate(self.g.optimizer, config.lr_g * factor)
        set_rate(self.d.optimizer, config.lr_d * factor)
        self.ema.set_decay(config.step_images, self.images + config.step_images)
        self.gan_step.number.fill_(self.steps)
        with self.math():
            if self._graphs and not self._graphs.has(variant):
                # All processes or none: a capture's warm-up has all-reduces in which each has to take part.
                reason = self._graphs.prepare(variant)
                if self.world.any(bool(reason)):
                    self.close()
                    self.no_graphs_reason = reason or "another process could not capture them"
            if self._graphs:
                self._graphs.replay(variant)
            else:
                self.gan_step(variant)
        self.steps += 1
        for name, more in (("d", len(variant.penalties)), ("gp", sum(variant.penalties)), ("g", variant.g_steps)):
            self.counts[name] += more

    def train_step_unless(self, stop: Callable[[], bool], reals: Batches) -> bool:
        """As `train_step`, but calls ``stop`` at each layer: True discards the step and restores the state before it.

        Returns whether the step was finished.
        """
        before, position = Snapshot(self.gan_step, self.tensors()), dict(reals.state_dict())
        try:
            with _ask_at_layers(stop, self.generator, self.discriminator):
                self.train_step(reals)
        except _Discarded:
            before.restore()
            reals.load_state_dict(position)
            return False
        return True

    def math(self) -> AbstractContextManager[None]:
        """How the device computes. Training steps enter it themselves; enter it to draw samples."""
        return gpu_math(self.device, tf32=self.config.tf32, deterministic=self.config.deterministic)

    def close(self) -> None:
        """Frees the CUDA graphs; the state stays."""
        if self._graphs:
            self._graphs.close()
        self._graphs = None

    def _fetch(self, reals: Iterator[Tensor], faces: Tensor | None, batches: int) -> None:
        step, before = self.gan_step, self.gan_step.faces
        step.faces = faces
        if isinstance(reals, OnDeviceBatches) and faces is not None:
            if self._graphs and before is not None and before is not faces:
                self._graphs.close()  # they hold the address of the other images
            for buffer in step.indices[:batches]:
                buffer.copy_(reals.numbers(), non_blocking=True)
        else:
            for buffer, numbers in zip(step.reals[:batches], step.indices, strict=False):
                batch = next(reals)
                if batch.dtype != torch.uint8 or batch.shape != buffer.shape:
                    nan = ", with NaN" if batch.is_floating_point() and bool(batch.isnan().any()) else ""
                    raise DatasetError(
                        f"A batch of faces is {str(batch.dtype).removeprefix('torch.')} {tuple(batch.shape)}{nan}; "
                        f"it must be uint8 {tuple(buffer.shape)}."
                    )
                buffer.copy_(batch, non_blocking=True)
                if len(step.labels):
                    numbers.copy_(cast(LabelledBatches, reals).indices, non_blocking=True)

    def means(self) -> dict[str, float]:
        """Means since `clear_means`; waits for the device and for the other processes, which get the same.

        `facegan.training.log` explains the names. ``gp`` is present with a penalty, ``skipped`` in fp16.
        """
        self.share_totals()
        step = self.gan_step
        sums = dict(zip(step.stats, (step.totals.sum(0) / self.world.size).tolist(), strict=True))
        counts = {name: self.counts["gp" if name == "gp" else "g" if name in TOTALS_G else "d"] for name in sums}
        means = {name: total / max(counts[name], 1) for name, total in sums.items()}
        if not self.config.regularisers:
            del means["gp"]
        if self.precision == "fp16":
            means["skipped"] = step.skipped.item()
        return means

    def share_totals(self) -> None:
        """Each process learns the other processes' totals. Exact, and harmless at any time."""
        if self.world.size > 1:
            totals, rank = self.gan_step.totals, self.world.rank
            own = totals[rank].clone()
            totals.zero_()[rank] = own
            self.world.sum_(totals)

    def clear_means(self) -> None:
        self.gan_step.totals.zero_()
        self.gan_step.skipped.zero_()
        self.counts = dict.fromkeys(self.counts, 0)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state, by name; the tensors themselves, not copies."""
        step = self.gan_step
        parts: dict[str, dict[str, Tensor]] = {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "ema": self.ema.net.state_dict(),
            "optim_g": self.g.tensors(),
            "optim_d": self.d.tensors(),
            "log": {"totals": step.totals, "skipped": step.skipped},
            "loss": {"k": step.k} if step.loss.autoencoder else {},
            "ada": {"p": step.ada_p, "excess": step.ada_excess} if step.is_adaptive else {},
        }
        return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    def scalars(self) -> dict[str, Any]:
        """The rest of the state, as JSON values."""
        return {
            "rounds": self.steps,
            "counts": self.counts,
            "lr_scale": self.lr_scale,
            "scaler": {"generator": self.g.scaler.state_dict(), "discriminator": self.d.scaler.state_dict()},
            "spec": self.spec.to_json(),
        }

    @torch.no_grad()
    def load(self, what: str, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
        """Loads `tensors` and `scalars` of another trainer; ``what`` names them in errors."""
        if differences := NetSpec.of(scalars["spec"]).differences(self.spec):
            raise CheckpointError(
                f"{what} belongs to another architecture: it has {differences[0]}.\n"
                "Use the settings it was made with, or another --run folder."
            )
        own = self.tensors()
        totals, target = tensors.get("log.totals"), own["log.totals"]
        if totals is not None and totals.shape != target.shape and totals.numel() % target.shape[1] == 0:
            # From another number of processes: each starts with the mean, and the next row comes out the same.
            tensors = {**tensors, "log.totals": totals.reshape(-1, target.shape[1]).mean(0).expand(target.shape)}
        require_same_tensors(what, tensors, own)
        # In place: fused Adam needs each moment in the memory layout of its weight (in another layout it would update
        # the wrong elements), and CUDA graphs need each tensor at its address.
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
        self.steps, self.counts, self.lr_scale = scalars["rounds"], dict(scalars["counts"]), scalars["lr_scale"]
        self.g.scaler.load_state_dict(scalars["scaler"]["generator"])
        self.d.scaler.load_state_dict(scalars["scaler"]["discriminator"])


class _Discarded(Exception):
    """A step was stopped half-way."""


@contextmanager
def _ask_at_layers(stop: Callable[[], bool], *nets: nn.Module) -> Iterator[None]:
    """Calls ``stop`` before each layer computes its output or its gradient; raises `_Discarded` on True."""

    def ask(*_: object) -> None:
        if stop():
            raise _Discarded

    def ask_in_backward(layer: nn.Module, inputs: object, output: object) -> None:
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

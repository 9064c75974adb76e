"""Small faces in memory, and a run of them as a process of its own: ``python toy.py RUN SETTINGS``."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from facegan.config import TrainConfig
from facegan.console import Console
from facegan.training import TrainResult, estimate, log, optim, train
from facegan.training.log import read_stats
from facegan.training.precision import Precision
from facegan.training.trainer import Trainer, condition_of, spec_of

SIZE = 32
CPU = torch.device("cpu")


class ToyBatches:
    """Batch b is drawn from (seed, b)."""

    def __init__(
        self, images: Tensor, batch: int, seed: int, fingerprint: str, rank: int = 0, world_size: int = 1
    ) -> None:
        self.share = slice(rank * batch // world_size, (rank + 1) * batch // world_size)
        self.images, self.batch, self.seed, self.fingerprint = images, batch, seed, fingerprint
        self.position = 0
        self.closed = False
        self.indices = torch.zeros(0, dtype=torch.int64)  # of the last batch

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Tensor:
        return self.images[self._chosen().to(self.images.device)]

    def _chosen(self) -> Tensor:
        chosen = np.random.default_rng([self.seed, self.position]).choice(len(self.images), self.batch, replace=False)
        self.position += 1
        self.indices = torch.from_numpy(chosen[self.share])
        return self.indices

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "fingerprint": self.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]

    def describe(self) -> dict[str, Any]:
        return {"cache": "ram"}

    def close(self) -> None:
        self.closed = True


class ToyOnDevice(ToyBatches):
    """The same batches; after the first ``given_batches``, steps gather them."""

    def __init__(self, *given: Any, given_batches: int = 0) -> None:
        super().__init__(*given)
        self.given_batches = given_batches
        self.all = self.images.permute(0, 2, 3, 1).contiguous()

    @property
    def faces(self) -> Tensor | None:
        return self.all if self.position >= self.given_batches else None

    def numbers(self) -> Tensor:
        return self._chosen()


class ToyFaces:
    """Discs of various colours before a dark or light ground: uint8 (3, 32, 32)."""

    def __init__(self, count: int = 200, size: int = SIZE, seed: int = 0, channels: int = 3) -> None:
        self.size, self.channels, self.fingerprint = size, channels, f"toy-{count}-{size}-{seed}"
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[:size, :size]
        images = np.empty((count, 3, size, size), np.uint8)
        for image in images:
            inside = np.hypot(y - size / 2 - rng.normal(0, 1), x - size / 2 - rng.normal(0, 1)) < size * 0.35
            skin, ground = rng.integers(140, 240, (3, 1, 1)), rng.integers(0, 60, (3, 1, 1))
            image[:] = np.where(inside, skin, ground)
        self.images = torch.from_numpy(images[:, :channels])

    def __len__(self) -> int:
        return len(self.images)

    def batches(
        self, batch_size: int, *, seed: int = 0, device: str = "cpu", rank: int = 0, world_size: int = 1
    ) -> ToyBatches:
        return ToyBatches(self.images.to(device), batch_size, seed, self.fingerprint, rank, world_size)


class ToyAttributes(ToyFaces):
    """Toy faces, some of them red, some with a light corner; ``band`` is the colour of the right edge, 0 … 3 for black,
    red, green and blue."""

    def __init__(self, count: int = 200, **given: Any) -> None:
        super().__init__(count, **given)
        rng = np.random.default_rng(1)
        self.table: dict[str, Any] = {
            "Red": rng.random(count) < 0.3,
            "Light": rng.random(count) < 0.5,
            "band": rng.integers(0, 4, count),
        }
        self.table["weight"] = rng.random(count)
        red, light = (torch.from_numpy(self.table[name])[:, None, None] for name in ("Red", "Light"))
        self.images[:, 1:] = torch.where(red[:, None], 0, self.images[:, 1:])
        corners = self.images[:, :, :8, :8]
        corners[:] = torch.where(light[:, None], 255, corners)
        colours = torch.tensor([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]])[torch.from_numpy(self.table["band"])]
        self.images[:, :, :, -8:] = colours[:, :, None, None]

    def attributes(self, names: Sequence[str]) -> pa.Table:
        return pa.table({name: self.table[name] for name in names})


def toy_config(method: str = "dcgan", **given: Any) -> TrainConfig:
    small = {"width": 8, "latent": 16, "batch": 16, "precision": "fp32", "images": 320, "log_every": 32}
    return TrainConfig.for_method(method, **{**small, "save_every": 160, "sample_every": 160, **given})


def toy_train(run: Path, method: str = "dcgan", faces: ToyFaces | None = None, **given: Any) -> TrainResult:
    return toy_run(run, toy_config(method, **given), faces)


def toy_run(run: Path, config: TrainConfig, faces: ToyFaces | None = None, **options: Any) -> TrainResult:
    options = {"device": "cpu", "console": Console(quiet=True), **options}
    # The rates of 16 images, and statistics of 512, would take longer than five steps.
    with mock.patch.object(estimate, "_CPU_BATCH", 4), mock.patch.object(optim, "STATISTICS_BATCHES", 1):
        return train(config, faces or ToyFaces(), run, **options)


def stop_after(*steps: int) -> Callable[[], bool]:
    """Stops after these of all steps, counted over several starts."""
    count = itertools.count(1)
    return lambda: next(count) in steps


@contextlib.contextmanager
def ticking_clock() -> Iterator[None]:
    """Each look at the clock is a millisecond later, however busy the machine is."""
    ticks = itertools.count()
    with mock.patch.object(time, "perf_counter", side_effect=lambda: next(ticks) / 1000):
        yield


def poison(monkeypatch: pytest.MonkeyPatch, at_step: int, times: int = 1) -> None:
    """After this step a weight is NaN, until the learning rates were halved ``times`` times."""
    original = Trainer.train_step

    def then_nan(self: Trainer, reals: Any) -> None:
        original(self, reals)
        if self.steps == at_step and self.lr_scale > 0.5**times:
            with torch.no_grad():
                next(self.generator.parameters())[0].fill_(float("nan"))

    monkeypatch.setattr(Trainer, "train_step", then_nan)


def weights(run: Path) -> bytes:
    return (run / "generator.safetensors").read_bytes()


def toy_trainer(method: str = "dcgan", mode: Precision = "fp32", device: torch.device = CPU, **given: Any) -> Trainer:
    config = toy_config(method, **given)
    condition, labels = condition_of(config, ToyAttributes())
    return Trainer(config, spec_of(config, SIZE, 3, condition), device, mode, labels=labels)


def toy_steps(trainer: Trainer, steps: int = 1) -> Trainer:
    """The trainer after so many steps from the start of the toy faces."""
    reals = (ToyAttributes if trainer.config.condition else ToyFaces)().batches(trainer.config.batch)
    for _ in range(steps):
        trainer.train_step(reals)
    return trainer


def inputs_of(net: nn.Module) -> list[Tensor]:
    """Fills up with a copy of each input of the net."""
    seen: list[Tensor] = []
    net.register_forward_pre_hook(lambda net, inputs: seen.append(inputs[0].detach().clone()))
    return seen


def copy_state(source: Trainer, target: Trainer) -> None:
    target.load("x", {name: tensor.clone() for name, tensor in source.tensors().items()}, source.scalars())


def assert_equal_states(one: Trainer, other: Trainer) -> None:
    theirs = other.tensors()
    assert [name for name, tensor in one.tensors().items() if not torch.equal(tensor, theirs[name])] == []
    assert one.scalars() == other.scalars()


def without_times(run: Path) -> list[dict[str, Any]]:
    """The rows of stats.jsonl without times."""
    times = ("images_per_second", "seconds")
    return [{key: value for key, value in row.items() if key not in times} for row in read_stats(run)]


def steps_of(run: Path, curve: str) -> list[int]:
    """Where TensorBoard shows points of a curve."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return [event.step for event in EventAccumulator(str(run)).Reload().Scalars(curve)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    log.draw_curves = lambda rows: b""  # as in tests/conftest.py
    # Slowly, so that the test's signal comes in the midst of the run.
    toy_run(Path(sys.argv[1]), toy_config(**json.loads(sys.argv[2])), stop=lambda: bool(time.sleep(0.02)))

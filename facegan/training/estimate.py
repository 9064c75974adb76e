"""What a run will take, said before it starts."""

from __future__ import annotations

import gc
import itertools
import time
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from facegan.config import TrainConfig
from facegan.console import human_seconds
from facegan.errors import SettingsError
from facegan.files import human_bytes
from facegan.system import memory_bytes
from facegan.training.trainer import Trainer

_CPU_BATCH = 16  # large enough for the rate to be that of a whole batch, within a fifth
_GRID_IMAGES, _PNG_RATIO = 64, 0.8
_EARLY_GRIDS = 4
_HOUR = 3600.0


@dataclass(frozen=True)
class Estimate:
    """What the rest of a run will take."""

    trainer: Trainer
    done: int  # images
    total: int
    images_per_second: float
    disk_bytes: float

    @classmethod
    def of(cls, trainer: Trainer, done: int, total: int) -> Estimate:
        return cls(trainer, done, total, images_per_second(trainer), disk_bytes(trainer, total))

    @property
    def seconds(self) -> float:
        return (self.total - self.done) / self.images_per_second

    @property
    def on(self) -> str:
        trainer = self.trainer
        on = f"{trainer.device} in {trainer.precision}"
        if trainer.ranks.size > 1:
            on = f"{trainer.ranks.size} processes, {on}"
        if trainer.not_recorded and trainer.device.type != "cpu":
            on += f" without CUDA graphs ({trainer.not_recorded})"
        return on

    def announcement(self) -> str:
        """One sentence: how many images, about how long, how much disk."""
        return (
            f"{self.trainer.config.method}: {self.total - self.done:,} images to go, {self.total:,} in all, on "
            f"{self.on}; about {human_seconds(self.seconds)} and {human_bytes(self.disk_bytes)} of disk."
        )

    def plan(self, run: Path) -> str:
        """The sentence of ``--dry-run``."""
        config = self.trainer.config
        ends = [images // config.save_every for images in (self.done, self.total)]
        checkpoints = ends[1] - ends[0] + (self.total % config.save_every > 0) + (self.done == 0)
        return (
            f"Would train {config.method} in {run} on {self.on}: {self.total - self.done:,} images, about "
            f"{human_seconds(self.seconds)}, {human_bytes(self.disk_bytes)} of disk, {checkpoints:,} checkpoints "
            f"(the last {config.keep} are kept)."
        )

    def advice(self) -> str:
        """On a CPU, where it takes more than an hour: how far an hour goes, and the option for it; else ""."""
        free = "images" in self.trainer.config.free_on_resume
        if self.trainer.device.type != "cpu" or self.seconds <= _HOUR or (self.done and not free):
            return ""
        hour = self.images_per_second * _HOUR
        again = "" if free else " --resume never"  # the schedule depends on it
        return (
            f"On this CPU one hour is about {_two_digits(hour):,} images: "
            f"add --images {_short(_two_digits(self.done + hour))}{again}."
        )


def _two_digits(images: float) -> int:
    """Rounded down to two digits; 1 at least."""
    step = 10 ** max(len(str(int(images))) - 2, 0)
    return max(int(images) // step * step, 1)


def _short(images: int) -> str:
    """As ``--images`` takes it: 470k, 9300."""
    return f"{images // 1000}k" if images % 1000 == 0 else str(images)


def images_per_second(trainer: Trainer) -> float:
    """Measured on nets that are thrown away, with random images: nothing of the run is touched."""
    config, ranks = trainer.config, trainer.ranks
    batch = config.batch // ranks.size
    changes: dict[str, Any] = {"d_warmup_images": 0, "g_warmup_images": 0, "penalty_every": 1}  # rounds of one kind
    if trainer.device.type == "cpu":
        batch = min(batch, _CPU_BATCH)
        changes["grad_accum_steps"] = 1
    config = TrainConfig.of({**config.model_dump(), **changes, "batch": batch})
    probe = Trainer(config, trainer.spec, trainer.device, trainer.precision)
    shape = (batch, trainer.spec.channels, trainer.spec.size, trainer.spec.size)
    reals = itertools.repeat(torch.full(shape, 127, dtype=torch.uint8, device=trainer.device))
    probe.round(reals)
    probe.means()  # waits for the device
    start = time.perf_counter()
    probe.round(reals)
    probe.means()
    seconds = time.perf_counter() - start
    probe.close()
    if probe.device.type == "cuda":  # its nets would else take up room until Python's collector comes by
        del probe
        gc.collect()
        torch.cuda.empty_cache()
    return ranks.size * config.round_images / seconds


def disk_bytes(trainer: Trainer, total_images: int) -> float:
    config, size = trainer.config, trainer.spec.size
    checkpoint = sum(tensor.nbytes for tensor in trainer.tensors().values())
    checkpoint += sum(parameter.nbytes for parameter in trainer.ema.net.parameters())  # its generator's file
    kept = min(config.keep, total_images // config.save_every + 1) + 1  # one more while it is being written
    kept += len(config.milestones) + (config.eval_every > 0)  # the best
    # A grid lies in samples/ and again in TensorBoard's file.
    grids = (total_images // config.sample_every + 2 + _EARLY_GRIDS) * 2 * _GRID_IMAGES * 3 * size * size * _PNG_RATIO
    return kept * checkpoint + grids


# Batches that do not fit into memory: what to say, and which would.

# As CUDA, PyTorch's CPU allocator and oneDNN say it; then cuBLAS and cuDNN, which have memory of their own.
_WORDS = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "could not create a memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


@contextmanager
def explain_out_of_memory(trainer: Trainer) -> Iterator[None]:
    """Turns a device's cry for memory into a sentence with the batch size that fits, found by trying.

    Raises:
        SettingsError: the batch is too large for the device.
    """
    try:
        yield
        return
    except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
        if not _is_about_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the tensors that filled the memory
    raise SettingsError(_sentence(trainer))


def _is_about_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error) for words in _WORDS)


def _sentence(trainer: Trainer) -> str:
    trainer.work.forget()
    trainer.close()  # its recordings' memory
    config, size = trainer.config, trainer.ranks.size
    place = f"the memory of {trainer.device} ({human_bytes(_has_bytes(trainer.device))})"
    in_parts = f", in {config.grad_accum_steps} parts," if config.grad_accum_steps > 1 else ""
    too_large = f"--batch {config.batch}{in_parts} does not fit into {place}"
    part = config.batch // size // config.grad_accum_steps
    fits = next((smaller for smaller in _halves(part) if _fits(trainer, smaller)), None)
    if fits is None:
        return f"{too_large}, nor does a single image.\nUse narrower nets (--set train.width=…) or another --device."
    parts = next(n for n in itertools.count(2) if config.batch % (n * size) == 0 and config.batch // n // size <= fits)
    return (
        f"{too_large}; {fits * size} images at once do.\n"
        f"Begin anew (--resume never) with --batch {fits * size * config.grad_accum_steps}, or with "
        f"--set train.grad_accum_steps={parts} to compute the same batch in parts."
    )


def _halves(count: int) -> Iterator[int]:
    while count > 1:
        count //= 2
        yield count


def _fits(trainer: Trainer, images: int) -> bool:
    """Whether a round of so many images passes, on nets that are thrown away."""
    gc.collect()
    if trainer.device.type == "cuda":
        torch.cuda.empty_cache()
    changes = {"batch": images, "grad_accum_steps": 1, "d_warmup_images": 0, "g_warmup_images": 0}
    config = TrainConfig.of({**trainer.config.model_dump(), **changes})
    shape = (images, trainer.spec.channels, trainer.spec.size, trainer.spec.size)
    try:
        with closing(Trainer(config, trainer.spec, trainer.device, trainer.precision)) as probe:  # recorded, too
            probe.round(itertools.repeat(torch.zeros(shape, dtype=torch.uint8, device=trainer.device)))
            probe.means()  # waits for the device
    except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
        if not _is_about_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
        return False
    return True


def _has_bytes(device: torch.device) -> float:
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else memory_bytes()

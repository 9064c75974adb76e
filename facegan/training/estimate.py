"""How long a run will take and how much disk, before it starts; and which batch fits into memory."""

from __future__ import annotations

import gc
import itertools
import re
import time
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from facegan.config import TrainConfig
from facegan.console import human_seconds
from facegan.errors import SettingsError
from facegan.files import human_bytes
from facegan.system import memory_bytes
from facegan.training.distributed import SINGLE, World
from facegan.training.trainer import Trainer

_CPU_BATCH = 16  # large enough to predict the rate of a whole batch within a fifth
_GRID_IMAGES, _EARLY_GRIDS, _PNG_RATIO = 64, 4, 0.8
_HOUR = 3600.0
_NEVER = 2**30  # steps between penalties: the first has one
_USUAL_P = 0.1  # of adaptive augmentation, in BENCHMARKS.md's trainings of half an hour


@dataclass(frozen=True)
class Estimate:
    """What the rest of a run will take."""

    trainer: Trainer
    done: int  # images
    total: int
    images_per_second: float
    disk_bytes: float

    @classmethod
    def of(cls, trainer: Trainer, done: int, total: int, images_per_second: float = 0.0) -> Estimate:
        """``images_per_second`` is measured unless it is given."""
        return cls(trainer, done, total, images_per_second or measured_rate(trainer), _disk_bytes(trainer, total))

    @property
    def seconds(self) -> float:
        return (self.total - self.done) / self.images_per_second

    @property
    def on(self) -> str:
        trainer = self.trainer
        on = f"{trainer.device} in {trainer.precision}"
        if trainer.world.size > 1:
            on = f"{trainer.world.size} processes, {on}"
        if trainer.no_graphs_reason and trainer.device.type != "cpu":
            on += f" without CUDA graphs ({trainer.no_graphs_reason})"
        return on

    def announcement(self) -> str:
        return (
            f"{self.trainer.config.method}: {self.total - self.done:,} images to go, {self.total:,} in all, on "
            f"{self.on}; about {human_seconds(self.seconds)} and {human_bytes(self.disk_bytes)} of disk."
        )

    def plan(self, run: Path, time: str = "") -> str:
        """The sentence of ``--dry-run``. ``time``: the length, where it is one."""
        config, length = self.trainer.config, f"{self.total - self.done:,} images, about {human_seconds(self.seconds)}"
        if time:
            length = f"{time}, about {self.total:,} images (measured at the start)"
        ends = [images // config.save_every for images in (self.done, self.total)]
        checkpoints = ends[1] - ends[0] + (self.total % config.save_every > 0) + (self.done == 0)
        return (
            f"Would train {config.method} in {run} on {self.on}: {length}, {human_bytes(self.disk_bytes)} of disk, "
            f"{checkpoints:,} checkpoints (the last {config.keep} are kept)."
        )

    def advice(self) -> str:
        """On a CPU that needs more than an hour: the --images that take an hour; else ""."""
        free = "images" in self.trainer.config.free_on_resume
        if self.trainer.device.type != "cpu" or self.seconds <= _HOUR or (self.done and not free):
            return ""
        hour, end = (two_digits(images + self.images_per_second * _HOUR) for images in (0, self.done))
        short = f"{end // 1000}k" if end % 1000 == 0 else str(end)
        again = "" if free else " --resume never"  # the schedule depends on it
        made_for_it = "" if self.done or self.trainer.config.method == "fast" else " --method fast is made for an hour."
        return f"On this CPU one hour is about {hour:,} images: add --images {short}{again}.{made_for_it}"


def free_memory(device: torch.device) -> None:
    """Returns the memory of deleted nets to the GPU."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def two_digits(images: float) -> int:
    """Rounded down to two digits; 1 at least."""
    step = 10 ** max(len(str(int(images))) - 2, 0)
    return max(int(images) // step * step, 1)


def measured_rate(trainer: Trainer) -> float:
    """Measured on throw-away nets with constant images; changes nothing of the run."""
    config, world = trainer.config, trainer.world
    on_cpu = trainer.device.type == "cpu"
    batch = min(config.batch // world.size, _CPU_BATCH) if on_cpu else config.batch // world.size
    accumulation = {"grad_accum_steps": 1} if on_cpu else {}

    def seconds(**penalty_every: int) -> float:
        with closing(probe_of(trainer, batch=batch, **accumulation, **penalty_every)) as probe:
            _step(probe)
            start = time.perf_counter()
            _step(probe)
            took = time.perf_counter() - start
        if not on_cpu:
            del probe  # its nets would otherwise occupy GPU memory until Python's collector runs
            free_memory(trainer.device)
        return took

    if config.regularisers and config.penalty_every > 1:
        penalised, plain = seconds(penalty_every=1), seconds(penalty_every=_NEVER)
        mean = plain + (penalised - plain) / config.penalty_every
    else:
        mean = seconds()
    return world.size * batch * config.d_steps / mean


def _disk_bytes(trainer: Trainer, total_images: int) -> float:
    config, size = trainer.config, trainer.spec.size
    tensors = [*trainer.tensors().values(), *trainer.ema.net.parameters()]  # the latter in the generator's file
    checkpoint = sum(tensor.nbytes for tensor in tensors)
    kept = min(config.keep, total_images // config.save_every + 1) + 1  # one more while it is being written
    kept += len(config.milestones) + (config.eval_every > 0)  # the best
    # Each grid is in samples/ and in TensorBoard's file.
    grids = (total_images // config.sample_every + 2 + _EARLY_GRIDS) * 2 * _GRID_IMAGES * 3 * size * size * _PNG_RATIO
    return kept * checkpoint + grids


# Errors of CUDA, PyTorch's CPU allocator and oneDNN; then of cuBLAS and cuDNN, which have memory of their own.
_MEMORY_ERRORS = "(out of|not enough|can't allocate|could not create a) memory|CU(BLAS|DNN)_STATUS_ALLOC_FAILED"


@contextmanager
def explain_out_of_memory(trainer: Trainer) -> Iterator[None]:
    """Turns an out-of-memory error into a SettingsError that names the batch size that fits, found by trying."""
    try:
        yield
        return
    except (RuntimeError, MemoryError) as error:
        _require_memory_error(error)
    trainer.close()  # the memory of its CUDA graphs
    config, processes, device = trainer.config, trainer.world.size, trainer.device
    memory = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else memory_bytes()
    in_parts = f", in {config.grad_accum_steps} parts," if config.grad_accum_steps > 1 else ""
    problem = f"--batch {config.batch}{in_parts} does not fit into the memory of {device} ({human_bytes(memory)})"
    part = config.batch // processes // config.grad_accum_steps
    halves = (part >> shift for shift in range(1, part.bit_length()))
    fits = next((images for images in halves if _fits(trainer, images)), None)
    if fits is None:
        raise SettingsError(
            f"{problem}, nor does a single image.\nUse narrower nets (--set train.width=…) or another --device."
        )
    steps = next(
        n for n in itertools.count(2) if config.batch % (n * processes) == 0 and config.batch // n // processes <= fits
    )
    raise SettingsError(
        f"{problem}; {fits * processes} images at once do.\n"
        f"Start again (--resume never) with --batch {fits * processes * config.grad_accum_steps}, or with "
        f"--set train.grad_accum_steps={steps} to compute the same batch in parts."
    )


def _require_memory_error(error: BaseException) -> None:
    """Raises all others again."""
    if not isinstance(error, torch.OutOfMemoryError | MemoryError) and not re.search(_MEMORY_ERRORS, str(error)):
        raise error
    traceback.clear_frames(error.__traceback__)  # they hold the tensors that filled the memory


def _fits(trainer: Trainer, images: int) -> bool:
    """Whether a step of so many images succeeds, on throw-away nets."""
    gc.collect()
    torch.cuda.empty_cache()
    try:
        with closing(probe_of(trainer, batch=images, grad_accum_steps=1)) as probe:  # with CUDA graphs, too
            _step(probe)
    except (RuntimeError, MemoryError) as error:
        _require_memory_error(error)
        return False
    return True


def probe_of(trainer: Trainer, world: World = SINGLE, /, **changes: int) -> Trainer:
    """A trainer with fresh nets and other settings, without warm-ups, as all steps are alike; adaptive augmentation
    has a usual probability, as steps at 0 are faster on a CPU."""
    changes |= {"d_warmup_images": 0, "g_warmup_images": 0}
    config = TrainConfig.of({**trainer.config.model_dump(), **changes})
    probe = Trainer(config, trainer.spec, trainer.device, trainer.precision, world, trainer.gan_step.labels)
    probe.gan_step.ada_p.fill_(_USUAL_P)
    return probe


class _Constant(Iterator[Tensor]):
    """The same batch again and again, as if it were of the first face."""

    def __init__(self, batch: Tensor) -> None:
        self._batch = batch
        self.indices = torch.zeros(len(batch), dtype=torch.int64, device=batch.device)

    def __next__(self) -> Tensor:
        return self._batch


def _step(probe: Trainer) -> None:
    spec, config = probe.spec, probe.config
    shape = (config.batch, spec.channels, spec.size, spec.size)
    probe.train_step(_Constant(torch.full(shape, 127, dtype=torch.uint8, device=probe.device)))
    probe.means()  # waits for the device

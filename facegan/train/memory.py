"""Batches that do not fit into memory: what to say, and which would."""

from __future__ import annotations

import gc
import itertools
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager

import torch

from facegan.config import TrainConfig
from facegan.errors import SettingsError
from facegan.files import human_bytes
from facegan.machine import memory_bytes
from facegan.train.rounds.step import Trainer

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
def told_if_too_large(trainer: Trainer) -> Iterator[None]:
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
    in_parts = f", in {config.accumulate} parts," if config.accumulate > 1 else ""
    too_large = f"--batch {config.batch}{in_parts} does not fit into {place}"
    part = config.batch // size // config.accumulate
    fits = next((smaller for smaller in _halves(part) if _fits(trainer, smaller)), None)
    if fits is None:
        return f"{too_large}, nor does a single image.\nUse narrower nets (--set train.width=…) or another --device."
    parts = next(n for n in itertools.count(2) if config.batch % (n * size) == 0 and config.batch // n // size <= fits)
    return (
        f"{too_large}; {fits * size} images at once do.\n"
        f"Begin anew (--resume never) with --batch {fits * size * config.accumulate}, or with "
        f"--set train.accumulate={parts} to compute the same batch in parts."
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
    changes = {"batch": images, "accumulate": 1, "d_head_start": 0, "g_head_start": 0}
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

"""What a run will take, said before it starts."""

from __future__ import annotations

import gc
import itertools
import time
from typing import Any

import torch

from facegan.config import TrainConfig
from facegan.console import human_seconds
from facegan.files import human_bytes
from facegan.train.rounds.step import Trainer

_CPU_BATCH = 16  # large enough for the rate to be that of a whole batch, within a fifth
_GRID_IMAGES, _PNG_RATIO = 64, 0.8


def announce(trainer: Trainer, total_images: int) -> str:
    """One sentence: how many images, about how long, how much disk."""
    config, left = trainer.config, total_images - trainer.images
    seconds = left / images_per_second(trainer)
    on = f"{trainer.device} in {trainer.precision}"
    if trainer.ranks.size > 1:
        on = f"{trainer.ranks.size} processes, {on}"
    if trainer.not_recorded and trainer.device.type != "cpu":
        on += f" without CUDA graphs ({trainer.not_recorded})"
    return (
        f"{config.method}: {left:,} images to go, {total_images:,} in all, on {on}; about {human_seconds(seconds)} "
        f"and {human_bytes(disk_bytes(trainer, total_images))} of disk."
    )


def images_per_second(trainer: Trainer) -> float:
    """Measured on nets that are thrown away, with random images: nothing of the run is touched."""
    config, ranks = trainer.config, trainer.ranks
    batch = config.batch // ranks.size
    changes: dict[str, Any] = {"d_head_start": 0, "g_head_start": 0, "penalty_every": 1}  # rounds of one kind
    if trainer.device.type == "cpu":
        batch = min(batch, _CPU_BATCH)
        changes["accumulate"] = 1
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
    grids = (total_images // config.sample_every + 2) * 2 * _GRID_IMAGES * 3 * size * size * _PNG_RATIO
    return kept * checkpoint + grids

"""Samples of a trained generator as files: a grid, single images, a dataset, or an animation."""

from __future__ import annotations

from pathlib import Path

from facegan.config import SampleConfig
from facegan.files import require_empty
from facegan.nets.weights import read_generator
from facegan.sample.dataset import write_shards
from facegan.sample.generate import SAMPLES, Latents, best_of, checkpoints_of, make_latents
from facegan.sample.images import refuse_large_picture, write_grid, write_pictures
from facegan.sample.interpolate import (
    PROGRESS_SAMPLES,
    make_interpolation,
    refuse_large_interpolation,
    refuse_large_progress,
    write_interpolation,
    write_progress,
)
from facegan.sample.video import Animation, check_animation

__all__ = [
    "Animation",
    "Latents",
    "best_of",
    "check_animation",
    "count_samples",
    "make_latents",
    "write_grid",
    "write_interpolation",
    "write_pictures",
    "write_progress",
    "write_shards",
]


def count_samples(run: Path, kind: str, target: Path, config: SampleConfig) -> tuple[int, str]:
    """The number of samples that ``target`` would have, and the nets that would draw them. Writes nothing, and imports
    no user code.

    Args:
        kind: of target: out, dir, shards, interpolate or training_progress.

    Raises:
        FaceganError: whatever drawing them would raise before it starts.
    """
    if kind in ("dir", "shards"):
        require_empty(target)
    progress = kind == "training_progress"
    checkpoints = checkpoints_of(run) if progress else []
    _, _, spec = read_generator(checkpoints[0][1] if progress else run)
    if kind == "interpolate":
        walk = make_interpolation(config, spec)
        refuse_large_interpolation(walk, spec, target)
        return walk.keyframes, spec.name
    count = len(make_latents(config, spec, PROGRESS_SAMPLES if progress else SAMPLES))
    if kind == "out":
        refuse_large_picture(count, spec)
    if progress:
        refuse_large_progress(count, len(checkpoints), spec, target)
    return count, spec.name

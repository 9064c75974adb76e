"""Samples of a trained generator as files: a grid, single images, a dataset, or an animation."""

from __future__ import annotations

from pathlib import Path

from facegan.files import require_empty
from facegan.nets.weights import read_generator
from facegan.sample.generate import SampleRequest, best_of, checkpoints_of
from facegan.sample.interpolate import make_interpolation, progress_latents, write_interpolation, write_progress
from facegan.sample.latents import make_latents
from facegan.sample.video import Animation, check_animation
from facegan.sample.write import grid_latents, write_grid, write_pictures, write_shards

__all__ = [
    "Animation",
    "SampleRequest",
    "best_of",
    "check_animation",
    "count_samples",
    "write_grid",
    "write_interpolation",
    "write_pictures",
    "write_progress",
    "write_shards",
]


def count_samples(request: SampleRequest, kind: str, target: Path) -> tuple[int, str]:
    """The number of samples that ``target`` would have, and the nets that would draw them. Writes nothing, and imports
    no user code.

    Args:
        kind: of target: out, dir, shards, interpolate or training_progress.

    Raises:
        FaceganError: whatever drawing them would raise before it starts.
    """
    if kind in ("dir", "shards"):
        require_empty(target)
    checkpoints = checkpoints_of(request.run) if kind == "training_progress" else [request.run]
    config, spec = request.config, read_generator(checkpoints[0])[2]
    if kind == "training_progress":
        return progress_latents(config, spec, target, len(checkpoints)).count, spec.name
    step = request.step(spec)
    if kind == "interpolate":
        return make_interpolation(config, spec, target, step).keyframes, spec.name
    return (
        grid_latents(config, spec, step) if kind == "out" else make_latents(config, spec, step=step)
    ).count, spec.name

"""What `facegan sample` would do, found out without drawing anything."""

from __future__ import annotations

from pathlib import Path

from facegan.config import SampleConfig
from facegan.files import refuse_filled
from facegan.nets.weights import read_generator
from facegan.train.sample import grown, pictures
from facegan.train.sample.latents import latents_of
from facegan.train.sample.limits import refuse_large_picture
from facegan.train.sample.runs import checkpoints_of
from facegan.train.sample.walk import refuse_large_walk, walk_of


def count_samples(run: Path, kind: str, target: Path, config: SampleConfig) -> tuple[int, str]:
    """How many samples a ``kind`` of target (out, dir, shards, interpolate, grow) would hold, and which nets draw them.
    Touches nothing, and imports no nets of somebody's own.

    Raises:
        FaceganError: whatever drawing them would raise before it begins.
    """
    if kind in ("dir", "shards"):
        refuse_filled(target)
    checkpoints = checkpoints_of(run) if kind == "grow" else []
    _, _, spec = read_generator(checkpoints[0][1] if checkpoints else run)
    if kind == "interpolate":
        walk = walk_of(config, spec)
        refuse_large_walk(walk, spec, target)
        return len(walk.stops), spec.name
    count = len(latents_of(config, spec, grown.SAMPLES if kind == "grow" else pictures.SAMPLES))
    if kind == "out":
        refuse_large_picture(count, spec)
    if kind == "grow":
        grown.refuse_large_rows(count, len(checkpoints) if target.suffix.lower() == ".png" else 0, spec)
    return count, spec.name

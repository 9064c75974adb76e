"""What `facegan sample` would do, found out without drawing anything."""

from __future__ import annotations

from pathlib import Path

from facegan.config import SampleConfig
from facegan.files import refuse_filled
from facegan.nets import load_generator
from facegan.train.sample import grown, pictures
from facegan.train.sample.latents import latents_of
from facegan.train.sample.runs import checkpoints_of
from facegan.train.sample.walk import walk_of


def count_samples(run: Path, kind: str, target: Path, config: SampleConfig) -> int:
    """How many samples a ``kind`` of target (out, dir, shards, interpolate, grow) would hold. Touches nothing.

    Raises:
        FaceganError: whatever drawing them would raise before it begins.
    """
    if kind in ("dir", "shards"):
        refuse_filled(target)
    spec = load_generator(checkpoints_of(run)[0][1] if kind == "grow" else run).spec
    if kind == "interpolate":
        return len(walk_of(config, spec).stops)
    return len(latents_of(config, spec, grown.SAMPLES if kind == "grow" else pictures.SAMPLES))

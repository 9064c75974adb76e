"""A walk through latents, from face to face and back to the first, as a film.

N latents, Z length of a latent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from facegan.config import Law, SampleConfig
from facegan.console import Console
from facegan.errors import SettingsError
from facegan.nets import NetSpec
from facegan.own import Trust
from facegan.train.grid import tiled
from facegan.train.sample.draw import Pixels, drawn, numbered, open_generator
from facegan.train.sample.film import Film, write_film
from facegan.train.sample.latents import Latents, latents_of
from facegan.train.sample.limits import refuse_large_picture, refuse_long_film

FACES = 8  # visited, where the settings do not say
FPS = 24.0
_SMALL = 1e-4  # sine of an angle below which the great circle between two latents is not told by them


def write_walk(
    run: Path,
    out: Path,
    config: SampleConfig | None = None,
    *,
    device: str = "auto",
    console: Console | None = None,
    trust_code: Trust = False,
) -> Film:
    """A film (.gif, .webp or .mp4) of walks through the latents, one beside the other; it ends where it began.

    Walk w of W visits latents w·n … w·n + n − 1, and shows each as it is; ``config.frames`` frames lie from one to the
    next. Between normal latents it goes by `slerp`, so that no latent on the way is shorter than those that the
    generator has seen; the same on the sphere; between uniform ones straight, so that it stays inside their cube.

    Raises:
        SettingsError: as `walk_of`; ``out`` is no film, or can't hold so much; ffmpeg is missing.
        CheckpointError, DiskError: as for `write_grid`.
    """
    config = config or SampleConfig()
    generator = open_generator(run, device, trust_code)
    walk = walk_of(config, generator.spec)
    refuse_large_walk(walk, generator.spec, out)
    batches = numbered(drawn(generator, walk), walk.walks)
    frames, count, fps = (_frame(images) for _, images in batches), len(walk) // walk.walks, config.fps or FPS
    write_film(out, frames, count, fps, console or Console(quiet=True))
    return Film(len(walk.stops), count, fps)


def refuse_large_walk(walk: Walk, spec: NetSpec, out: Path) -> None:
    """
    Raises:
        SettingsError: a frame, or all of them, are more than a film can hold.
    """
    refuse_large_picture(walk.walks, spec)
    if out.suffix.lower() != ".mp4":
        refuse_long_film(len(walk) // walk.walks, walk.walks, spec)


def walk_of(config: SampleConfig, spec: NetSpec) -> Walk:
    """
    Raises:
        SettingsError: there are fewer than two latents a walk, or they can't be shared evenly.
    """
    if not (config.seeds or config.latents):
        config = config.model_copy(update={"n": (config.n or FACES) * config.walks})
    return Walk(latents_of(config, spec, FACES), config.walks, config.frames, spec.law)


def _frame(images: Pixels) -> Pixels:
    return images[0] if len(images) == 1 else tiled(images)


@dataclass(frozen=True)
class Walk:
    """The latents of every frame, the walks of one frame together."""

    stops: Latents
    walks: int
    frames: int
    law: Law

    def __post_init__(self) -> None:
        if len(self.stops) % self.walks:
            raise SettingsError(f"--walks {self.walks}: {len(self.stops):,} latents can't be shared evenly by them.")
        if self.visited < 2:
            raise SettingsError("--interpolate needs two faces and more to go between: give a larger --n.")

    @property
    def visited(self) -> int:
        return len(self.stops) // self.walks

    def __len__(self) -> int:
        return len(self.stops) * self.frames

    def rows(self, first: int, count: int) -> Tensor:
        return torch.cat(list(self._rows(first, count)))

    def _rows(self, first: int, count: int) -> Iterator[Tensor]:
        """Numbers run over the walks of a frame, then over frames."""
        for number in range(first, first + count):
            frame, walk = divmod(number, self.walks)
            stop, step = divmod(frame, self.frames)
            ends = [walk * self.visited + i % self.visited for i in (stop, stop + 1)]
            a, b = (self.stops.rows(i, 1) for i in ends)
            between = slerp if self.law in ("normal", "sphere") else torch.lerp
            yield between(a, b, step / self.frames)

    def name(self, number: int) -> str:
        return f"frame-{number // self.walks:06d}-{number % self.walks}"


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Spherical linear interpolation (Shoemake 1985; for latents: White 2016), of rows (N, Z):
    sin((1 − t)θ) / sin θ · a + sin(tθ) / sin θ · b with θ the angle between a and b.

    Computed in float64. Where a and b point the same way it is straight; where they are opposite it goes over an axis
    at right angles, which is the same each time.
    """
    if share == 0:
        return a
    first, second = a.double(), b.double()
    lengths = first.norm(dim=1, keepdim=True), second.norm(dim=1, keepdim=True)
    cosine = (first * second).sum(1, keepdim=True) / (lengths[0] * lengths[1]).clamp(min=1e-300)
    angle = cosine.clamp(-1, 1).arccos()
    sine = angle.sin()
    round_ = (((1 - share) * angle).sin() * first + (share * angle).sin() * second) / sine.clamp(min=_SMALL)
    straight = torch.lerp(first, second, share)
    opposite = np.cos(np.pi * share) * first + np.sin(np.pi * share) * _beside(first)
    opposite = opposite * (1 + share * (lengths[1] / lengths[0].clamp(min=1e-300) - 1))
    near = torch.where(cosine > 0, straight, opposite if a.shape[1] > 1 else straight)
    return torch.where(sine > _SMALL, round_, near).to(a.dtype)


def _beside(a: Tensor) -> Tensor:
    """At right angles to the rows of ``a``, and as long."""
    axis = torch.zeros_like(a).scatter_(1, a.abs().argmin(1, keepdim=True), 1.0)
    length = a.norm(dim=1, keepdim=True)
    unit = a / length.clamp(min=1e-300)
    return torch.nn.functional.normalize(axis - (axis * unit).sum(1, keepdim=True) * unit, dim=1) * length

"""A walk through latents, from face to face and back to the first, as a film.

N latents, Z length of a latent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from facegan.config import LatentDistribution, SampleConfig
from facegan.console import Console
from facegan.errors import SettingsError
from facegan.nets import NetSpec
from facegan.plugins import Trust
from facegan.sample.generate import (
    Latents,
    Pixels,
    make_latents,
    numbered,
    open_generator,
    sample_batches,
    save_png,
    tiled,
)
from facegan.sample.images import checkpoints_of, refuse_large_picture, refuse_long_animation
from facegan.sample.video import Animation, write_animation

FACES = 8  # visited, where the settings do not say
FPS = 24.0
_SMALL = 1e-4  # sine of an angle below which the great circle between two latents is not told by them


def write_interpolation(
    run: Path,
    out: Path,
    config: SampleConfig | None = None,
    *,
    device: str = "auto",
    console: Console | None = None,
    trust_code: Trust = False,
) -> Animation:
    """A film (.gif, .webp or .mp4) of walks through the latents, one beside the other; it ends where it began.

    Walk w of W visits latents w·n … w·n + n − 1, and shows each as it is; ``config.frames`` frames lie from one to the
    next. Between normal latents it goes by `slerp`, so that no latent on the way is shorter than those that the
    generator has seen; the same on the sphere; between uniform ones straight, so that it stays inside their cube.

    Raises:
        SettingsError: as `make_interpolation`; ``out`` is no film, or can't hold so much; ffmpeg is missing.
        CheckpointError, DiskError: as for `write_grid`.
    """
    config = config or SampleConfig()
    generator = open_generator(run, device, trust_code)
    walk = make_interpolation(config, generator.spec)
    refuse_large_interpolation(walk, generator.spec, out)
    batches = numbered(sample_batches(generator, walk), walk.walks)
    frames, count, fps = (_frame(images) for _, images in batches), len(walk) // walk.walks, config.fps or FPS
    write_animation(out, frames, count, fps, console or Console(quiet=True))
    return Animation(len(walk.stops), count, fps)


def refuse_large_interpolation(walk: Interpolation, spec: NetSpec, out: Path) -> None:
    """
    Raises:
        SettingsError: a frame, or all of them, are more than a film can hold.
    """
    refuse_large_picture(walk.walks, spec)
    if out.suffix.lower() != ".mp4":
        refuse_long_animation(len(walk) // walk.walks, walk.walks, spec)


def make_interpolation(config: SampleConfig, spec: NetSpec) -> Interpolation:
    """
    Raises:
        SettingsError: there are fewer than two latents a walk, or they can't be shared evenly.
    """
    if not (config.seeds or config.latents):
        config = config.model_copy(update={"n": (config.n or FACES) * config.walks})
    return Interpolation(make_latents(config, spec, FACES), config.walks, config.frames, spec.law)


def _frame(images: Pixels) -> Pixels:
    return images[0] if len(images) == 1 else tiled(images)


@dataclass(frozen=True)
class Interpolation:
    """The latents of every frame, the walks of one frame together."""

    stops: Latents
    walks: int
    frames: int
    law: LatentDistribution

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


# How a generator learnt: the same latents through all checkpoints of a run, as a film or one picture.

PROGRESS_SAMPLES = 16  # where the settings do not say how many
PROGRESS_FPS = 2.0
_PAPER, _INK = 255, 40
_TEXT_PX, _MARGIN_PX = 11, 4


def write_progress(
    run: Path,
    out: Path,
    config: SampleConfig | None = None,
    *,
    device: str = "auto",
    console: Console | None = None,
    trust_code: Trust = False,
) -> Animation:
    """A film (.gif, .webp, .mp4), a frame a checkpoint, the last for a second; or a .png, a row a checkpoint.

    Raises:
        CheckpointError: the run has fewer than two checkpoints; else what `write_walk` raises.
    """
    config, console = config or SampleConfig(), console or Console(quiet=True)
    seen = checkpoints_of(run)
    rows = len(seen) if out.suffix.lower() == ".png" else 0
    images = [_images(path, config, device, rows, trust_code) for _, path in seen]
    titles = [f"{count:,} images" for count, _ in seen]
    if out.suffix.lower() == ".png":
        rows = [tiled(row, columns=len(row)) for row in images]
        width = max(map(text_width, titles)) + 2 * _MARGIN_PX
        beside = [_label(title, width, row.shape[0], row.shape[2]) for title, row in zip(titles, rows, strict=True)]
        lines = [np.concatenate(pair, axis=1) for pair in zip(beside, rows, strict=True)]
        save_png(out, np.concatenate(lines))
        return Animation(len(images[0]), len(seen), 0.0)
    frames = [_with_title(tiled(grid), title) for grid, title in zip(images, titles, strict=True)]
    fps = config.fps or PROGRESS_FPS
    frames += [frames[-1]] * (max(1, round(fps)) - 1)
    write_animation(out, iter(frames), len(frames), fps, console)
    return Animation(len(images[0]), len(frames), fps)


def _images(checkpoint: Path, config: SampleConfig, device: str, rows: int, trust_code: Trust) -> Pixels:
    """``rows``: of the picture that they go into; 0 where they are one frame of a film."""
    generator = open_generator(checkpoint, device, trust_code)
    latents = make_latents(config, generator.spec, PROGRESS_SAMPLES)
    refuse_large_rows(len(latents), rows, generator.spec)
    return np.concatenate(list(sample_batches(generator, latents)))


def refuse_large_rows(samples: int, rows: int, spec: NetSpec) -> None:
    """
    Args:
        rows: of so many samples; 0 for one frame of a film.

    Raises:
        SettingsError: they are more than a picture can hold.
    """
    refuse_large_picture(samples * max(rows, 1), spec, samples if rows else None)


def text_width(text: str) -> int:
    return int(np.ceil(ImageFont.load_default(_TEXT_PX).getlength(text)))


def _with_title(picture: Pixels, title: str) -> Pixels:
    """The picture over its title; wide enough for both."""
    width = max(picture.shape[1], text_width(title) + 2 * _MARGIN_PX)
    paper = np.full((picture.shape[0], width, picture.shape[2]), _PAPER, np.uint8)
    left = (width - picture.shape[1]) // 2
    paper[:, left : left + picture.shape[1]] = picture
    return np.concatenate([paper, _label(title, width, _TEXT_PX + 2 * _MARGIN_PX, picture.shape[2])])


def _label(text: str, width: int, height: int, channels: int) -> Pixels:
    paper = Image.new("L", (width, height), _PAPER)
    # Pillow's own font: the same picture on every machine.
    at = (_MARGIN_PX, (height - _TEXT_PX) // 2 - 1)
    ImageDraw.Draw(paper).text(at, text, _INK, ImageFont.load_default(_TEXT_PX))
    return np.repeat(np.asarray(paper)[..., None], channels, axis=2)

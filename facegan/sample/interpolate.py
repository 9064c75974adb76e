"""Animations from a generator: from face to face through its latents, and the same latents through training.

N latents, Z length of a latent.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from facegan.config import SampleConfig
from facegan.console import Console
from facegan.errors import SettingsError
from facegan.nets import NetSpec
from facegan.plugins import Trust
from facegan.sample.generate import (
    Latents,
    Pixels,
    checkpoints_of,
    make_latents,
    open_generator,
    rebatch,
    sample_batches,
    save_png,
    tile,
)
from facegan.sample.images import refuse_large_picture
from facegan.sample.video import Animation, refuse_long_animation, write_animation

FACES, FPS = 8, 24.0  # of an interpolation, if the settings give none
PROGRESS_SAMPLES, PROGRESS_FPS = 16, 2.0
_SMALL_SINE = 1e-4  # below it, two latents do not determine the great circle between them
_BACKGROUND, _TEXT = 255, 40
_TEXT_PX, _MARGIN_PX = 11, 4


@dataclass(frozen=True)
class Interpolation(Latents):
    """The latents of every frame, those of one frame together: one per walk."""

    keyframes: int
    walks: int

    @property
    def frame_count(self) -> int:
        return self.count // self.walks


def write_interpolation(
    run: Path,
    out: Path,
    config: SampleConfig | None = None,
    *,
    device: str = "auto",
    console: Console | None = None,
    trust_code: Trust = False,
) -> Animation:
    """A .gif, .webp or .mp4 of closed walks through the latents, side by side.

    Walk w of W goes through latents w·n … w·n + n − 1, with ``config.frames`` frames from one to the next. Between
    normal latents and on the sphere it follows `slerp`, so that no latent on the way is shorter than those that the
    generator was trained on; between uniform ones a straight line, which stays in their cube.

    Raises:
        SettingsError: as `make_interpolation`; ``out`` has another suffix or would be too large; ffmpeg is missing.
        CheckpointError, DiskError: as for `write_grid`.
    """
    config = config or SampleConfig()
    generator = open_generator(run, device, trust_code)
    walk = make_interpolation(config, generator.spec)
    refuse_large_interpolation(walk, generator.spec, out)
    batches = rebatch(sample_batches(generator, walk), walk.walks)
    frames = (images[0] if walk.walks == 1 else tile(images) for _, images in batches)
    fps = config.fps or FPS
    write_animation(out, frames, walk.frame_count, fps, console or Console(quiet=True))
    return Animation(walk.keyframes, walk.frame_count, fps)


def refuse_large_interpolation(walk: Interpolation, spec: NetSpec, out: Path) -> None:
    """
    Raises:
        SettingsError: a frame, or all frames together, would be too large.
    """
    refuse_large_picture(walk.walks, spec)
    if out.suffix.lower() != ".mp4":
        refuse_long_animation(walk.frame_count, walk.walks, spec)


def make_interpolation(config: SampleConfig, spec: NetSpec) -> Interpolation:
    """
    Raises:
        SettingsError: a walk has fewer than two latents, or the walks cannot divide them evenly.
    """
    if not (config.seeds or config.latents):
        config = config.model_copy(update={"n": (config.n or FACES) * config.walks})
    keyframes = make_latents(config, spec)
    if len(keyframes) % config.walks:
        raise SettingsError(f"--walks {config.walks} cannot divide {len(keyframes):,} latents evenly.")
    if len(keyframes) < 2 * config.walks:
        raise SettingsError("--interpolate needs two faces or more per walk. Choose a larger --n.")
    visited = len(keyframes) // config.walks
    between = slerp if spec.distribution in ("normal", "sphere") else torch.lerp

    def row(number: int) -> Tensor:
        frame, walk = divmod(number, config.walks)
        keyframe, step = divmod(frame, config.frames)
        a, b = (keyframes.row(walk * visited + i % visited) for i in (keyframe, keyframe + 1))
        return between(a, b, step / config.frames)

    return Interpolation(len(keyframes) * config.frames, row, len(keyframes), config.walks)


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Spherical linear interpolation (Shoemake 1985; for latents: White 2016), of rows (N, Z):
    sin((1 − t)θ) / sin θ · a + sin(tθ) / sin θ · b with θ the angle between a and b.

    Computed in float64. Between parallel rows it is linear; between opposite ones it goes around a fixed
    perpendicular axis.
    """
    if t == 0:
        return a
    first, second = a.double(), b.double()
    lengths = first.norm(dim=1, keepdim=True), second.norm(dim=1, keepdim=True)
    cosine = (first * second).sum(1, keepdim=True) / (lengths[0] * lengths[1]).clamp(min=1e-300)
    angle = cosine.clamp(-1, 1).arccos()
    sine = angle.sin()
    arc = (((1 - t) * angle).sin() * first + (t * angle).sin() * second) / sine.clamp(min=_SMALL_SINE)
    line = torch.lerp(first, second, t)
    opposite = np.cos(np.pi * t) * first + np.sin(np.pi * t) * _perpendicular(first)
    opposite = opposite * (1 + t * (lengths[1] / lengths[0].clamp(min=1e-300) - 1))
    near = torch.where(cosine > 0, line, opposite if a.shape[1] > 1 else line)
    return torch.where(sine > _SMALL_SINE, arc, near).to(a.dtype)


def _perpendicular(a: Tensor) -> Tensor:
    """To each row, and as long."""
    axis = torch.zeros_like(a).scatter_(1, a.abs().argmin(1, keepdim=True), 1.0)
    length = a.norm(dim=1, keepdim=True)
    unit = a / length.clamp(min=1e-300)
    return torch.nn.functional.normalize(axis - (axis * unit).sum(1, keepdim=True) * unit, dim=1) * length


def write_progress(
    run: Path,
    out: Path,
    config: SampleConfig | None = None,
    *,
    device: str = "auto",
    console: Console | None = None,
    trust_code: Trust = False,
) -> Animation:
    """The same latents by every checkpoint: a .gif, .webp or .mp4 with a frame per checkpoint, the last for a second;
    or a .png with a row per checkpoint.

    Raises:
        CheckpointError: the run has fewer than two checkpoints; otherwise as `write_interpolation`.
    """
    config, console = config or SampleConfig(), console or Console(quiet=True)
    checkpoints = checkpoints_of(run)
    images: list[Pixels] = []
    for _, path in checkpoints:
        generator = open_generator(path, device, trust_code)
        latents = make_latents(config, generator.spec, PROGRESS_SAMPLES)
        refuse_large_progress(len(latents), len(checkpoints), generator.spec, out)
        images.append(np.concatenate(list(sample_batches(generator, latents))))
    samples, titles = len(images[0]), [f"{count:,} images" for count, _ in checkpoints]
    if _is_png(out):
        width = max(map(text_width, titles)) + 2 * _MARGIN_PX
        rows = [_with_label_left(tile(row, samples), title, width) for row, title in zip(images, titles, strict=True)]
        save_png(out, np.concatenate(rows))
        return Animation(samples, len(rows), 0.0)
    frames = [_with_title(tile(row), title) for row, title in zip(images, titles, strict=True)]
    fps = config.fps or PROGRESS_FPS
    frames += [frames[-1]] * (max(1, round(fps)) - 1)
    write_animation(out, iter(frames), len(frames), fps, console)
    return Animation(samples, len(frames), fps)


def refuse_large_progress(samples: int, checkpoints: int, spec: NetSpec, out: Path) -> None:
    """
    Raises:
        SettingsError: the picture, or a frame of the animation, would be too large.
    """
    if _is_png(out):
        refuse_large_picture(samples * checkpoints, spec, columns=samples)
    else:
        refuse_large_picture(samples, spec)


def _is_png(out: Path) -> bool:
    return out.suffix.lower() == ".png"


def text_width(text: str) -> int:
    """Pixels of a label without margins."""
    return int(np.ceil(ImageFont.load_default(_TEXT_PX).getlength(text)))


def _with_label_left(picture: Pixels, text: str, width: int) -> Pixels:
    return np.concatenate([_label(text, width, picture.shape[0], picture.shape[2]), picture], axis=1)


def _with_title(picture: Pixels, title: str) -> Pixels:
    """The picture above its title, wide enough for both."""
    width = max(picture.shape[1], text_width(title) + 2 * _MARGIN_PX)
    canvas = np.full((picture.shape[0], width, picture.shape[2]), _BACKGROUND, np.uint8)
    left = (width - picture.shape[1]) // 2
    canvas[:, left : left + picture.shape[1]] = picture
    return np.concatenate([canvas, _label(title, width, _TEXT_PX + 2 * _MARGIN_PX, picture.shape[2])])


def _label(text: str, width: int, height: int, channels: int) -> Pixels:
    canvas = Image.new("L", (width, height), _BACKGROUND)
    # Pillow's built-in font: the same picture on every machine.
    position = (_MARGIN_PX, (height - _TEXT_PX) // 2 - 1)
    ImageDraw.Draw(canvas).text(position, text, _TEXT, ImageFont.load_default(_TEXT_PX))
    return np.repeat(np.asarray(canvas)[..., None], channels, axis=2)

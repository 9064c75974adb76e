"""Animations from a generator: from face to face through its latents, and the same latents through training.

N latents, Z length of a latent.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from facegan.config import SampleConfig
from facegan.errors import SettingsError
from facegan.nets import Condition, NetSpec
from facegan.sample.generate import (
    Pixels,
    SampleRequest,
    checkpoints_of,
    rebatch,
    refuse_large_picture,
    sample_batches,
    save_png,
    tile,
)
from facegan.sample.latents import Latents, make_latents
from facegan.sample.video import Animation, refuse_long_animation, write_animation

_FACES, _FPS = 8, 24.0  # of an interpolation, if the settings give none
_PROGRESS_SAMPLES, _PROGRESS_FPS = 16, 2.0
_SMALL_SINE = 1e-4  # below it, two latents do not determine the great circle between them
_BACKGROUND, _TEXT = 255, 40
_TEXT_PX, _MARGIN_PX = 11, 4


@dataclass(frozen=True)
class Interpolation(Latents):
    """The latents of every frame, those of one frame together: one per walk."""

    keyframes: int
    walks: int


def write_interpolation(request: SampleRequest, out: Path) -> Animation:
    """A .gif, .webp or .mp4 of closed walks through the latents, side by side.

    Walk w of W goes through latents w·n … w·n + n − 1, with ``config.frames`` frames from one to the next. Between
    normal latents and on the sphere it follows `slerp`, so that no latent on the way is shorter than those that the
    generator was trained on; between uniform ones a straight line, which stays in their cube, as between conditions.
    """
    generator, fps = request.load(), request.config.fps or _FPS
    walk = make_interpolation(request.config, generator.spec, out, request.step(generator.spec))
    batches = rebatch(sample_batches(generator, walk), walk.walks)
    frames, count = (images[0] if walk.walks == 1 else tile(images) for _, images in batches), walk.count // walk.walks
    write_animation(out, frames, count, fps, request.console)
    return Animation(walk.keyframes, count, fps)


def make_interpolation(config: SampleConfig, spec: NetSpec, out: Path, step: Tensor | None = None) -> Interpolation:
    """
    Raises:
        SettingsError: a walk has fewer than two latents, the walks cannot divide them evenly, or ``out`` would be too
            large.
    """
    if not (config.seeds or config.latents):
        config = config.model_copy(update={"n": (config.n or _FACES) * config.walks})
    keyframes = make_latents(config, spec, step=step)
    if spec.condition and config.along:
        keyframes = _moved_along(keyframes, spec, config)
    if keyframes.count % config.walks:
        raise SettingsError(f"--walks {config.walks} cannot divide {keyframes.count:,} latents evenly.")
    visited = keyframes.count // config.walks
    if visited < 2:
        raise SettingsError("--interpolate needs two faces or more per walk. Choose a larger --n.")
    refuse_large_picture(config.walks, spec)
    if out.suffix.lower() != ".mp4":
        refuse_long_animation(visited * config.frames, config.walks, spec)
    between = slerp if spec.distribution in ("normal", "sphere") else torch.lerp

    def row(number: int) -> Tensor:
        frame, walk = divmod(number, config.walks)
        keyframe, step = divmod(frame, config.frames)
        a, b = (
            keyframes.row(walk * visited + i % visited).tensor_split([spec.latent], 1) for i in (keyframe, keyframe + 1)
        )
        t = step / config.frames
        return torch.cat([between(a[0], b[0], t), torch.lerp(a[1], b[1], t)], 1)

    return Interpolation(keyframes.count * config.frames, row, keyframes.count, config.walks)


def _moved_along(faces: Latents, spec: NetSpec, config: SampleConfig) -> Latents:
    """Each face with every value of an attribute, in turn upwards and downwards: only one thing changes at a time."""
    condition = cast(Condition, spec.condition)
    values, visited = condition.values, faces.count // config.walks

    def row(number: int) -> Tensor:
        face, step = divmod(number, len(values))
        z, codes = faces.row(face).tensor_split([spec.latent], 1)
        value = values[-1 - step if face % visited % 2 else step]
        return torch.cat([z, condition.replaced(codes, config.along, value)], 1)

    return Latents(faces.count * len(values), row)


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Spherical linear interpolation (Shoemake 1985; for latents: White 2016), of rows (N, Z):
    sin((1 − t)θ) / sin θ · a + sin(tθ) / sin θ · b with θ the angle between a and b.

    Computed in float64; linear between parallel and between opposite rows.
    """
    if t == 0:
        return a
    first, second = a.double(), b.double()
    lengths = first.norm(dim=1, keepdim=True) * second.norm(dim=1, keepdim=True)
    angle = ((first * second).sum(1, keepdim=True) / lengths.clamp(min=1e-300)).clamp(-1, 1).arccos()
    sine = angle.sin()
    arc = (((1 - t) * angle).sin() * first + (t * angle).sin() * second) / sine.clamp(min=_SMALL_SINE)
    return torch.where(sine > _SMALL_SINE, arc, torch.lerp(first, second, t)).to(a.dtype)


def write_progress(request: SampleRequest, out: Path) -> Animation:
    """The same latents by every checkpoint: a .gif, .webp or .mp4 with a frame per checkpoint, the last for a second;
    or a .png with a row per checkpoint.

    Raises:
        CheckpointError: the run has fewer than two checkpoints.
    """
    checkpoints, images = checkpoints_of(request.run), list[Pixels]()
    for path in checkpoints:
        generator = request.load(path)
        latents = progress_latents(request.config, generator.spec, out, len(checkpoints))
        images.append(np.concatenate(list(sample_batches(generator, latents))))
    samples, titles = len(images[0]), [f"{int(path.name):,} images" for path in checkpoints]
    font = ImageFont.load_default(_TEXT_PX)  # Pillow's own: the same picture on every machine
    text_width = max(int(np.ceil(font.getlength(title))) for title in titles) + 2 * _MARGIN_PX
    pictures = [tile(row, samples if _is_png(out) else None) for row in images]
    height, picture_width, channels = pictures[0].shape
    if _is_png(out):
        labels = [caption(title, text_width, height, channels) for title in titles]
        save_png(out, np.vstack([np.hstack(row) for row in zip(labels, pictures, strict=True)]))
        return Animation(samples, len(pictures), 0.0)
    width = max(picture_width, text_width)
    left = (width - picture_width) // 2
    margins, frames = ((0, 0), (left, width - picture_width - left), (0, 0)), list[Pixels]()
    for picture, title in zip(pictures, titles, strict=True):
        label = caption(title, width, _TEXT_PX + 2 * _MARGIN_PX, channels)
        frames.append(np.vstack([np.pad(picture, margins, constant_values=_BACKGROUND), label]))
    fps = request.config.fps or _PROGRESS_FPS
    frames += [frames[-1]] * (max(1, round(fps)) - 1)
    write_animation(out, iter(frames), len(frames), fps, request.console)
    return Animation(samples, len(frames), fps)


def progress_latents(config: SampleConfig, spec: NetSpec, out: Path, checkpoints: int) -> Latents:
    """Raises SettingsError if the picture, or a frame of the animation, would be too large."""
    latents = make_latents(config, spec, _PROGRESS_SAMPLES)
    if _is_png(out):
        refuse_large_picture(latents.count * checkpoints, spec, columns=latents.count)
    else:
        refuse_large_picture(latents.count, spec)
    return latents


def _is_png(out: Path) -> bool:
    return out.suffix.lower() == ".png"


def caption(text: str, width: int, height: int, channels: int) -> Pixels:
    canvas = Image.new("L", (width, height), _BACKGROUND)
    position = (_MARGIN_PX, (height - _TEXT_PX) // 2 - 1)
    ImageDraw.Draw(canvas).text(position, text, _TEXT, ImageFont.load_default(_TEXT_PX))
    return np.repeat(np.asarray(canvas)[..., None], channels, axis=2)

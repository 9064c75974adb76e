"""How a generator learnt: the same latents through all checkpoints of a run, as a film or one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from facegan.config import SampleConfig
from facegan.console import Console
from facegan.nets import NetSpec
from facegan.own import Trust
from facegan.train.grid import save_png, tiled
from facegan.train.sample.draw import Pixels, drawn, open_generator
from facegan.train.sample.film import Film, write_film
from facegan.train.sample.latents import latents_of
from facegan.train.sample.limits import refuse_large_picture
from facegan.train.sample.runs import checkpoints_of

SAMPLES = 16  # where the settings do not say how many
FPS = 2.0
_PAPER, _INK = 255, 40
_TEXT_PX, _MARGIN_PX = 11, 4


def write_grown(
    run: Path,
    out: Path,
    config: SampleConfig | None = None,
    *,
    device: str = "auto",
    console: Console | None = None,
    trust_code: Trust = False,
) -> Film:
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
        return Film(len(images[0]), len(seen), 0.0)
    frames = [_with_title(tiled(grid), title) for grid, title in zip(images, titles, strict=True)]
    fps = config.fps or FPS
    frames += [frames[-1]] * (max(1, round(fps)) - 1)
    write_film(out, iter(frames), len(frames), fps, console)
    return Film(len(images[0]), len(frames), fps)


def _images(checkpoint: Path, config: SampleConfig, device: str, rows: int, trust_code: Trust) -> Pixels:
    """``rows``: of the picture that they go into; 0 where they are one frame of a film."""
    generator = open_generator(checkpoint, device, trust_code)
    latents = latents_of(config, generator.spec, SAMPLES)
    refuse_large_rows(len(latents), rows, generator.spec)
    return np.concatenate(list(drawn(generator, latents)))


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

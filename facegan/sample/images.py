"""Samples as one picture, or as a folder of single images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from facegan.config import SampleConfig
from facegan.console import Console
from facegan.errors import SettingsError
from facegan.files import atomic_dir, make_folder
from facegan.nets import NetSpec
from facegan.plugins import Trust
from facegan.sample.generate import (
    GAP,
    Pixels,
    in_threads,
    make_latents,
    open_generator,
    png_bytes,
    rebatch,
    sample_batches,
    save_png,
    tile,
)

MOST_PIXELS = 178_956_970  # Pillow, and programs built on it, refuse larger pictures
_MOST_WIDTH = 1_000_000  # libpng's limit
_FILES_PER_TASK = 64


def refuse_large_picture(samples: int, spec: NetSpec, columns: int | None = None) -> None:
    """
    Args:
        columns: of the picture; None: it is about square.

    Raises:
        SettingsError: one picture cannot hold so many samples.
    """
    side = spec.size + GAP
    if samples * side**2 > MOST_PIXELS or (columns or 0) * side > _MOST_WIDTH:
        most = min(MOST_PIXELS // side**2, _MOST_WIDTH // side if columns else MOST_PIXELS)
        raise SettingsError(
            f"{samples:,} samples are too many for one picture: most programs open {MOST_PIXELS // 10**6} "
            f"megapixels,\n{most:,} samples of {spec.size}×{spec.size}. Choose a smaller --n, or --dir for PNGs."
        )


def write_grid(
    run: Path, out: Path, config: SampleConfig | None = None, *, device: str = "auto", trust_code: Trust = False
) -> int:
    """One picture with all samples, about square.

    Args:
        run: a run folder, a checkpoint or a generator's file.
        trust_code: as for `facegan.load_generator`.

    Returns:
        the number of samples.

    Raises:
        CheckpointError: the generator is missing or cannot be read.
        SettingsError: the generator names code that is not trusted; the latents do not fit it, or are too many for one
            picture.
        DiskError: ``out`` cannot be written.
    """
    generator = open_generator(run, device, trust_code)
    latents = make_latents(config or SampleConfig(), generator.spec)
    refuse_large_picture(len(latents), generator.spec)
    make_folder(out.absolute().parent)
    save_png(out, tile(np.concatenate(list(sample_batches(generator, latents)))))
    return len(latents)


def write_pictures(
    run: Path,
    folder: Path,
    config: SampleConfig | None = None,
    *,
    device: str = "auto",
    console: Console | None = None,
    trust_code: Trust = False,
) -> int:
    """000000.png, 000001.png, … in a folder that appears once it is complete. Memory does not grow with their number.

    Returns and raises as `write_grid`.

    Raises:
        FaceganError: ``folder`` is not empty.
    """
    generator = open_generator(run, device, trust_code)
    latents = make_latents(config or SampleConfig(), generator.spec)
    with atomic_dir(folder) as staging, (console or Console(quiet=True)).progress(len(latents), "samples") as progress:

        def write(part: tuple[int, Pixels]) -> int:
            first, pictures = part
            for number, picture in enumerate(pictures, first):
                (staging / f"{number:06d}.png").write_bytes(png_bytes(picture))
            return len(pictures)

        with in_threads(write, rebatch(sample_batches(generator, latents), _FILES_PER_TASK)) as written:
            for count in written:
                progress.advance(count)
    return len(latents)

"""Samples as one picture, or as a folder of single ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from facegan.config import SampleConfig
from facegan.console import Console
from facegan.files import make_folder, new_folder
from facegan.own import Trust
from facegan.train.grid import png_bytes, save_png, tiled
from facegan.train.sample.draw import Pixels, drawn, in_threads, open_generator
from facegan.train.sample.latents import latents_of
from facegan.train.sample.limits import refuse_large_picture

SAMPLES = 64  # where the settings do not say how many


def write_grid(
    run: Path, out: Path, config: SampleConfig | None = None, *, device: str = "auto", trust_code: Trust = False
) -> int:
    """One picture of all samples, about square. ``run`` is a run folder or a generator's file.

    Args:
        trust_code: as `facegan.load_generator` has it.

    Returns:
        How many samples are in it.

    Raises:
        CheckpointError: there is no generator, or it can't be read.
        SettingsError: the generator names code that is not trusted; the latents do not fit it, or are too many for one
            picture.
        DiskError: ``out`` can't be written.
    """
    generator = open_generator(run, device, trust_code)
    latents = latents_of(config or SampleConfig(), generator.spec, SAMPLES)
    refuse_large_picture(len(latents), generator.spec)
    make_folder(out.absolute().parent)
    save_png(out, tiled(np.concatenate(list(drawn(generator, latents)))))
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
    """PNGs, 000000.png and on, of the generator's channels. The folder appears when all of them are in it.

    Memory does not grow with their number. Returns and raises what `write_grid` does.

    Raises:
        FaceganError: ``folder`` is there, and not empty.
    """
    generator = open_generator(run, device, trust_code)
    latents = latents_of(config or SampleConfig(), generator.spec, SAMPLES)
    with new_folder(folder) as room, (console or Console(quiet=True)).progress(len(latents), "samples") as progress:

        def write(piece: tuple[int, Pixels]) -> int:
            first, pictures = piece
            for number, picture in enumerate(pictures, first):
                (room / f"{number:06d}.png").write_bytes(png_bytes(picture))
            return len(pictures)

        with in_threads(write, _counted(drawn(generator, latents))) as written:
            for count in written:
                progress.advance(count)
    return len(latents)


def _counted(batches: Iterator[Pixels]) -> Iterator[tuple[int, Pixels]]:
    first = 0
    for batch in batches:
        yield first, batch
        first += len(batch)

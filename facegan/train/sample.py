"""Samples of a trained generator as files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facegan.console import Console
from facegan.errors import CheckpointError
from facegan.files import make_folder
from facegan.nets import Generator, load_generator
from facegan.train.best import read_best
from facegan.train.folder.shelf import Shelf
from facegan.train.grid import grid, sample_images, save_png
from facegan.train.rounds.precision import choose_device

_BATCH = 64


def best_of(run: Path) -> Path:
    """The checkpoint that is the best of a run so far, whose generator the functions below take.

    Raises:
        CheckpointError: nothing was measured there, or the checkpoint is gone.
    """
    best = read_best(run)
    if best is None:
        raise CheckpointError(
            f"{run} names no best checkpoint: nothing was measured there. Train it with --eval-every 50k, say,\n"
            "or leave --best out for the newest."
        )
    path = Shelf(run / "checkpoints").path(best.images)
    if not path.is_dir():
        raise CheckpointError(f"{path}, the best checkpoint of {run}, is gone. Leave --best out for the newest.")
    return path


def write_grid(run: Path, out: Path, *, n: int, seed: int, device: str = "auto") -> None:
    """One picture of ``n`` samples, about square. ``run`` is a run folder or a generator's file.

    Raises:
        CheckpointError: there is no generator, or it can't be read.
        DiskError: ``out`` can't be written.
    """
    generator = load_generator(run, choose_device(device))
    make_folder(out.absolute().parent)
    save_png(out, grid(sample_images(generator, n, seed)))


def write_pictures(
    run: Path, folder: Path, *, n: int, seed: int, device: str = "auto", console: Console | None = None
) -> None:
    """``n`` PNGs, 000000.png and on. Memory does not grow with ``n``; raises what `write_grid` does."""
    generator = load_generator(run, choose_device(device))
    make_folder(folder)
    with (console or Console(quiet=True)).progress(n, "samples") as progress:
        for i, picture in enumerate(_pictures(generator, n, seed)):
            save_png(folder / f"{i:06d}.png", picture)
            progress.advance(1)


def _pictures(generator: Generator, n: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    for first in range(0, n, _BATCH):
        images = sample_images(generator, min(_BATCH, n - first), seed, first=first)
        for image in images.permute(0, 2, 3, 1).numpy():
            yield image if image.shape[2] == 3 else np.repeat(image, 3, axis=2)

"""A folder of images, made by any program, as samples. Files are decoded as carefully as photographs are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from facegan.console import shown
from facegan.errors import DatasetError, one_of
from facegan.faces.grey import grey
from facegan.faces.photo import Photo, Rejected
from facegan.files import files_below
from facegan.shards.layout import has_photo_suffix

_MAX_BYTES = 100_000_000  # of a file: more is no image of 128×128


def image_files(folder: Path) -> list[Path]:
    """All images in a folder and below it, by their suffix, in the order of their paths; hidden ones are left out."""
    files = files_below(os.fsencode(folder), lambda _, name: not _is_hidden(name.rstrip(b"/")))
    return sorted(
        folder / os.fsdecode(name)
        for name, entry in files
        if not _is_hidden(name) and has_photo_suffix(name) and Path(os.fsdecode(entry.path)).is_file()
    )


def _is_hidden(name: bytes) -> bool:
    return name.rpartition(b"/")[2].startswith(b".")


def choose_files(files: list[Path], n: int, seed: int) -> list[Path]:
    """All of up to ``n``; of more, ``n`` by the seed: the first ones might be of one class, or of one day."""
    if len(files) <= n:
        return files
    chosen = np.random.default_rng(seed).choice(len(files), n, replace=False)
    return [files[i] for i in sorted(chosen)]


def read_images(files: list[Path], size: int, channels: int) -> Tensor:
    """uint8 (N, C, S, S).

    Raises:
        DatasetError: a file can't be read, or is of another size: nothing is resampled here, for whatever did it would
            be measured too.
    """
    images = torch.empty((len(files), channels, size, size), dtype=torch.uint8)
    for i, pixels in enumerate(_decoded(files)):
        height, width = pixels.shape[:2]
        if (height, width) != (size, size):
            raise DatasetError(
                f"{shown(files[i])} has {width}×{height} pixels, and the real faces have {size}×{size}: images of one "
                "size can be compared.\n"
                f"Make faces of {one_of((28, 32, 64, 128))} with facegan prep --size, or let the other program draw "
                f"{size}×{size}."
            )
        images[i] = torch.from_numpy(grey(pixels) if channels == 1 else pixels).permute(2, 0, 1)
    return images


def _decoded(files: list[Path]) -> Iterator[np.ndarray]:
    for path in files:
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
            if len(data) > _MAX_BYTES:
                raise Rejected("too_large")
            yield Photo(data).pixels()
        except Rejected as rejected:
            raise DatasetError(
                f"{shown(path)} can't be read as an image: {rejected.reason}. Take it out of the folder."
            ) from None
        except OSError as error:
            raise DatasetError(f"{shown(path)} can't be read: {error.strerror or error}.") from None

"""Pictures as a page carries them: WebP in ``data:`` addresses, as large as they are seen and no larger."""

from __future__ import annotations

import base64
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from facegan.sample.generate import to_opencv

MOST_FRAMES = 40
FRAMES_BYTES = 3_400_000  # of all of a training's grids, in the page: it has 5 MB altogether
_FRAME_SIDE, _NEWEST_SIDE, _WIDEST = 800, 1100, 1200  # pixels
_QUALITIES = (82, 72, 60, 45)
_PROBED, _MARGIN = 4, 1.1  # pictures, and how much longer than their mean others may be
_NEWEST_BYTES = 600_000
_MOST_PIXELS = 100_000_000
_PNG, _PNG_BEGIN = struct.Struct(">16sII"), b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
T = TypeVar("T")
_GRID_NAME = re.compile(r"\d{1,18}\.png", re.ASCII)


@dataclass(frozen=True)
class Picture:
    """An image in a page, with the size that it is laid out at before it is decoded."""

    src: str
    width: int
    height: int


@dataclass(frozen=True)
class Frame:
    """A grid of the same latents, so many images into the training."""

    images: int
    picture: Picture


def sample_grids(run: Path) -> list[tuple[int, Path]]:
    """Images and file of every grid of a run, in their order."""
    found = [(int(path.stem), path) for path in (run / "samples").glob("*.png") if _GRID_NAME.fullmatch(path.name)]
    return sorted(found)


def frames(grids: list[tuple[int, Path]], most_bytes: int = FRAMES_BYTES) -> list[Frame]:
    """At most `MOST_FRAMES` of the grids, spread evenly, the first and the last among them; files that can't be read
    are left out. Where they would not fit they are encoded worse, and in the end there are fewer."""
    read = [(images, _read(path, _FRAME_SIDE)) for images, path in _spread(grids, MOST_FRAMES)]
    there = [(images, pixels) for images, pixels in read if pixels is not None]
    quality, one = _quality_that_fits(there, most_bytes)
    there = _spread(there, max(int(most_bytes / one), 2))
    while True:
        found = [Frame(images, picture_of(pixels, quality)) for images, pixels in there]
        if sum(len(frame.picture.src) for frame in found) <= most_bytes or len(there) <= 2:
            return found
        there = _spread(there, max(len(there) * 3 // 4, 2))


def _quality_that_fits(there: list[tuple[int, NDArray[np.uint8]]], most_bytes: int) -> tuple[int, float]:
    """The best quality, or the least, and how long about a picture of it is: by some of them."""
    quality, one = _QUALITIES[0], 1.0
    for quality in _QUALITIES:
        some = [len(picture_of(pixels, quality).src) for _, pixels in _spread(there, _PROBED)]
        one = _MARGIN * sum(some) / max(len(some), 1) + 1
        if one * len(there) <= most_bytes:
            break
    return quality, one


def newest(grids: list[tuple[int, Path]]) -> Frame | None:
    """The last grid that can be read, as good as it fits."""
    for images, path in reversed(grids):
        pixels = _read(path, _NEWEST_SIDE)
        if pixels is not None:
            return Frame(images, _fitting(pixels, _NEWEST_BYTES))
    return None


def picture_file(path: Path) -> Picture | None:
    """A PNG of any size; None where there is none, or it can't be read."""
    pixels = _read(path, _WIDEST)
    return None if pixels is None else _fitting(pixels, _NEWEST_BYTES)


def picture_of(pixels: NDArray[np.uint8], quality: int = 90) -> Picture:
    """RGB uint8 (H, W, 3) or grey (H, W, 1)."""
    stored = to_opencv(pixels)
    stored = stored if stored.shape[2] == 3 else np.repeat(stored, 3, axis=2)  # WebP has no grey
    _, data = cv2.imencode(".webp", stored, [cv2.IMWRITE_WEBP_QUALITY, quality])
    text = base64.b64encode(data.tobytes()).decode()
    return Picture(f"data:image/webp;base64,{text}", stored.shape[1], stored.shape[0])


def _fitting(pixels: NDArray[np.uint8], most_bytes: int) -> Picture:
    for quality in (92, *_QUALITIES):
        picture = picture_of(pixels, quality)
        if len(picture.src) <= most_bytes:
            return picture
    smaller = cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return _fitting(smaller.reshape(*smaller.shape[:2], pixels.shape[2]).astype(np.uint8), most_bytes)


def _read(path: Path, most_side: int) -> NDArray[np.uint8] | None:
    """RGB uint8 (H, W, 3), its longer side no longer than that."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if _is_small(data) else None
    if stored is None:
        return None
    side = max(stored.shape[:2])
    if side > most_side:
        scale = most_side / side
        stored = cv2.resize(stored, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(stored[..., ::-1]).astype(np.uint8)


def _is_small(data: bytes) -> bool:
    """Whether it is a PNG of no more than `_MOST_PIXELS`: by its header, before memory is taken for them."""
    if len(data) < _PNG.size:
        return False
    begin, width, height = _PNG.unpack_from(data)
    return begin == _PNG_BEGIN and width * height <= _MOST_PIXELS


def _spread(items: list[T], count: int) -> list[T]:
    if len(items) <= count:
        return items
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]

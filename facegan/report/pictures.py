"""Pictures for pages: WebP in ``data:`` URLs, no larger than they are displayed."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

MAX_FRAMES = 40
FRAMES_BYTES = 3_400_000  # of all grids of a run; the page has 5 MB
_FRAME_SIDE, _NEWEST_SIDE, _MAX_SIDE = 800, 1100, 1200  # pixels
_QUALITIES = (82, 72, 60, 45)
_PROBED, _MARGIN = 4, 1.1  # pictures tried, and how much longer than their mean others may be
_NEWEST_BYTES = 600_000
_MAX_PIXELS = 100_000_000
_PNG, _PNG_BEGIN = struct.Struct(">16sII"), b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
T = TypeVar("T")


class Picture(NamedTuple):
    """An image of a page, with its size before it is decoded."""

    src: str
    width: int
    height: int


class Frame(NamedTuple):
    """The grid of the same latents after a number of images."""

    images: int
    picture: Picture


def frames(grids: list[tuple[int, Path]], max_bytes: int = FRAMES_BYTES) -> list[Frame]:
    """Up to `MAX_FRAMES` grids, evenly spread, including the first and the last, without unreadable files.

    To fit ``max_bytes`` they are encoded at a lower quality, and finally there are fewer.
    """
    read = [(images, _read(path, _FRAME_SIDE)) for images, path in spread_evenly(grids, MAX_FRAMES)]
    chosen = [(images, pixels) for images, pixels in read if pixels is not None]
    quality, one = _QUALITIES[0], 1.0  # the best quality that fits (or the lowest), and the length of a picture
    for quality in _QUALITIES:
        some = [len(picture_of(pixels, quality).src) for _, pixels in spread_evenly(chosen, _PROBED)]
        one = _MARGIN * sum(some) / max(len(some), 1) + 1
        if one * len(chosen) <= max_bytes:
            break
    chosen = spread_evenly(chosen, max(int(max_bytes / one), 2))
    while True:
        found = [Frame(images, picture_of(pixels, quality)) for images, pixels in chosen]
        if sum(len(frame.picture.src) for frame in found) <= max_bytes or len(chosen) <= 2:
            return found
        chosen = spread_evenly(chosen, max(len(chosen) * 3 // 4, 2))


def newest(grids: list[tuple[int, Path]]) -> Frame | None:
    """The last readable grid."""
    found = ((images, picture_file(path, _NEWEST_SIDE)) for images, path in reversed(grids))
    return next((Frame(images, picture) for images, picture in found if picture), None)


def picture_file(path: Path, max_side: int = _MAX_SIDE) -> Picture | None:
    """A PNG of any size, or None if it is missing or unreadable."""
    pixels = _read(path, max_side)
    return None if pixels is None else fitting(pixels, _NEWEST_BYTES)


def picture_of(pixels: NDArray[np.uint8], quality: int = 90) -> Picture:
    """RGB uint8 (H, W, 3) or grey (H, W, 1)."""
    stored = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_GRAY2BGR)  # no grey in WebP
    _, data = cv2.imencode(".webp", stored, [cv2.IMWRITE_WEBP_QUALITY, quality])
    text = base64.b64encode(data.tobytes()).decode()
    return Picture(f"data:image/webp;base64,{text}", stored.shape[1], stored.shape[0])


def fitting(pixels: NDArray[np.uint8], max_bytes: int, qualities: Sequence[int] = (92, *_QUALITIES)) -> Picture:
    """In the first quality in which its text has at most so many bytes; if none is enough, half as large."""
    for quality in qualities:
        picture = picture_of(pixels, quality)
        if len(picture.src) <= max_bytes:
            return picture
    smaller = cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return fitting(smaller.reshape(*smaller.shape[:2], pixels.shape[2]).astype(np.uint8), max_bytes, qualities)


def _read(path: Path, max_side: int) -> NDArray[np.uint8] | None:
    """A PNG as RGB uint8 (H, W, 3), shrunk to ``max_side``; None if it is missing, unreadable or huge."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if len(data) < _PNG.size:
        return None
    begin, width, height = _PNG.unpack_from(data)
    if begin != _PNG_BEGIN or width * height > _MAX_PIXELS:  # before memory is allocated
        return None
    stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if stored is None:
        return None
    return np.ascontiguousarray(shrunk(stored, max_side)[..., ::-1]).astype(np.uint8)


def shrunk(pixels: np.ndarray, max_side: int) -> np.ndarray:
    """With a long side of at most so many pixels."""
    scale = max_side / max(pixels.shape[:2])
    return pixels if scale >= 1 else cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def spread_evenly(items: list[T], count: int) -> list[T]:
    """At most so many, with the first and the last."""
    if len(items) <= count:
        return items
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]

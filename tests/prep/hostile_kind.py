"""What hostile photographs are made with: the portrait, encoded in many ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageCms

from tests.prep.handmade import encoded

KEPT, NO_FACE, UNREADABLE, TRUNCATED, TOO_LARGE = "", "no_face", "unreadable", "truncated", "too_large"


class Kind(NamedTuple):
    """One hostile file: its name, the reason it must be rejected for (empty: it is kept), and its maker."""

    name: str
    reason: str
    make: Callable[[np.ndarray], bytes]


def as_file(kind: str, mode: str | None = None, **options: Any) -> Callable[[np.ndarray], bytes]:
    return lambda picture: encoded(picture, kind, mode, **options)


def cut(kind: str, share: float, mode: str | None = None, **options: Any) -> Callable[[np.ndarray], bytes]:
    def make(picture: np.ndarray) -> bytes:
        data = encoded(picture, kind, mode, **options)
        return data[: int(len(data) * share)]

    return make


def just(data: bytes) -> Callable[[np.ndarray], bytes]:
    return lambda _: data


def jpeg(picture: np.ndarray, mode: str | None = None, **options: Any) -> bytes:
    return encoded(picture, "JPEG", mode, quality=92, **options)


def progressive(picture: np.ndarray) -> bytes:
    return jpeg(picture, progressive=True)


def two_frames(kind: str, **options: Any) -> Callable[[np.ndarray], bytes]:
    """The picture, and black behind it."""
    black = Image.new("RGB", (178, 218))
    return lambda picture: encoded(picture, kind, save_all=True, append_images=[black], **options)


def larger(picture: np.ndarray, times: int = 4) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((178 * times, 218 * times), Image.Resampling.BICUBIC))


def grey(p: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(p).convert("L"))


def palette(p: np.ndarray) -> Image.Image:
    return Image.fromarray(p).quantize(255)


def with_alpha(p: np.ndarray, kind: str, mode: str, **options: Any) -> bytes:
    """The picture with an opaque alpha, and transparent black in its corner."""
    image = Image.fromarray(p).convert(mode)
    image.putalpha(Image.new("L", image.size, 255))
    image.paste(0, (0, 0, 9, 9))
    return encoded(image, kind, **options)


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

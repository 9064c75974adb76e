"""Images from a generator, and many of them as one picture."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facegan.config import Law
from facegan.files import write_bytes
from facegan.nets import Generator
from facegan.nets.noise import latents

GAP, _PAPER = 2, 255  # pixels between images, and their grey


def sample_latents(count: int, length: int, seed: int, first: int = 0, law: Law = "normal") -> Tensor:
    """(count, length) on the CPU; row i follows from (seed, first + i) alone, whatever the count or the device."""
    rows = [latents(1, length, seed, "sample", i, "cpu", law) for i in range(first, first + count)]
    return torch.cat(rows)


@torch.inference_mode()
def sample_images(generator: Generator, count: int, seed: int = 0, first: int = 0, batch: int = 64) -> Tensor:
    """Samples ``first`` … ``first + count − 1`` of a seed: uint8 (count, C, H, W) on the CPU.

    ``generator`` is in eval mode, so an image depends on its latent alone.
    """
    device, spec = next(generator.parameters()).device, generator.spec
    starts = range(first, first + count, batch)
    draws = (sample_latents(min(batch, first + count - i), spec.latent, seed, i, spec.law) for i in starts)
    return torch.cat([to_uint8(generator(z.to(device))).cpu() for z in draws])


def to_uint8(images: Tensor) -> Tensor:
    """float in [−1, 1] → uint8, rounded."""
    return images.float().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)


def grid(images: Tensor, columns: int | None = None) -> NDArray[np.uint8]:
    """uint8 (N, C, H, W) → one uint8 (H', W', C) array, row by row; about square where ``columns`` is None."""
    return tiled(images.permute(0, 2, 3, 1).numpy(), columns)


def tiled(pixels: NDArray[np.uint8], columns: int | None = None) -> NDArray[np.uint8]:
    """`grid` of uint8 (N, H, W, C)."""
    count, height, width, channels = pixels.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    paper = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, channels), _PAPER, np.uint8)
    for i in range(count):
        top, left = GAP + i // columns * (height + GAP), GAP + i % columns * (width + GAP)
        paper[top : top + height, left : left + width] = pixels[i]
    return paper


def png_bytes(picture: NDArray[np.uint8]) -> bytes:
    """RGB uint8 (H, W, 3) or grey (H, W, 1) → a PNG of as many channels; the same pixels give the same bytes."""
    _, data = cv2.imencode(".png", as_stored(picture))
    return data.tobytes()


def as_stored(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """As OpenCV's encoders take it."""
    return picture if picture.shape[2] == 1 else picture[..., ::-1]


def save_png(path: Path, picture: NDArray[np.uint8]) -> None:
    write_bytes(path, png_bytes(picture))

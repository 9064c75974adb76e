"""Similarity of random pairs of images: near 1 if a generator always draws the same.

MS-SSIM: Wang, Simoncelli & Bovik 2003, "Multi-scale structural similarity for image quality assessment". A pair x, y
is compared under a Gaussian window (11×11, σ = 1.5, inside the image), then halved by averaging 2×2 pixels, and so on:

    cs = (2 σ_xy + C₂) / (σ_x² + σ_y² + C₂)      contrast and structure
    l  = (2 µ_x µ_y + C₁) / (µ_x² + µ_y² + C₁)   luminance

    MS-SSIM = Π_{j<J} mean(cs_j)^w_j · mean(l_J cs_J)^w_J,   C₁ = (0.01 · 255)², C₂ = (0.03 · 255)²

The paper has J = 5 scales with w = 0.0448, 0.2856, 0.3001, 0.2363, 0.1333. Here J is as large as the window fits (two
at 28 and 32 px, three at 64, four at 128), with the first J weights divided by their sum, so values do not compare with
those of other sizes or with published ones. Odena et al. 2017 (arXiv:1610.09585) use it as a measure of diversity; as
there, the colour channels are compared separately and averaged. Negative means count as 0.

N images, C channels, S side, P pairs.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

WINDOW, SIGMA = 11, 1.5
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_BLOCK = 128  # pairs


def scales(size: int) -> int:
    """Number of scales at an image size: 3 for 64."""
    count = 1
    while count < len(WEIGHTS) and size // 2**count >= WINDOW:
        count += 1
    return count


def ms_ssim_pairs(images: Tensor, pairs: int, seed: int) -> float:
    """The mean MS-SSIM of random pairs of different images, uint8 (N, C, S, S) on the CPU with N > 1: 0 … 1."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
    first = rng.integers(0, len(images), pairs)
    second = (first + rng.integers(1, len(images), pairs)) % len(images)
    blocks = (slice(at, at + _BLOCK) for at in range(0, pairs, _BLOCK))
    return float(torch.cat([ms_ssim(images[first[rows]], images[second[rows]]) for rows in blocks]).double().mean())


@torch.inference_mode()
def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """float32 (P,), 0 … 1, of the pairs in uint8 ``a`` and ``b`` (P, C, S, S); 1 for equal images."""
    x, y = a.float(), b.float()
    count = scales(x.shape[-1])
    result = torch.ones(x.shape[:2])
    for scale, weight in enumerate(WEIGHTS[:count]):
        luminance, structure = _compare(x, y)
        if scale == count - 1:
            structure = luminance * structure
        result *= structure.mean((2, 3)).clamp(min=0) ** (weight / sum(WEIGHTS[:count]))
        x, y = (torch.nn.functional.avg_pool2d(each, 2) for each in (x, y))
    return result.mean(1)


def _compare(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """l and cs at each position of the window."""
    mean_x, mean_y = _blur(x), _blur(y)
    squares = mean_x.square() + mean_y.square()
    product = mean_x * mean_y
    structure = (2 * (_blur(x * y) - product) + _C2) / (_blur(x.square() + y.square()) - squares + _C2)
    return (2 * product + _C1) / (squares + _C1), structure


def _blur(images: Tensor) -> Tensor:
    """(P, C, S, S) → (P, C, S − 10, S − 10)."""
    matrix = _window(images.shape[-1])
    return matrix @ (images @ matrix.T)


@lru_cache(maxsize=16)
def _window(size: int) -> Tensor:
    """(size − 10, size): row i is the window that starts at pixel i."""
    weights = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    matrix = np.zeros((size - WINDOW + 1, size), np.float32)
    for i in range(len(matrix)):
        matrix[i, i : i + WINDOW] = weights / weights.sum()
    return torch.from_numpy(matrix)

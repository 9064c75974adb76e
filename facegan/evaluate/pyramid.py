"""Laplacian pyramids: an image as what each size of detail adds to it.

Burt & Adelson 1983, "The Laplacian pyramid as a compact image code", with the binomial filter [1, 4, 6, 4, 1]/16 and
mirrored edges, as Karras et al. 2018 have it. Filter and resampling of one axis are a matrix, for that is the fastest
way on a CPU; with whole numbers up to 255 the first levels are exact in float32.

N images, C channels, S side.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

_FILTER = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
# The paper ends at 16. 14 is the same for the sizes that are powers of 2, and gives 28 two levels as 32 has them.
SMALLEST = 14


def level_sizes(size: int) -> tuple[int, ...]:
    """Sides of the levels: ``(64, 32, 16)`` for 64, ``(28, 14)`` for 28."""
    sizes = [size]
    while sizes[-1] % 2 == 0 and sizes[-1] // 2 >= SMALLEST:
        sizes.append(sizes[-1] // 2)
    return tuple(sizes)


def laplacian_pyramid(images: Tensor) -> list[Tensor]:
    """float32 (N, C, S, S) → the levels of `level_sizes`: details of each size, and at last the smallest image."""
    levels = []
    for size in level_sizes(images.shape[-1])[:-1]:
        smaller = shrink(images)
        levels.append(images - enlarge(smaller, size))
        images = smaller
    return [*levels, images]


def shrink(images: Tensor) -> Tensor:
    """float32 (N, C, S, S) → (N, C, S/2, S/2): filtered, and every other pixel of it."""
    matrix = _shrinking(images.shape[-1])
    return matrix @ (images @ matrix.T)


def enlarge(images: Tensor, size: int) -> Tensor:
    """float32 (N, C, S/2, S/2) → (N, C, S, S): zeros put between the pixels, and filtered."""
    matrix = _enlarging(size)
    return matrix @ (images @ matrix.T)


@lru_cache(maxsize=16)
def _shrinking(size: int) -> Tensor:
    return _filtering(size)[::2].contiguous()


@lru_cache(maxsize=16)
def _enlarging(size: int) -> Tensor:
    return 2 * _filtering(size)[:, ::2].contiguous()  # every other of its factors met a zero


def _filtering(size: int) -> Tensor:
    """(S, S): row i is the filter about pixel i."""
    matrix = np.zeros((size, size), np.float32)
    for i in range(size):
        for weight, j in zip(_FILTER, range(i - 2, i + 3), strict=True):
            matrix[i, size - 1 - abs(size - 1 - abs(j))] += weight  # mirrored about the edge's own pixel
    return torch.from_numpy(matrix)

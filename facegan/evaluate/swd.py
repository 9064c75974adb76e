"""The sliced Wasserstein distance between small patches of two sets of images, at each size of detail.

Karras et al. 2018, "Progressive Growing of GANs for Improved Quality, Stability, and Variation" (arXiv:1710.10196),
section 5, after Rabin et al. 2011, "Wasserstein Barycenter and its Application to Texture Mixing":

- each image becomes a Laplacian pyramid, whose levels give 128 patches of 7×7 pixels each, at random positions;
- the patches of a level are normalized: each colour channel to mean 0 and standard deviation 1 over the set (so a tint
  or a contrast shared by all images has no effect);
- they are projected to 4·128 random directions of length 1; the distance of a level is the mean over directions of the
  one-dimensional Wasserstein distance, times 1000:

      W₁ = ∫ |F_a(x) − F_b(x)| dx,   F the share of projections up to x

The paper's code sorts the projections of both sets. Here the integral is a sum over bins of width `STEP`: 15 times as
fast, `BINS` counts per direction and set, sets of any two sizes, and within 3 · 10⁻⁴ of sorting on faces.

The pyramid is that of Burt & Adelson 1983, "The Laplacian pyramid as a compact image code", with the binomial filter
[1, 4, 6, 4, 1]/16 and mirrored edges, as in Karras et al. Filtering and resampling of one axis are one matrix product,
the fastest way on a CPU; with whole numbers up to 255 the first levels are exact in float32.

N images, C channels, S side.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PATCH, PATCHES, DIRECTIONS = 7, 128, 4 * 128
SCALE = 1000
STEP, REACH = 1 / 128, 32  # projections beyond ± 32 standard deviations count as these
BINS = round(2 * REACH / STEP)  # 0 is the middle of a bin, so rounding does not split equal values
_FILTER = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
_SMALLEST = 14  # the paper ends at 16: the same for powers of 2, and 28 gets two levels, as 32 does
_BLOCK_IMAGES = 128  # 10 MB of patches and 34 MB of projections


@torch.inference_mode()
def project(images: Tensor, seed: int = 0) -> dict[int, NDArray[np.int32]]:
    """uint8 (N, C, S, S) on the CPU → for each level's side the projections in each bin, int32 (`DIRECTIONS`, `BINS`).

    Image i's patch positions follow from (seed, i) alone, so equal images in the same order have distance 0.
    """
    sides = level_sizes(images.shape[-1])
    weights, shifts = _normalising_directions(images, sides, seed)
    counts = {side: np.zeros((DIRECTIONS, BINS), np.int32) for side in sides}
    # Reused for every block: allocating fresh memory takes longer than the product and the counting.
    projected = torch.empty(DIRECTIONS, min(len(images), _BLOCK_IMAGES) * PATCHES)
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        for side, patches in _patches(images, seed):
            block = projected[:, : len(patches)]
            torch.addmm(shifts[side][:, None], weights[side], patches.T, out=block)
            parts = (np.array_split(each, threads) for each in (block.numpy(), counts[side]))
            list(pool.map(_count, *parts))
    return counts


def sliced_wasserstein(a: dict[int, NDArray[np.int32]], b: dict[int, NDArray[np.int32]]) -> dict[str, float]:
    """``swd``, the mean over levels, and each level by its side: ``swd_64``, ``swd_32`` …; 0 for equal images."""
    each = {}
    for side in a:
        ours, theirs = (counts[side] / counts[side][0].sum() for counts in (a, b))
        gaps = np.cumsum(ours - theirs, axis=1)
        each[f"swd_{side}"] = SCALE * STEP * float(np.abs(gaps).sum()) / DIRECTIONS
    return {"swd": sum(each.values()) / len(each), **each}


def _count(projected: NDArray[np.float32], counts: NDArray[np.int32]) -> None:
    """Add to row d of ``counts`` the number of row d's values in each bin; bin i is i … i + 1.

    OpenCV is several times as fast as numpy's bincount and releases the GIL.
    """
    for values, row in zip(projected, counts, strict=True):
        found = cv2.calcHist([values[None]], [0], None, [BINS], [0, BINS]).ravel()
        if found.sum() < len(values):  # values beyond the ends are left out
            within = values.clip(0, np.nextafter(np.float32(BINS), np.float32(0)))
            found = cv2.calcHist([within[None]], [0], None, [BINS], [0, BINS]).ravel()
        row += found.astype(np.int32)


def _patches(images: Tensor, seed: int) -> Iterator[tuple[int, Tensor]]:
    """A level's side, and the patches of n images, float32 (128 n, 49 C), before normalization."""
    for level, corners in _levels(images, seed):
        count, side = len(level), level.shape[-1]
        windows = np.lib.stride_tricks.sliding_window_view(level.numpy(), (PATCH, PATCH), axis=(2, 3))
        chosen = windows[np.arange(count)[:, None], :, corners[..., 0], corners[..., 1]]
        yield side, torch.from_numpy(chosen.reshape(count * PATCHES, -1))


def _levels(images: Tensor, seed: int) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
    """Each level float32 (n, C, s, s) of each block of n images, with the corners of its patches."""
    for first in range(0, len(images), _BLOCK_IMAGES):
        for level in laplacian_pyramid(images[first : first + _BLOCK_IMAGES].float()):
            yield level, _corners(len(level), level.shape[-1], seed, first)


def _corners(count: int, side: int, seed: int, first: int) -> NDArray[np.int64]:
    """Top left corners (count, 128, 2), 0 … side − 7, of the patches of images ``first``, ``first + 1`` …

    By Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), whose counter steps give 4 words.
    """
    words_each = 2 * PATCHES
    words = np.random.Philox(key=[seed, side], counter=first * words_each // 4).random_raw(count * words_each)
    free = side - PATCH + 1
    return ((words >> np.uint64(32)) * np.uint64(free) >> np.uint64(32)).astype(np.int64).reshape(count, PATCHES, 2)


def _directions(channels: int, side: int, seed: int) -> NDArray[np.float64]:
    """(`DIRECTIONS`, 49 C), each row of length 1."""
    rng = np.random.Generator(np.random.Philox(key=[seed, side + (1 << 32)]))
    drawn = rng.standard_normal((DIRECTIONS, channels * PATCH * PATCH))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def _normalising_directions(
    images: Tensor, sides: tuple[int, ...], seed: int
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Per level W (`DIRECTIONS`, 49 C) and s (`DIRECTIONS`,): W x + s projects a patch x, in units of bins."""
    channels, pixels = images.shape[1], len(images) * PATCHES * PATCH * PATCH
    sums = {side: np.zeros(channels) for side in sides}
    squares = {side: np.zeros(channels) for side in sides}
    for level, corners in _levels(images, seed):
        side = level.shape[-1]
        weighted = level * _patches_per_pixel(corners, side)[:, None]
        sums[side] += weighted.sum((0, 2, 3), dtype=torch.float64).numpy()
        squares[side] += weighted.mul_(level).sum((0, 2, 3), dtype=torch.float64).numpy()
    weights, shifts = {}, {}
    for side in sides:
        mean = sums[side] / pixels
        variance = squares[side] / pixels - mean**2
        # A constant channel stays 0. The limit is in grey levels²; rounding alone stays below it.
        deviation = np.sqrt(np.where(variance > 1e-4, variance, 1.0))
        directions = _directions(channels, side, seed) / np.repeat(STEP * deviation, PATCH * PATCH)
        shift = BINS / 2 + 0.5 - directions @ np.repeat(mean, PATCH * PATCH)
        weights[side] = torch.from_numpy(directions.astype(np.float32))
        shifts[side] = torch.from_numpy(shift.astype(np.float32))
    return weights, shifts


def _patches_per_pixel(corners: NDArray[np.int64], side: int) -> Tensor:
    """float32 (n, s, s): the number of patches that contain each pixel, by 2-d differences and cumulative sums."""
    count, wide = len(corners), side + 1
    differences = np.zeros((count, wide * wide), np.int64)
    for sign, down, right in ((1, 0, 0), (-1, PATCH, 0), (-1, 0, PATCH), (1, PATCH, PATCH)):
        at = (corners[..., 0] + down) * wide + corners[..., 1] + right + wide * wide * np.arange(count)[:, None]
        differences += sign * np.bincount(at.ravel(), minlength=differences.size).reshape(differences.shape)
    counts = differences.reshape(count, wide, wide).cumsum(1).cumsum(2)
    return torch.from_numpy(counts[:, :side, :side].astype(np.float32))


def level_sizes(size: int) -> tuple[int, ...]:
    """Sides of the levels: ``(64, 32, 16)`` for 64, ``(28, 14)`` for 28."""
    sizes = [size]
    while sizes[-1] % 2 == 0 and sizes[-1] // 2 >= _SMALLEST:
        sizes.append(sizes[-1] // 2)
    return tuple(sizes)


def laplacian_pyramid(images: Tensor) -> list[Tensor]:
    """float32 (N, C, S, S) → details at each of `level_sizes`, and finally the smallest image."""
    levels = []
    for size in level_sizes(images.shape[-1])[:-1]:
        shrinking, enlarging = _resampling(size)
        smaller = shrinking @ (images @ shrinking.T)  # every other pixel of the filtered image
        levels.append(images - enlarging @ (smaller @ enlarging.T))
        images = smaller
    return [*levels, images]


@lru_cache(maxsize=16)
def _resampling(size: int) -> tuple[Tensor, Tensor]:
    """(S/2, S), which filters and halves, and (S, S/2), which inserts zeros between the pixels and filters."""
    matrix = np.zeros((size, size), np.float32)  # row i is the filter centred on pixel i
    for i in range(size):
        for weight, j in zip(_FILTER, range(i - 2, i + 3), strict=True):
            matrix[i, size - 1 - abs(size - 1 - abs(j))] += weight  # mirrored at the edge pixel
    filtering = torch.from_numpy(matrix)
    return filtering[::2].contiguous(), 2 * filtering[:, ::2].contiguous()

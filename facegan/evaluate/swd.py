"""The sliced Wasserstein distance: how far small patches of two sets of images are apart, at each size of detail.

Karras et al. 2018, "Progressive Growing of GANs for Improved Quality, Stability, and Variation" (arXiv:1710.10196),
section 5, after Rabin et al. 2011, "Wasserstein Barycenter and its Application to Texture Mixing":

- each image is a Laplacian pyramid (`facegan.evaluate.swd`); a level gives 128 patches of 7×7 pixels an image, at
  random places;
- patches of a level are normalised: each colour channel to mean 0 and standard deviation 1 over the set (so a tint or a
  contrast that all images share is not seen);
- they are projected to 4·128 random directions of length 1, and the distance of a level is the mean over these of the
  one-dimensional Wasserstein distance, times 1000:

      W₁ = ∫ |F_a(x) − F_b(x)| dx,   F the share of projections up to x

The paper's code sorts both sets' projections. Here the integral is a sum over bins `STEP` wide, which is 15 times as
fast, keeps a set in `BINS` counts a direction, lets two sets be of any two sizes, and was within 3 · 10⁻⁴ of what
sorting gives on faces.

N images, C channels, S side.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facegan.errors import SettingsError

# Laplacian pyramids: an image as what each size of detail adds to it.
#
# Burt & Adelson 1983, "The Laplacian pyramid as a compact image code", with the binomial filter [1, 4, 6, 4, 1]/16 and
# mirrored edges, as Karras et al. 2018 have it. Filter and resampling of one axis are a matrix, for that is the fastest
# way on a CPU; with whole numbers up to 255 the first levels are exact in float32.
#
# N images, C channels, S side.

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


PATCH, PATCHES, DIRECTIONS = 7, 128, 4 * 128
SCALE = 1000
STEP, REACH = 1 / 128, 32  # projections beyond ± 32 standard deviations count as these
BINS = round(2 * REACH / STEP)  # 0 lies in the middle of one: rounding may not spread what is all the same over two
_BLOCK_IMAGES = 128  # 10 MB of patches and 34 MB of projections


@dataclass(frozen=True)
class Projections:
    """A set of images as the distance sees it: for each level's side how many projections fall into each bin,
    int32 (`DIRECTIONS`, `BINS`)."""

    images: int
    channels: int
    seed: int
    counts: dict[int, NDArray[np.int32]]


@torch.inference_mode()
def project(images: Tensor, seed: int = 0) -> Projections:
    """
    Args:
        images: uint8 (N, C, S, S) on the CPU.
        seed: of places and directions. Image i's places follow from (seed, i) alone, so that the same images in the
            same order are at distance 0.

    Raises:
        SettingsError: there are no images, or they are smaller than a patch.
    """
    count, channels, size = images.shape[:3]
    if not count or size < PATCH:
        raise SettingsError(
            f"{count:,} images of {size}×{size}: a distance needs some, of {PATCH}×{PATCH} pixels and more."
        )
    sides = level_sizes(size)
    weights, shifts = _normalising_directions(images, sides, seed)
    counts = {side: np.zeros((DIRECTIONS, BINS), np.int32) for side in sides}
    # Used again for every block: the system takes longer to give fresh memory than the product and the counting.
    projected = torch.empty(DIRECTIONS, min(count, _BLOCK_IMAGES) * PATCHES)
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        for side, patches in _patches(images, seed):
            found = projected[:, : len(patches)]
            torch.addmm(shifts[side][:, None], weights[side], patches.T, out=found)
            parts = (np.array_split(each, threads) for each in (found.numpy(), counts[side]))
            list(pool.map(_count, *parts))
    return Projections(count, channels, seed, counts)


def sliced_wasserstein(a: Projections, b: Projections) -> dict[str, float]:
    """``swd``, the mean over the levels, and each level by its side: ``swd_64``, ``swd_32`` …; 0 for the same images.

    Raises:
        SettingsError: they are of other sizes, channels or seeds, and so can't be compared.
    """
    if (a.counts.keys(), a.channels, a.seed) != (b.counts.keys(), b.channels, b.seed):
        raise SettingsError(
            f"Images of {max(a.counts)} px, {a.channels} channels and seed {a.seed} have no sliced Wasserstein "
            f"distance to images of {max(b.counts)} px, {b.channels} channels and seed {b.seed}."
        )
    each = {}
    for side in a.counts:
        gaps = np.cumsum(_shares(a, side) - _shares(b, side), axis=1)
        each[f"swd_{side}"] = SCALE * STEP * float(np.abs(gaps).sum()) / DIRECTIONS
    return {"swd": sum(each.values()) / len(each), **each}


def _shares(projections: Projections, side: int) -> NDArray[np.float64]:
    return projections.counts[side] / (projections.images * PATCHES)


def _count(projected: NDArray[np.float32], counts: NDArray[np.int32]) -> None:
    """Adds to row d of ``counts`` how many of row d's values fall into each bin; i … i + 1 is bin i. OpenCV is several
    times as fast as numpy's bincount, and lets threads run."""
    for values, row in zip(projected, counts, strict=True):
        found = cv2.calcHist([values[None]], [0], None, [BINS], [0, BINS]).ravel()
        if found.sum() < len(values):  # it leaves out what lies beyond
            within = values.clip(0, np.nextafter(np.float32(BINS), np.float32(0)))
            found = cv2.calcHist([within[None]], [0], None, [BINS], [0, BINS]).ravel()
        row += found.astype(np.int32)


def _patches(images: Tensor, seed: int) -> Iterator[tuple[int, Tensor]]:
    """Side of a level, and float32 (128 n, 49 C): its patches of a block of n images, not normalised."""
    for level, places in _levels(images, seed):
        count, side = len(level), level.shape[-1]
        windows = np.lib.stride_tricks.sliding_window_view(level.numpy(), (PATCH, PATCH), axis=(2, 3))
        chosen = windows[np.arange(count)[:, None], :, places[..., 0], places[..., 1]]
        yield side, torch.from_numpy(chosen.reshape(count * PATCHES, -1))


def _levels(images: Tensor, seed: int) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
    """float32 (n, C, s, s): the levels of n images after n images, with the corners of their patches."""
    for first in range(0, len(images), _BLOCK_IMAGES):
        for level in laplacian_pyramid(images[first : first + _BLOCK_IMAGES].float()):
            yield level, _places(len(level), level.shape[-1], seed, first)


def _places(count: int, side: int, seed: int, first: int) -> NDArray[np.int64]:
    """Corners (count, 128, 2) of the patches of images ``first`` and on, each of 0 … side − 7.

    By Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): a step of its counter gives 4 words.
    """
    words_each = 2 * PATCHES
    words = np.random.Philox(key=[seed, side], counter=first * words_each // 4).random_raw(count * words_each)
    free = side - PATCH + 1
    return ((words >> np.uint64(32)) * np.uint64(free) >> np.uint64(32)).astype(np.int64).reshape(count, PATCHES, 2)


def _directions(channels: int, side: int, seed: int) -> NDArray[np.float64]:
    """(`DIRECTIONS`, 49 C), each of length 1."""
    rng = np.random.Generator(np.random.Philox(key=[seed, side + (1 << 32)]))
    drawn = rng.standard_normal((DIRECTIONS, channels * PATCH * PATCH))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def _normalising_directions(
    images: Tensor, sides: tuple[int, ...], seed: int
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """For each level W (`DIRECTIONS`, 49 C) and s (`DIRECTIONS`,): W x + s projects a patch x as normalised, and tells
    by its whole part the bin that this falls into."""
    channels, pixels = images.shape[1], len(images) * PATCHES * PATCH * PATCH
    sums = {side: np.zeros(channels) for side in sides}
    squares = {side: np.zeros(channels) for side in sides}
    for level, places in _levels(images, seed):
        side = level.shape[-1]
        seen = level * _times_seen(places, side)[:, None]
        sums[side] += seen.sum((0, 2, 3), dtype=torch.float64).numpy()
        squares[side] += seen.mul_(level).sum((0, 2, 3), dtype=torch.float64).numpy()
    weights, shifts = {}, {}
    for side in sides:
        mean = sums[side] / pixels
        variance = squares[side] / pixels - mean**2
        # What is the same everywhere stays 0. In grey levels² of 8-bit images, where rounding alone gives less.
        deviation = np.sqrt(np.where(variance > 1e-4, variance, 1.0))
        directions = _directions(channels, side, seed) / np.repeat(STEP * deviation, PATCH * PATCH)
        shift = BINS / 2 + 0.5 - directions @ np.repeat(mean, PATCH * PATCH)
        weights[side] = torch.from_numpy(directions.astype(np.float32))
        shifts[side] = torch.from_numpy(shift.astype(np.float32))
    return weights, shifts


def _times_seen(places: NDArray[np.int64], side: int) -> Tensor:
    """float32 (n, s, s): how many of an image's patches each of its pixels lies in."""
    count, wide = len(places), side + 1
    corners = np.zeros((count, wide * wide), np.int64)
    for sign, down, right in ((1, 0, 0), (-1, PATCH, 0), (-1, 0, PATCH), (1, PATCH, PATCH)):
        at = (places[..., 0] + down) * wide + places[..., 1] + right + wide * wide * np.arange(count)[:, None]
        corners += sign * np.bincount(at.ravel(), minlength=corners.size).reshape(corners.shape)
    seen = corners.reshape(count, wide, wide).cumsum(1).cumsum(2)
    return torch.from_numpy(seen[:, :side, :side].astype(np.float32))

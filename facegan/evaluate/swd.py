"""The sliced Wasserstein distance: how far small patches of two sets of images are apart, at each size of detail.

Karras et al. 2018, "Progressive Growing of GANs for Improved Quality, Stability, and Variation" (arXiv:1710.10196),
section 5, after Rabin et al. 2011, "Wasserstein Barycenter and its Application to Texture Mixing":

- each image is a Laplacian pyramid (`facegan.evaluate.pyramid`); a level gives 128 patches of 7×7 pixels an image, at
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

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facegan.errors import SettingsError
from facegan.evaluate.pyramid import laplacian_pyramid, level_sizes

PATCH, PATCHES, DIRECTIONS = 7, 128, 4 * 128
SCALE = 1000
STEP, REACH = 1 / 128, 32  # projections beyond ± 32 standard deviations count as these
BINS = round(2 * REACH / STEP)
# 0 lies in the middle of a bin: where all is the same, rounding may not spread it over two.
_EDGES = (-REACH - STEP / 2, REACH - STEP / 2)
_BLOCK_IMAGES, _BLOCK_DIRECTIONS = 512, 64  # 40 MB of patches, 17 MB of projections


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
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for side, patches in _patches(images, seed):
            for first in range(0, DIRECTIONS, _BLOCK_DIRECTIONS):
                some = slice(first, first + _BLOCK_DIRECTIONS)
                projected = torch.addmm(shifts[side][some, None], weights[side][some], patches.T).numpy()
                for row, found in enumerate(pool.map(_histogram, projected), first):
                    counts[side][row] += found
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


def _histogram(projected: NDArray[np.float32]) -> NDArray[np.int32]:
    """How many fall into each bin. OpenCV's takes a quarter of the time of numpy's bincount, and lets threads run."""
    found = cv2.calcHist([projected[None]], [0], None, [BINS], list(_EDGES)).ravel()
    if found.sum() < len(projected):  # it leaves out what lies beyond
        return _histogram(projected.clip(-REACH, REACH - STEP))
    return found.astype(np.int32)


def _patches(images: Tensor, seed: int) -> Iterator[tuple[int, Tensor]]:
    """Side of a level, and float32 (128 n, 49 C): its patches of a block of n images, not normalised."""
    for first in range(0, len(images), _BLOCK_IMAGES):
        block = images[first : first + _BLOCK_IMAGES].float()
        for level in laplacian_pyramid(block):
            pixels, side = level.numpy(), level.shape[-1]
            places = _places(len(block), side, seed, first)
            windows = np.lib.stride_tricks.sliding_window_view(pixels, (PATCH, PATCH), axis=(2, 3))
            chosen = windows[np.arange(len(block))[:, None], :, places[..., 0], places[..., 1]]
            yield side, torch.from_numpy(chosen.reshape(len(block) * PATCHES, -1))


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
    """For each level W (`DIRECTIONS`, 49 C) and s (`DIRECTIONS`,): W x + s projects a patch x as normalised."""
    channels, pixels = images.shape[1], len(images) * PATCHES * PATCH * PATCH
    sums = {side: np.zeros(channels) for side in sides}
    squares = {side: np.zeros(channels) for side in sides}
    for side, patches in _patches(images, seed):
        sums[side] += _by_channel(patches.sum(0), channels)
        squares[side] += _by_channel(torch.linalg.vector_norm(patches, dim=0).double().square(), channels)
    weights, shifts = {}, {}
    for side in sides:
        mean = sums[side] / pixels
        variance = squares[side] / pixels - mean**2
        # What is the same everywhere stays 0. In grey levels² of 8-bit images, where rounding alone gives less.
        deviation = np.sqrt(np.where(variance > 1e-4, variance, 1.0))
        directions = _directions(channels, side, seed) / np.repeat(deviation, PATCH * PATCH)
        weights[side] = torch.from_numpy(directions.astype(np.float32))
        shifts[side] = torch.from_numpy((-directions @ np.repeat(mean, PATCH * PATCH)).astype(np.float32))
    return weights, shifts


def _by_channel(columns: Tensor, channels: int) -> NDArray[np.float64]:
    return columns.double().view(channels, -1).sum(1).numpy()

"""Density and coverage: whether samples lie where real images lie, and whether all real images have samples near them.

Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics for Generative Models" (arXiv:2002.09797), section 3.
About each of N real images lies a ball that reaches to its k-th nearest other real image; of M samples

    density  = 1/(k M) Σ_samples |{real: the sample lies in its ball}|
    coverage = 1/N |{real: at least one sample lies in its ball}|

Samples that come from where real images come from have a density near 1 (it may be more) and, with k = 5 and as many
samples as real images, a coverage near 0.97.

Distances are found block by block, so memory grows with the number of images, not with its square.

N, M, K images, F features.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from facegan.errors import SettingsError

_BLOCK_ENTRIES = 1 << 22  # of a block of distances: 32 MB
_ROUNDING = 1e-12  # |x − y|² below this share of |x|² + |y|² is 0: float64 says no more of x = y


def density_coverage(real: NDArray[np.float32], fake: NDArray[np.float32], k: int = 5) -> tuple[float, float]:
    """Density, 0 and up, and coverage, 0 … 1.

    Args:
        real: features (N, F) of real images, N over ``k``.
        fake: features (M, F) of samples.
        k: which neighbour a real image's ball reaches to.

    Raises:
        SettingsError: there are too few images, no samples, or features of two kinds.
    """
    _check(fake, real, "real images", k + 1)
    radii = np.concatenate(
        [
            np.partition(_without_self(squares, first), k - 1, axis=1)[:, k - 1].copy()  # a view would keep its block
            for first, squares in _square_distances(real, real)
        ]
    )
    inside, covered = 0, np.zeros(len(real), bool)
    for _, squares in _square_distances(fake, real):
        within = squares < radii
        inside += int(np.count_nonzero(within))
        covered |= within.any(axis=0)
    return inside / (k * len(fake)), float(covered.mean())


def nearest(
    queries: NDArray[np.float32], references: NDArray[np.float32], count: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Each query's ``count`` nearest references, the nearest first.

    Args:
        queries: (N, F).
        references: (K, F), K at least ``count``.

    Returns:
        Euclidean distances float64 (N, ``count``), and the references' indices int64 (N, ``count``).

    Raises:
        SettingsError: there are too few references, no queries, or features of two kinds.
    """
    _check(queries, references, "references", count)
    distances = np.empty((len(queries), count))
    indices = np.empty((len(queries), count), np.int64)
    for first, squares in _square_distances(queries, references):
        found = _smallest(squares, count)
        rows = slice(first, first + len(squares))
        distances[rows] = np.sqrt(np.take_along_axis(squares, found, axis=1))
        indices[rows] = found
    return distances, indices


def _smallest(values: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Columns (N, ``count``) of each row's smallest values in order."""
    found = np.argpartition(values, count - 1, axis=1)[:, :count]
    order = np.lexsort((found, np.take_along_axis(values, found, axis=1)), axis=1)
    return np.take_along_axis(found, order, axis=1)


def _square_distances(
    queries: NDArray[np.float32], references: NDArray[np.float32]
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """The number of a block's first query, and squares (n, K) of its distances. In float64: |x|² − 2xy + |y|² takes
    the small from the large."""
    middle = references.mean(axis=0, dtype=np.float64)
    there = references - middle
    norms = np.einsum("ij,ij->i", there, there)
    block = max(1, _BLOCK_ENTRIES // len(references))
    for first in range(0, len(queries), block):
        here = queries[first : first + block] - middle
        sums = np.einsum("ij,ij->i", here, here)[:, None] + norms
        squares = here @ there.T
        squares *= -2
        squares += sums
        squares[squares < _ROUNDING * sums] = 0
        yield first, squares


def _without_self(squares: NDArray[np.float64], first: int) -> NDArray[np.float64]:
    rows = np.arange(len(squares))
    squares[rows, first + rows] = np.inf
    return squares


def _check(queries: NDArray[np.float32], references: NDArray[np.float32], what: str, least: int) -> None:
    if not len(queries) or len(references) < least:
        raise SettingsError(
            f"{len(queries):,} images can't be compared with {len(references):,} {what}: it takes 1 and {least}."
        )
    if queries.shape[1] != references.shape[1]:
        raise SettingsError(
            f"{queries.shape[1]:,} features can't be compared with {references.shape[1]:,}: "
            f"both have to come from one network."
        )

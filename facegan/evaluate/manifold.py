"""Density and coverage: how densely real images surround samples, and the share of real images with samples nearby.

Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics for Generative Models" (arXiv:2002.09797), section 3.
Each of N real images is the centre of a ball that reaches to its k-th nearest other real image. With M samples

    density  = 1/(k M) Σ_samples |{real: the sample is in its ball}|
    coverage = 1/N |{real: at least one sample is in its ball}|

Samples from the distribution of real images have a density near 1 (more is possible) and, with k = 5 and as many
samples as real images, a coverage near 0.97. Distances are computed in blocks, so memory grows linearly.

N, M, K images, F features.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from facegan.errors import SettingsError

_BLOCK_ENTRIES = 1 << 22  # distances in a block: 32 MB
_ROUNDING = 1e-12  # |x − y|² below this share of |x|² + |y|² is 0: the limit of float64


def density_coverage(real: NDArray[np.float32], fake: NDArray[np.float32], k: int = 5) -> tuple[float, float]:
    """Density (0 and up) and coverage (0 … 1) from features (N, F) of real images, N > ``k``, and (M, F) of samples.

    Raises:
        SettingsError: too few images, no samples, or features of different lengths.
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
    """The ``count`` nearest of references (K, F) for each query (N, F), nearest first.

    Returns:
        Euclidean distances float64 and indices int64, both (N, ``count``).

    Raises:
        SettingsError: fewer than ``count`` references, no queries, or features of different lengths.
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
    """Columns (N, ``count``) of each row's smallest values, in order."""
    found = np.argpartition(values, count - 1, axis=1)[:, :count]
    order = np.lexsort((found, np.take_along_axis(values, found, axis=1)), axis=1)
    return np.take_along_axis(found, order, axis=1)


def _square_distances(
    queries: NDArray[np.float32], references: NDArray[np.float32]
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Index of a block's first query, and its squared distances (n, K), in float64: |x|² − 2xy + |y|² cancels."""
    middle = references.mean(axis=0, dtype=np.float64)
    centred = references - middle
    norms = np.einsum("ij,ij->i", centred, centred)
    block = max(1, _BLOCK_ENTRIES // len(references))
    for first in range(0, len(queries), block):
        rows = queries[first : first + block] - middle
        sums = np.einsum("ij,ij->i", rows, rows)[:, None] + norms
        squares = rows @ centred.T
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
            f"The comparison needs at least 1 image and {least} {what}, not {len(queries):,} and {len(references):,}."
        )
    if queries.shape[1] != references.shape[1]:
        raise SettingsError(
            f"The comparison needs features of one network, not {queries.shape[1]:,} and {references.shape[1]:,} "
            "features."
        )

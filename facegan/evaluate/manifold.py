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

_BLOCK_ENTRIES = 1 << 22  # distances in a block: 32 MB
_ROUNDING = 1e-12  # |x − y|² below this share of |x|² + |y|² is 0: the limit of float64


def density_coverage(real: NDArray[np.float32], fake: NDArray[np.float32], k: int = 5) -> tuple[float, float]:
    """Density (0 and up) and coverage (0 … 1) from features (N, F) of real images, N > ``k``, and (M, F) of samples."""
    inside = _samples_in_balls(real, fake, k)
    return float(inside.sum()) / (k * len(fake)), float((inside > 0).mean())


def covered(real: NDArray[np.float32], fake: NDArray[np.float32], k: int = 5) -> NDArray[np.bool_]:
    """Which real images have a sample in their ball, (N,): coverage is the mean."""
    return _samples_in_balls(real, fake, k) > 0


def _samples_in_balls(real: NDArray[np.float32], fake: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    radii = np.empty(len(real))
    for first, squares in _square_distances(real, real):
        rows = np.arange(len(squares))
        squares[rows, first + rows] = np.inf  # an image is not its own neighbour
        radii[first + rows] = np.partition(squares, k - 1, axis=1)[:, k - 1]
    inside = np.zeros(len(real), np.int64)
    for _, squares in _square_distances(fake, real):
        inside += np.count_nonzero(squares < radii, axis=0)
    return inside


def nearest(
    queries: NDArray[np.float32], references: NDArray[np.float32], count: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Euclidean distances and indices, both (N, ``count``), of each query's nearest references, nearest first.

    Queries are (N, F), references (K, F) with K ≥ ``count``.
    """
    distances, indices = np.empty((len(queries), count)), np.empty((len(queries), count), np.int64)
    for first, squares in _square_distances(queries, references):
        found = np.argpartition(squares, count - 1, axis=1)[:, :count]
        order = np.lexsort((found, np.take_along_axis(squares, found, axis=1)), axis=1)
        rows = slice(first, first + len(squares))
        indices[rows] = np.take_along_axis(found, order, axis=1)
        distances[rows] = np.sqrt(np.take_along_axis(squares, indices[rows], axis=1))
    return distances, indices


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

"""The Fréchet distance: how far the Gaussians that fit two sets of features are apart.

Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium"
(arXiv:1706.08500), section 3, after Dowson & Landau 1982, "The Fréchet distance between multivariate normal
distributions":

    d² = |µ_a − µ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½)

The trace of the root is the sum of the roots of the eigenvalues of √Σ_a Σ_b √Σ_a, which has those of Σ_a Σ_b and is
symmetric: it stays exact where a covariance is singular, as with fewer images than features, where a root of the
product itself does not.

N images, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facegan.errors import SettingsError

_BLOCK = 4096  # rows that are held as float64 at once


@dataclass(frozen=True, eq=False)
class Gaussian:
    """The mean (F,) and the covariance (F, F), both float64, of ``count`` images' features."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    count: int


def statistics(features: NDArray[np.floating]) -> Gaussian:
    """The Gaussian that fits (N, F) features; the covariance is the unbiased one, over N − 1.

    Raises:
        SettingsError: there are fewer than two images, or features that are not finite.
    """
    count, width = features.shape
    if count < 2:
        raise SettingsError(f"The Fréchet distance needs features of at least 2 images, not of {count}.")
    mean = features.mean(axis=0, dtype=np.float64)
    if not np.isfinite(mean).all():
        raise SettingsError(f"The features of {count:,} images hold numbers that are not finite.")
    covariance = np.zeros((width, width))
    for first in range(0, count, _BLOCK):
        centred = features[first : first + _BLOCK] - mean
        covariance += centred.T @ centred
    return Gaussian(mean, covariance / (count - 1), count)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """d² of the equation above, as the FID is: 0 for equal Gaussians, never less.

    Raises:
        SettingsError: they are of features of another number.
    """
    if a.mean.shape != b.mean.shape:
        raise SettingsError(
            f"{len(a.mean):,} features have no Fréchet distance to {len(b.mean):,}: both have to come from one network."
        )
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    shared = np.linalg.eigvalsh(root @ b.covariance @ root)
    spread = np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.sqrt(shared.clip(0)).sum()
    return max(0.0, float(np.square(a.mean - b.mean).sum() + spread))

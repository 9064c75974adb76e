"""torch-fidelity's formulas, on features that a network has of images: so the values are those of its own command.

FID: Heusel et al. 2017 (arXiv:1706.08500). KID: Bińkowski et al. 2018 (arXiv:1801.01401). Inception Score: Salimans et
al. 2016 (arXiv:1606.03498). Precision and recall: Kynkäänniemi et al. 2019 (arXiv:1904.06991).

N images, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from facegan.errors import DamagedFile, ModelError, SettingsError
from facegan.files import parsing

_SEED = 2020  # torch-fidelity's own: of KID's subsets, and of the order in which the Inception Score takes its parts
_MOST_STATISTICS_BYTES = 100_000_000  # 2,048 × 2,048 float64 are 34
_ROWS = 2_500  # of distances at a time
KID_SUBSET, SCORE_PARTS = 1_000, 10

Rows = NDArray[np.float32]


def fid(samples: Rows, reference: tuple[NDArray[Any], NDArray[Any]] | Rows) -> float:
    """
    Args:
        samples: (N, D).
        reference: features (N, D), or (mu, sigma) as others have published them.
    """
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    ours = fid_features_to_statistics(torch.from_numpy(samples))
    if isinstance(reference, tuple):
        mu, sigma = (part.astype(np.float64) for part in reference)
        ours = {name: part.astype(np.float64) for name, part in ours.items()}
        theirs = {"mu": mu, "sigma": sigma}
    else:
        theirs = fid_features_to_statistics(torch.from_numpy(reference))
    return fid_statistics_to_metric(ours, theirs, verbose=False)["frechet_inception_distance"]


def kid(samples: Rows, faces: Rows, subsets: int) -> tuple[float, float, int]:
    """Mean and standard deviation over ``subsets`` subsets, and how many images each has: min(1,000, N)."""
    from torch_fidelity.metric_kid import kid_features_to_metric

    a, b = torch.from_numpy(samples), torch.from_numpy(faces)
    size = min(KID_SUBSET, len(a), len(b))
    told = kid_features_to_metric(a, b, kid_subsets=subsets, kid_subset_size=size, rng_seed=_SEED, verbose=False)
    return told["kernel_inception_distance_mean"], told["kernel_inception_distance_std"], size


def inception_score(logits: Rows) -> tuple[float, float]:
    """Mean and standard deviation over `SCORE_PARTS` parts."""
    from torch_fidelity.metric_isc import isc_features_to_metric

    told = isc_features_to_metric(torch.from_numpy(logits), splits=SCORE_PARTS, rng_seed=_SEED)
    return told["inception_score_mean"], told["inception_score_std"]


def precision_recall(samples: Rows, faces: Rows) -> tuple[float, float]:
    """With the third nearest neighbour, as published (there of VGG-16's features); a block of distances at a time."""
    from torch_fidelity.metric_prc import prc_features_to_metric

    a, b = torch.from_numpy(samples), torch.from_numpy(faces)
    told = prc_features_to_metric(a, b, prc_batch_size=_ROWS, save_cpu_ram=True, verbose=False)
    return told["precision"], told["recall"]


def read_statistics(path: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """mu (2048,) and sigma (2048, 2048) of an ``.npz`` as pytorch-fid, TTUR and others publish them.

    Raises:
        ModelError: the file is missing, or holds something else; pickled arrays are not read.
    """
    try:
        with Path(path).open("rb") as file, parsing(path), np.load(file, allow_pickle=False) as held:
            if any(held.zip.getinfo(f"{name}.npy").file_size > _MOST_STATISTICS_BYTES for name in ("mu", "sigma")):
                raise ValueError("they unpack to more than 100 MB")
            mu, sigma = held["mu"], held["sigma"]
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}. Name an .npz with mu and sigma.") from None
    except DamagedFile as error:
        # NumPy's text on pickles tells how to load them without care.
        why = "nothing pickled is loaded" if "pickle" in error.why else error.why
        raise ModelError(f"{path} holds no statistics (an .npz with mu and sigma): {why}") from None
    real = all(np.issubdtype(part.dtype, np.floating) and np.isfinite(part).all() for part in (mu, sigma))
    if not real or mu.shape != (2048,) or sigma.shape != (2048, 2048):
        raise ModelError(
            f"{path} has mu of shape {mu.shape} and sigma of shape {sigma.shape}: Inception's 2,048 features are "
            "needed, in finite numbers."
        )
    return mu, sigma


# The Fréchet distance: how far the Gaussians that fit two sets of features are apart.
#
# Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium"
# (arXiv:1706.08500), section 3, after Dowson & Landau 1982, "The Fréchet distance between multivariate normal
# distributions":
#
#     d² = |µ_a − µ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½)
#
# The trace of the root is the sum of the roots of the eigenvalues of √Σ_a Σ_b √Σ_a, which has those of Σ_a Σ_b and is
# symmetric: it stays exact where a covariance is singular, as with fewer images than features, where a root of the
# product itself does not.
#
# N images, F features.

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

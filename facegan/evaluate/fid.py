"""Metrics of features by torch-fidelity's formulas (values equal its own command's), and the Fréchet distance.

FID: Heusel et al. 2017 (arXiv:1706.08500). KID: Bińkowski et al. 2018 (arXiv:1801.01401). Inception Score: Salimans et
al. 2016 (arXiv:1606.03498). Precision and recall: Kynkäänniemi et al. 2019 (arXiv:1904.06991).

N images, D features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from facegan.errors import DamagedFile, ModelError
from facegan.files import parsing

KID_SUBSET, SCORE_PARTS = 1_000, 10
_SEED = 2020  # torch-fidelity's own, for KID's subsets and the order of the Inception Score's parts
_MAX_STATISTICS_BYTES = 100_000_000  # 2,048 × 2,048 float64 are 34 MB
_DISTANCE_ROWS = 2_500
_BLOCK = 4096  # rows held as float64 at once

Rows = NDArray[np.float32]
Gaussian = tuple[NDArray[np.float64], NDArray[np.float64]]  # mean (D,) and covariance (D, D)


def fid(samples: Rows, reference: tuple[NDArray[Any], NDArray[Any]] | Rows) -> float:
    """FID of samples (N, D) to features (N, D), or to published statistics (mu, sigma)."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    ours = fid_features_to_statistics(torch.from_numpy(samples))
    if isinstance(reference, tuple):
        mu, sigma = (part.astype(np.float64) for part in reference)
        ours = {name: part.astype(np.float64) for name, part in ours.items()}
        theirs = {"mu": mu, "sigma": sigma}
    else:
        theirs = fid_features_to_statistics(torch.from_numpy(reference))
    return fid_statistics_to_metric(ours, theirs, verbose=False)["frechet_inception_distance"]


def kid(samples: Rows, faces: Rows, subsets: int) -> tuple[float, float]:
    """Mean and standard deviation over ``subsets`` subsets of min(1,000, N) images."""
    from torch_fidelity.metric_kid import kid_features_to_metric

    a, b = torch.from_numpy(samples), torch.from_numpy(faces)
    size = min(KID_SUBSET, len(a), len(b))
    found = kid_features_to_metric(a, b, kid_subsets=subsets, kid_subset_size=size, rng_seed=_SEED, verbose=False)
    return found["kernel_inception_distance_mean"], found["kernel_inception_distance_std"]


def inception_score(logits: Rows) -> tuple[float, float]:
    """Mean and standard deviation over `SCORE_PARTS` parts."""
    from torch_fidelity.metric_isc import isc_features_to_metric

    found = isc_features_to_metric(torch.from_numpy(logits), splits=SCORE_PARTS, rng_seed=_SEED)
    return found["inception_score_mean"], found["inception_score_std"]


def precision_recall(samples: Rows, faces: Rows) -> tuple[float, float]:
    """With the third nearest neighbour as in the paper (which uses VGG-16's features)."""
    from torch_fidelity.metric_prc import prc_features_to_metric

    a, b = torch.from_numpy(samples), torch.from_numpy(faces)
    found = prc_features_to_metric(a, b, prc_batch_size=_DISTANCE_ROWS, save_cpu_ram=True, verbose=False)
    return found["precision"], found["recall"]


def read_statistics(path: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """mu (2048,) and sigma (2048, 2048) of an ``.npz`` as pytorch-fid, TTUR and others publish them.

    Raises:
        ModelError: the file is missing or contains anything else. Pickled arrays are not read.
    """
    try:
        with Path(path).open("rb") as file, parsing(path), np.load(file, allow_pickle=False) as arrays:
            if any(arrays.zip.getinfo(f"{name}.npy").file_size > _MAX_STATISTICS_BYTES for name in ("mu", "sigma")):
                raise ValueError("they unpack to more than 100 MB")
            mu, sigma = arrays["mu"], arrays["sigma"]
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}. Name an .npz with mu and sigma.") from None
    except DamagedFile as error:
        # NumPy's text on pickles says how to load them unsafely.
        why = "nothing pickled is loaded" if "pickle" in error.why else error.why
        raise ModelError(f"{path} contains no statistics (an .npz with mu and sigma): {why}") from None
    finite = all(np.issubdtype(part.dtype, np.floating) and np.isfinite(part).all() for part in (mu, sigma))
    if not finite or mu.shape != (2048,) or sigma.shape != (2048, 2048):
        raise ModelError(
            f"{path} has mu of shape {mu.shape} and sigma of shape {sigma.shape}.\n"
            "The FID needs finite statistics of Inception's 2,048 features."
        )
    return mu, sigma


def statistics(features: NDArray[np.floating]) -> Gaussian:
    """The mean (D,) and the unbiased covariance (D, D), over N − 1, of features (N, D)."""
    count, width = features.shape
    mean = features.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((width, width))
    for first in range(0, count, _BLOCK):
        centred = features[first : first + _BLOCK] - mean
        covariance += centred.T @ centred
    return mean, covariance / (count - 1)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """d² = |µ_a − µ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½): 0 for equal Gaussians, never negative.

    Heusel et al. 2017, section 3, after Dowson & Landau 1982, "The Fréchet distance between multivariate normal
    distributions". The trace of the root is the sum of the roots of the eigenvalues of √Σ_a Σ_b √Σ_a, which equal those
    of Σ_a Σ_b. This matrix is symmetric, so the result is exact for singular covariances (fewer images than features).
    """
    (mean_a, covariance_a), (mean_b, covariance_b) = a, b
    values, vectors = np.linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    shared = np.linalg.eigvalsh(root @ covariance_b @ root)
    spread = np.trace(covariance_a) + np.trace(covariance_b) - 2 * np.sqrt(shared.clip(0)).sum()
    return max(0.0, float(np.square(mean_a - mean_b).sum() + spread))

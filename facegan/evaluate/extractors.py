"""Extractors: each turns a set of images into arrays, and computes its metrics from two such sets of arrays.

Images are uint8 (N, C, S, S) on the CPU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from facegan.evaluate.face_metrics import MIN_SCORE, MODEL, find_faces, keypoint_distance, with_one_face
from facegan.evaluate.fid import fid, frechet_distance, inception_score, kid, precision_recall, statistics
from facegan.evaluate.manifold import density_coverage
from facegan.evaluate.ms_ssim import ms_ssim_pairs
from facegan.evaluate.pretrained import CLIP, INCEPTION, LOGITS, POOL, PretrainedNet
from facegan.evaluate.random_net import RANDOM_NET, random_features
from facegan.evaluate.swd import BINS, project, sliced_wasserstein
from facegan.faces.detect import resolve_model
from facegan.manifests import known_models

Arrays = Mapping[str, NDArray[Any]]
Wanted = tuple[str, ...]
NEIGHBOURS = 5  # k of density and coverage
INCEPTION_METRICS = ("fid", "kid", "inception_score", "precision", "recall")
CLIP_METRICS = ("fid_clip", "kid_clip")
FACE_METRICS = ("one_face", "keypoints")
_MIN_FACES = 2  # for a distribution of keypoints


@dataclass(frozen=True)
class Extractor:
    """
    Attributes:
        name: of its entries in the feature cache.
        metrics: names in `facegan.config.METRIC_TABLE` that it can compute.
        key: everything besides the images that determines the arrays, as plain values.
        extract: the arrays of a set of images.
        compare: values of the wanted metrics, from the arrays of samples and of real faces; parts of a metric are named
            METRIC_PART.
        settings: everything besides the arrays that determines the metrics, as plain values.
        per_image: row i of each array depends on image i alone, so rows of a set are the arrays of a subset.
    """

    name: str
    metrics: tuple[str, ...]
    key: Mapping[str, Any]
    extract: Callable[[Tensor], Arrays]
    compare: Callable[[Arrays, Arrays, Wanted], dict[str, float]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    per_image: bool = True


def light_extractors(seed: int) -> tuple[Extractor, ...]:
    """Those that need no downloaded weights and take seconds."""
    return _patches(seed), _random_net(), _pairs(seed)


def _patches(seed: int) -> Extractor:
    """`facegan.evaluate.swd`."""

    def extract(images: Tensor) -> Arrays:
        """Counts by side, without the bins that are empty at both ends."""
        arrays: dict[str, NDArray[Any]] = {}
        for side, counts in project(images, seed).items():
            filled = np.flatnonzero(counts.any(0))
            margin = min(int(filled[0]), BINS - 1 - int(filled[-1]))
            arrays[str(side)] = counts[:, margin : BINS - margin]
        return arrays

    def whole(arrays: Arrays) -> dict[int, NDArray[np.int32]]:
        margins = {side: (BINS - counts.shape[1]) // 2 for side, counts in arrays.items()}
        sides = sorted(arrays, key=int, reverse=True)
        return {int(side): np.pad(arrays[side], ((0, 0), (margins[side], margins[side]))) for side in sides}

    def compare(samples: Arrays, faces: Arrays, wanted: Wanted) -> dict[str, float]:
        return sliced_wasserstein(whole(samples), whole(faces))

    return Extractor("patches", ("swd",), {"seed": seed, "bins": BINS}, extract, compare, per_image=False)


def _random_net() -> Extractor:
    """`facegan.evaluate.random_net`."""

    def compare(samples: Arrays, faces: Arrays, wanted: Wanted) -> dict[str, float]:
        ours, theirs = samples["features"], faces["features"]
        found: dict[str, float] = {}
        if "frechet_random" in wanted:
            found["frechet_random"] = frechet_distance(statistics(ours), statistics(theirs))
        if "density" in wanted or "coverage" in wanted:
            found["density"], found["coverage"] = density_coverage(theirs, ours, NEIGHBOURS)
        return found

    return Extractor(
        "random-net",
        ("frechet_random", "density", "coverage"),
        {"net": RANDOM_NET},
        lambda images: {"features": random_features(images)},
        compare,
        {"k": NEIGHBOURS},
    )


def _pairs(seed: int) -> Extractor:
    """`facegan.evaluate.ms_ssim`, a metric of one set."""
    return Extractor(
        "pairs",
        ("ms_ssim",),
        {"seed": seed},
        lambda images: {"ms_ssim": np.array([ms_ssim_pairs(images, max(1, len(images) // 2), seed)])},
        lambda samples, faces, wanted: {"ms_ssim": float(samples["ms_ssim"][0])},
        per_image=False,
    )


def one_face() -> Extractor:
    """`facegan.evaluate.face_metrics`; raises ModelError if the detector's model is unavailable."""
    model = known_models()[MODEL]
    resolve_model(model)

    def compare(samples: Arrays, faces: Arrays, wanted: Wanted) -> dict[str, float]:
        ours, theirs = with_one_face(samples["keypoints"]), with_one_face(faces["keypoints"])
        found = {"one_face": len(ours) / len(samples["keypoints"])}
        if "keypoints" in wanted and min(len(ours), len(theirs)) >= _MIN_FACES:
            found["keypoints"] = keypoint_distance(ours, theirs)
        return found

    key = {"model": MODEL, "sha256": model.sha256, "min_score": MIN_SCORE}
    return Extractor("one-face", FACE_METRICS, key, lambda images: {"keypoints": find_faces(images)}, compare)


def inception_features(
    net: PretrainedNet, kid_subsets: int, published: tuple[NDArray[Any], NDArray[Any]] | None = None
) -> Extractor:
    """
    Args:
        published: mu and sigma for the FID, instead of real faces.
    """

    def compare(samples: Arrays, faces: Arrays, wanted: Wanted) -> dict[str, float]:
        found: dict[str, float] = {}
        if "fid" in wanted:
            found["fid"] = fid(samples[POOL], published or faces[POOL])
        if "kid" in wanted:
            found["kid"], found["kid_std"] = kid(samples[POOL], faces[POOL], kid_subsets)
        if "inception_score" in wanted:
            found["inception_score"], found["inception_score_std"] = inception_score(samples[LOGITS])
        if "precision" in wanted or "recall" in wanted:
            found["precision"], found["recall"] = precision_recall(samples[POOL], faces[POOL])
        return found

    checksums = [hashlib.sha256(part.tobytes()).hexdigest() for part in published or ()]
    settings = {"kid_subsets": kid_subsets, "statistics": checksums}
    key = {"network": INCEPTION, "weights": net.weights.sha256}
    return Extractor("inception", INCEPTION_METRICS, key, net.outputs, compare, settings)


def clip_features(net: PretrainedNet, kid_subsets: int) -> Extractor:
    def compare(samples: Arrays, faces: Arrays, wanted: Wanted) -> dict[str, float]:
        ours, theirs = samples["clip"], faces["clip"]
        found: dict[str, float] = {}
        if "fid_clip" in wanted:
            found["fid_clip"] = fid(ours, theirs)
        if "kid_clip" in wanted:
            found["kid_clip"], found["kid_clip_std"] = kid(ours, theirs, kid_subsets)
        return found

    key = {"network": CLIP, "weights": net.weights.sha256}
    return Extractor("clip", CLIP_METRICS, key, net.outputs, compare, {"kid_subsets": kid_subsets})

"""Extractors: each turns a set of images into arrays, and computes its metrics from two such sets of arrays.

Images are uint8 (N, C, S, S) on the CPU.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from facegan.evaluate.face_metrics import MIN_SCORE, MODEL, FacesFound, find_faces, keypoint_distance
from facegan.evaluate.fid import fid, frechet_distance, inception_score, kid, precision_recall, statistics
from facegan.evaluate.manifold import density_coverage
from facegan.evaluate.ms_ssim import ms_ssim_pairs
from facegan.evaluate.pretrained import CLIP, INCEPTION, LOGITS, POOL, Clip, Inception
from facegan.evaluate.random_net import RANDOM_NET, random_features
from facegan.evaluate.swd import BINS, Projections, project, sliced_wasserstein
from facegan.faces.detect import resolve_model
from facegan.manifests import known_models

Arrays = Mapping[str, NDArray[Any]]
NEIGHBOURS = 5  # k of density and coverage
_MIN_FACES = 2  # for a distribution of keypoints


class Extractor(ABC):
    """
    Attributes:
        name: of its entries in the feature cache.
        metrics: names in `facegan.config.METRIC_TABLE` that it can compute.
        per_image: row i of each array depends on image i alone, so rows of a set are the arrays of a subset.
    """

    name: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]
    per_image: ClassVar[bool]

    @abstractmethod
    def key(self) -> dict[str, Any]:
        """Everything besides the images that determines the arrays, as plain values."""

    @abstractmethod
    def extract(self, images: Tensor) -> Arrays: ...

    def settings(self) -> dict[str, Any]:
        """Everything besides the arrays that determines the metrics, as plain values."""
        return {}

    @abstractmethod
    def compare(self, samples: Arrays, faces: Arrays, wanted: tuple[str, ...]) -> dict[str, float]:
        """Values of the wanted metrics; parts of a metric are named METRIC_PART."""


class Patches(Extractor):
    """`facegan.evaluate.swd`."""

    name, metrics, per_image = "patches", ("swd",), False

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def key(self) -> dict[str, Any]:
        return {"seed": self.seed, "bins": BINS}

    def extract(self, images: Tensor) -> Arrays:
        """Counts without the empty bins at both ends."""
        projections = project(images, self.seed)
        arrays: dict[str, NDArray[Any]] = {"about": np.array([projections.images, projections.channels])}
        for side, counts in projections.counts.items():
            filled = np.flatnonzero(counts.any(0))
            first, last = int(filled[0]), int(filled[-1]) + 1
            arrays[f"counts_{side}"], arrays[f"first_{side}"] = counts[:, first:last], np.array([first])
        return arrays

    def compare(self, samples: Arrays, faces: Arrays, wanted: tuple[str, ...]) -> dict[str, float]:
        return sliced_wasserstein(self._projections(samples), self._projections(faces))

    def _projections(self, arrays: Arrays) -> Projections:
        counts = {}
        for name in (name for name in arrays if name.startswith("counts_")):
            side, filled = name.removeprefix("counts_"), arrays[name]
            first = int(arrays[f"first_{side}"][0])
            counts[int(side)] = np.zeros((len(filled), BINS), np.int32)
            counts[int(side)][:, first : first + filled.shape[1]] = filled
        images, channels = (int(value) for value in arrays["about"])
        return Projections(images, channels, self.seed, dict(sorted(counts.items(), reverse=True)))


class RandomNet(Extractor):
    """`facegan.evaluate.random_net`."""

    name, metrics, per_image = "random-net", ("frechet_random", "density", "coverage"), True

    def key(self) -> dict[str, Any]:
        return {"net": RANDOM_NET}

    def extract(self, images: Tensor) -> Arrays:
        return {"features": random_features(images)}

    def settings(self) -> dict[str, Any]:
        return {"k": NEIGHBOURS}

    def compare(self, samples: Arrays, faces: Arrays, wanted: tuple[str, ...]) -> dict[str, float]:
        ours, theirs = samples["features"], faces["features"]
        found: dict[str, float] = {}
        if "frechet_random" in wanted:
            found["frechet_random"] = frechet_distance(statistics(ours), statistics(theirs))
        if "density" in wanted or "coverage" in wanted:
            found["density"], found["coverage"] = density_coverage(theirs, ours, NEIGHBOURS)
        return found


class Pairs(Extractor):
    """`facegan.evaluate.ms_ssim`, a metric of one set."""

    name, metrics, per_image = "pairs", ("ms_ssim",), False

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def key(self) -> dict[str, Any]:
        return {"seed": self.seed}

    def extract(self, images: Tensor) -> Arrays:
        return {"ms_ssim": np.array([ms_ssim_pairs(images, max(1, len(images) // 2), self.seed)])}

    def compare(self, samples: Arrays, faces: Arrays, wanted: tuple[str, ...]) -> dict[str, float]:
        return {"ms_ssim": float(samples["ms_ssim"][0])}


class OneFace(Extractor):
    """`facegan.evaluate.face_metrics`; raises ModelError if the detector's model is unavailable."""

    name, metrics, per_image = "one-face", ("one_face", "keypoints"), True

    def __init__(self) -> None:
        model = known_models()[MODEL]
        resolve_model(model)
        self.sha256 = model.sha256

    def key(self) -> dict[str, Any]:
        return {"model": MODEL, "sha256": self.sha256, "min_score": MIN_SCORE}

    def extract(self, images: Tensor) -> Arrays:
        """``found`` (N,) is 1 for images with one face; ``keypoints`` (N, 6, 2) is 0 for the others."""
        faces = find_faces(images)
        found = np.zeros(len(images), np.uint8)
        found[faces.indices] = 1
        keypoints = np.zeros((len(images), *faces.keypoints.shape[1:]), np.float32)
        keypoints[faces.indices] = faces.keypoints
        return {"found": found, "keypoints": keypoints}

    def compare(self, samples: Arrays, faces: Arrays, wanted: tuple[str, ...]) -> dict[str, float]:
        ours, theirs = _faces_found(samples), _faces_found(faces)
        found = {"one_face": ours.share}
        if "keypoints" in wanted and min(len(ours.indices), len(theirs.indices)) >= _MIN_FACES:
            found["keypoints"] = keypoint_distance(ours, theirs)
        return found


def _faces_found(arrays: Arrays) -> FacesFound:
    indices = np.flatnonzero(arrays["found"])
    return FacesFound(len(arrays["found"]), indices, arrays["keypoints"][indices])


class InceptionFeatures(Extractor):
    """
    Args:
        statistics: published mu and sigma for the FID, instead of real faces.
    """

    name, per_image = "inception", True
    metrics = ("fid", "kid", "inception_score", "precision", "recall")

    def __init__(self, net: Inception, kid_subsets: int, statistics: tuple[Any, Any] | None = None) -> None:
        self.net, self.kid_subsets, self.statistics = net, kid_subsets, statistics

    def key(self) -> dict[str, Any]:
        return {"network": INCEPTION, "weights": self.net.weights.sha256}

    def extract(self, images: Tensor) -> Arrays:
        return self.net.features(images)

    def settings(self) -> dict[str, Any]:
        checksums = [hashlib.sha256(part.tobytes()).hexdigest() for part in self.statistics or ()]
        return {"kid_subsets": self.kid_subsets, "statistics": checksums}

    def compare(self, samples: Arrays, faces: Arrays, wanted: tuple[str, ...]) -> dict[str, float]:
        found: dict[str, float] = {}
        if "fid" in wanted:
            found["fid"] = fid(samples[POOL], self.statistics or faces[POOL])
        if "kid" in wanted:
            found["kid"], found["kid_std"] = kid(samples[POOL], faces[POOL], self.kid_subsets)
        if "inception_score" in wanted:
            found["inception_score"], found["inception_score_std"] = inception_score(samples[LOGITS])
        if "precision" in wanted or "recall" in wanted:
            found["precision"], found["recall"] = precision_recall(samples[POOL], faces[POOL])
        return found


class ClipFeatures(Extractor):
    name, metrics, per_image = "clip", ("fid_clip", "kid_clip"), True

    def __init__(self, net: Clip, kid_subsets: int) -> None:
        self.net, self.kid_subsets = net, kid_subsets

    def key(self) -> dict[str, Any]:
        return {"network": CLIP, "weights": self.net.weights.sha256}

    def extract(self, images: Tensor) -> Arrays:
        return {"features": self.net.features(images)}

    def settings(self) -> dict[str, Any]:
        return {"kid_subsets": self.kid_subsets}

    def compare(self, samples: Arrays, faces: Arrays, wanted: tuple[str, ...]) -> dict[str, float]:
        ours, theirs = samples["features"], faces["features"]
        found: dict[str, float] = {}
        if "fid_clip" in wanted:
            found["fid_clip"] = fid(ours, theirs)
        if "kid_clip" in wanted:
            found["kid_clip"], found["kid_clip_std"] = kid(ours, theirs, self.kid_subsets)
        return found

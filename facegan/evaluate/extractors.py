"""Views of images: what a set of them is turned into, once, and the metrics that two such sets have.

Each of these has images N, uint8 (N, C, S, S) on the CPU, turned into named arrays. Where every image is seen by itself
(``rowwise``), row i of each array is image i, and parts of a set are rows of the whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from facegan.evaluate.density_coverage import density_coverage
from facegan.evaluate.face_metrics import MIN_SCORE, MODEL, FacesFound, find_faces, keypoint_distance
from facegan.evaluate.features import CLIP as CLIP_NETWORK
from facegan.evaluate.features import INCEPTION, LOGITS, POOL, RANDOM_NET, Clip, Inception, random_features
from facegan.evaluate.fid import fid, frechet_distance, inception_score, kid, precision_recall, statistics
from facegan.evaluate.ms_ssim import ms_ssim_pairs
from facegan.evaluate.swd import BINS, Projections, project, sliced_wasserstein
from facegan.faces.detect import resolve_model
from facegan.manifests import known_models

Arrays = Mapping[str, NDArray[Any]]
NEIGHBOURS = 5  # k of density and coverage
_LEAST_FACES = 2  # for the distribution of their keypoints


class Extractor(Protocol):
    @property
    def name(self) -> str:
        """Of what is kept of it."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those that it can give, of `facegan.config.METRIC_TABLE`."""
        ...

    @property
    def rowwise(self) -> bool: ...

    def key(self) -> Mapping[str, Any]:
        """All that its arrays hang on beside the images, as plain values."""
        ...

    def see(self, images: Tensor) -> Arrays: ...

    def settings(self) -> Mapping[str, Any]:
        """All that `compare` hangs on beside arrays, as plain values."""
        ...

    def compare(self, samples: Arrays, faces: Arrays, wanted: tuple[str, ...]) -> dict[str, float]:
        """The wanted ones of its metrics; parts of one have names that begin with its own."""
        ...


class Patches:
    """`facegan.evaluate.swd`."""

    name, metrics, rowwise = "patches", ("swd",), False

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def key(self) -> dict[str, Any]:
        return {"seed": self.seed, "bins": BINS}

    def see(self, images: Tensor) -> Arrays:
        """Counts without the empty bins at both ends."""
        seen = project(images, self.seed)
        arrays: dict[str, NDArray[Any]] = {"about": np.array([seen.images, seen.channels])}
        for side, counts in seen.counts.items():
            filled = np.flatnonzero(counts.any(0))
            first, last = int(filled[0]), int(filled[-1]) + 1
            arrays[f"counts_{side}"], arrays[f"first_{side}"] = counts[:, first:last], np.array([first])
        return arrays

    def settings(self) -> dict[str, Any]:
        return {}

    def compare(self, samples: Arrays, faces: Arrays, wanted: tuple[str, ...]) -> dict[str, float]:
        return sliced_wasserstein(self._projections(samples), self._projections(faces))

    def _projections(self, seen: Arrays) -> Projections:
        counts = {}
        for name in (name for name in seen if name.startswith("counts_")):
            side, held = name.removeprefix("counts_"), seen[name]
            first = int(seen[f"first_{side}"][0])
            counts[int(side)] = np.zeros((len(held), BINS), np.int32)
            counts[int(side)][:, first : first + held.shape[1]] = held
        images, channels = (int(value) for value in seen["about"])
        return Projections(images, channels, self.seed, dict(sorted(counts.items(), reverse=True)))


class RandomNet:
    """`facegan.evaluate.features`."""

    name, metrics, rowwise = "random-net", ("frechet_random", "density", "coverage"), True

    def key(self) -> dict[str, Any]:
        return {"net": RANDOM_NET}

    def see(self, images: Tensor) -> Arrays:
        return {"features": random_features(images)}

    def settings(self) -> dict[str, Any]:
        return {"k": NEIGHBOURS}

    def compare(self, samples: Arrays, faces: Arrays, wanted: tuple[str, ...]) -> dict[str, float]:
        ours, theirs = samples["features"], faces["features"]
        found: dict[str, float] = {}
        if "frechet_random" in wanted:
            found["frechet_random"] = frechet_distance(statistics(ours), statistics(theirs))
        if "density" in wanted or "coverage" in wanted:
            density, coverage = density_coverage(theirs, ours, NEIGHBOURS)
            found |= {"density": density, "coverage": coverage}
        return found


class Pairs:
    """`facegan.evaluate.ms_ssim`: of one set alone."""

    name, metrics, rowwise = "pairs", ("ms_ssim",), False

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def key(self) -> dict[str, Any]:
        return {"seed": self.seed}

    def see(self, images: Tensor) -> Arrays:
        return {"ms_ssim": np.array([ms_ssim_pairs(images, max(1, len(images) // 2), self.seed)])}

    def settings(self) -> dict[str, Any]:
        return {}

    def compare(self, samples: Arrays, faces: Arrays, wanted: tuple[str, ...]) -> dict[str, float]:
        return {"ms_ssim": float(samples["ms_ssim"][0])}


class OneFace:
    """`facegan.evaluate.face_metrics`.

    Raises:
        ModelError: the detector's model can't be had.
    """

    name, metrics, rowwise = "one-face", ("one_face", "keypoints"), True

    def __init__(self) -> None:
        model = known_models()[MODEL]
        resolve_model(model)
        self.sha256 = model.sha256

    def key(self) -> dict[str, Any]:
        return {"model": MODEL, "sha256": self.sha256, "min_score": MIN_SCORE}

    def see(self, images: Tensor) -> Arrays:
        """``found`` (N,) is 1 where there is one face, and ``keypoints`` (N, 6, 2) tells where."""
        seen = find_faces(images)
        found = np.zeros(len(images), np.uint8)
        found[seen.indices] = 1
        keypoints = np.zeros((len(images), *seen.keypoints.shape[1:]), np.float32)
        keypoints[seen.indices] = seen.keypoints
        return {"found": found, "keypoints": keypoints}

    def settings(self) -> dict[str, Any]:
        return {}

    def compare(self, samples: Arrays, faces: Arrays, wanted: tuple[str, ...]) -> dict[str, float]:
        ours, theirs = _faces_found(samples), _faces_found(faces)
        found = {"one_face": ours.share}
        if "keypoints" in wanted and min(len(ours.indices), len(theirs.indices)) >= _LEAST_FACES:
            found["keypoints"] = keypoint_distance(ours, theirs)
        return found


def _faces_found(seen: Arrays) -> FacesFound:
    indices = np.flatnonzero(seen["found"])
    return FacesFound(len(seen["found"]), indices, seen["keypoints"][indices])


class InceptionNet:
    """`facegan.evaluate.features`.

    Args:
        statistics: mu and sigma that the FID is to, in the place of real faces.
    """

    name, rowwise = "inception", True
    metrics = ("fid", "kid", "inception_score", "precision", "recall")

    def __init__(self, net: Inception, kid_subsets: int, statistics: tuple[Any, Any] | None = None) -> None:
        self.net, self.kid_subsets, self.statistics = net, kid_subsets, statistics

    def key(self) -> dict[str, Any]:
        return {"network": INCEPTION, "weights": self.net.weights.sha256}

    def see(self, images: Tensor) -> Arrays:
        return self.net.features(images)

    def settings(self) -> dict[str, Any]:
        sums = [hashlib.sha256(part.tobytes()).hexdigest() for part in self.statistics or ()]
        return {"kid_subsets": self.kid_subsets, "statistics": sums}

    def compare(self, samples: Arrays, faces: Arrays, wanted: tuple[str, ...]) -> dict[str, float]:
        found: dict[str, float] = {}
        if "fid" in wanted:
            found["fid"] = fid(samples[POOL], self.statistics or faces[POOL])
        if "kid" in wanted:
            found["kid"], found["kid_std"], _ = kid(samples[POOL], faces[POOL], self.kid_subsets)
        if "inception_score" in wanted:
            found["inception_score"], found["inception_score_std"] = inception_score(samples[LOGITS])
        if "precision" in wanted or "recall" in wanted:
            found["precision"], found["recall"] = precision_recall(samples[POOL], faces[POOL])
        return found


class ClipNet:
    """`facegan.evaluate.features`."""

    name, metrics, rowwise = "clip", ("fid_clip", "kid_clip"), True

    def __init__(self, net: Clip, kid_subsets: int) -> None:
        self.net, self.kid_subsets = net, kid_subsets

    def key(self) -> dict[str, Any]:
        return {"network": CLIP_NETWORK, "weights": self.net.weights.sha256}

    def see(self, images: Tensor) -> Arrays:
        return {"features": self.net.features(images)}

    def settings(self) -> dict[str, Any]:
        return {"kid_subsets": self.kid_subsets}

    def compare(self, samples: Arrays, faces: Arrays, wanted: tuple[str, ...]) -> dict[str, float]:
        ours, theirs = samples["features"], faces["features"]
        found: dict[str, float] = {}
        if "fid_clip" in wanted:
            found["fid_clip"] = fid(ours, theirs)
        if "kid_clip" in wanted:
            found["kid_clip"], found["kid_clip_std"], _ = kid(ours, theirs, self.kid_subsets)
        return found

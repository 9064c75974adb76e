"""All that the values of an evaluation hang on, as eval.json tells it."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from facegan.config import EvalConfig
from facegan.evaluate.memorised import AGAINST, RATIO
from facegan.evaluate.random_net import RANDOM_NET
from facegan.evaluate.real import RealFaces, info_of
from facegan.evaluate.subject import Subject, quantisation
from facegan.evaluate.training import Training
from facegan.evaluate.views import NEIGHBOURS

COPIES_BY = {"ratio": RATIO, "against": AGAINST}
_PACKAGES = ("facegan", "torch", "torch-fidelity", "numpy", "mediapipe")


def protocol_of(
    shards: str, real: RealFaces, training: Training, subject: Subject, config: EvalConfig
) -> dict[str, Any]:
    """What is known before anything is computed; what single metrics need is added where they are measured.

    Raises:
        DatasetError: the dataset is gone.
    """
    half = real.count // 2
    return {
        "samples": 0,
        "faces": real.reference.stop,
        "floor_faces": [half, half],
        "dataset": {"path": shards, "fingerprint": real.fingerprint},
        "split": real.split,
        "training_split": training.split,
        "training_faces": len(training),
        "size": real.size,
        "channels": real.channels,
        "crop": info_of(shards).settings.get("crop", ""),
        "resize": "by area; Lanczos where enlarged",
        "quantisation": quantisation(subject),
        "seed": config.seed,
        "random_net": RANDOM_NET,
        "neighbours_k": NEIGHBOURS,
        "copies": COPIES_BY,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of all that computes, by name; "" for what is not installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found

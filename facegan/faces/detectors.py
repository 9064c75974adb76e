"""Detectors by name: MediaPipe's, none at all, or a user's own class."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facegan.config import PrepConfig
from facegan.errors import ModelError, SettingsError
from facegan.faces.detect import KEYPOINTS, Detector, Face, MediaPipeDetector
from facegan.own import own_object


def make_detector(config: PrepConfig, models: Sequence[Path]) -> Detector:
    """The detector of these settings, ready for its first photograph.

    Args:
        models: files of the MediaPipe models; none for other detectors.

    Raises:
        SettingsError: a detector of one's own can't be imported, or is none.
        ModelError: it can't be made, or a model can't be loaded.
    """
    if config.detector == "none":
        return NoDetector()
    if ":" in config.detector:
        return OwnDetector(config.detector)
    detector = MediaPipeDetector(list(models))
    detector.load(config.min_score)
    return detector


def check_detector(config: PrepConfig) -> None:
    """Says at the start what would else stop every worker.

    Raises:
        SettingsError: a detector of one's own can't be imported, or is none.
    """
    if ":" in config.detector:
        _own_class(config.detector)


class NoDetector:
    """Fixed crops need no faces."""

    def detect(self, rgb: np.ndarray, min_score: float) -> list[Face]:
        return []

    def close(self) -> None:
        pass


class OwnDetector:
    """A user's class behind the `Detector` protocol; what it says is checked, and made into plain floats.

    The class is made without arguments, once in each worker. ``detect`` gets RGB uint8 (height, width, 3), which it
    must not change, and gives `facegan.faces.detect.Face` objects (or others with ``box``, ``keypoints`` and
    ``score``) in its pixels. Faces below ``min_score`` and those with coordinates that are not finite are left out.
    An error raised by ``detect`` costs one photograph; a face that breaks the protocol stops the run.
    """

    def __init__(self, name: str) -> None:
        """
        Args:
            name: ``MODULE:CLASS``.
        """
        self._name = name
        own = _own_class(name)
        try:
            self._detector = own()
        except Exception as error:  # anything may go wrong in a user's constructor: it is told as a sentence
            raise ModelError(
                f"--detector {name} can't be made: {type(error).__name__}: {error}\n"
                f"Its class is called without arguments, once in each worker."
            ) from error

    def detect(self, rgb: np.ndarray, min_score: float) -> list[Face]:
        found = self._detector.detect(rgb, min_score)
        if not isinstance(found, Sequence):
            raise ModelError(f"--detector {self._name} gave {_shown(found)}: detect has to give a list of faces.")
        faces = [self._plain(face) for face in found]
        return [face for face in faces if face is not None and face.score >= min_score]

    def close(self) -> None:
        self._detector.close()

    def _plain(self, found: Any) -> Face | None:
        try:
            x, y, width, height = map(float, found.box)
            keypoints = tuple((float(px), float(py)) for px, py in found.keypoints)
            score = float(found.score)
        except (AttributeError, TypeError, ValueError) as error:
            raise ModelError(
                f"--detector {self._name} gave {_shown(found)}, which is no face: {error}.\n"
                f"A face has box (x, y, width, height), keypoints (six x, y) and score. See facegan.faces.detect.Face."
            ) from error
        if not all(map(math.isfinite, (x, y, width, height, score, *itertools.chain(*keypoints)))):
            return None
        if len(keypoints) != len(KEYPOINTS):
            raise ModelError(
                f"--detector {self._name} gave a face with {len(keypoints)} keypoints: it has to give\n"
                f"{len(KEYPOINTS)} ({', '.join(KEYPOINTS)})."
            )
        if not (0 <= score <= 1 and width > 0 and height > 0):
            raise ModelError(
                f"--detector {self._name} gave a face of {width:g} × {height:g} px with the score {score:g}:\n"
                f"sides have to be over 0, and scores from 0 to 1."
            )
        return Face((x, y, width, height), keypoints, score)


def _own_class(name: str) -> type:
    own = own_object("--detector", name)
    missing = [method for method in ("detect", "close") if not callable(getattr(own, method, None))]
    if missing or not isinstance(own, type):
        lacks = f"lacks {' and '.join(missing)}" if isinstance(own, type) else "is no class"
        raise SettingsError(
            f"--detector {name} {lacks}: it has to be a class with\n"
            f"detect(rgb, min_score), which gives a list of facegan.faces.detect.Face, and close()."
        )
    return own


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"

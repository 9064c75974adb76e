"""Faces in a photograph: a small protocol, and MediaPipe's two BlazeFace models behind it.

Bazarevsky et al. 2019, "BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs".
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from facegan.errors import ModelError

KEYPOINTS = ("image-left eye", "image-right eye", "nose", "mouth", "image-left ear", "image-right ear")

# Where no face reaches --min-score, a second look decides between low_score and no_face. A score alone can't: where
# half of the rejected show a face, 53 % of those that score 0.3 to 0.4 do, and 62 % from 0.4 to 0.5. Two models that
# agree on its place, in the picture and in its mirror image, are right in 51 of 56 (BENCHMARKS.md).
LOOK_AGAIN_SCORE = 0.3  # each of these four scores at least
_SURE_SCORE = 0.5  # a face by one model's word alone: the default --min-score
_LEAST_SCORE = 0.01  # the best score is recorded from here on, however low
_SAME_PLACE = 0.3  # least intersection over union of two boxes


Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Face:
    """One detected face, in pixels of the picture (continuous: the centre of the first pixel is at 0.5).

    Attributes:
        box: x, y, width, height.
        keypoints: six (x, y) in the order of `KEYPOINTS`.
        score: 0 … 1.
    """

    box: Box
    keypoints: tuple[tuple[float, float], ...]
    score: float

    def scaled(self, factor: float) -> Face:
        """The same face in a picture ``factor`` times as large, rounded as it is stored: 1/16 px and 3 decimals."""
        box = tuple(_sixteenth(value * factor) for value in self.box)
        keypoints = tuple((_sixteenth(x * factor), _sixteenth(y * factor)) for x, y in self.keypoints)
        return Face((box[0], box[1], box[2], box[3]), keypoints, round(self.score, 3))

    @property
    def anatomical(self) -> bool:
        """Eyes above the mouth, image-left eye left: not so where a face stands on its head."""
        (left_x, left_y), (right_x, right_y), _, (_, mouth_y) = self.keypoints[:4]
        return left_x < right_x and (left_y + right_y) / 2 < mouth_y


def _sixteenth(value: float) -> float:
    return round(value * 16) / 16


@dataclass(frozen=True)
class SecondLook:
    """The best face of a picture however low its score (None: there is nothing), and whether people would see it."""

    best: Face | None
    is_face: bool


class Detector(Protocol):
    """Finds faces. ``detect`` takes RGB uint8 (height, width, 3) and gives faces in its pixels, unrounded.

    ``--detector MODULE:CLASS`` names a class of one's own that has these two methods; see `detectors.OwnDetector`.
    """

    def detect(self, rgb: np.ndarray, min_score: float) -> list[Face]: ...

    def close(self) -> None: ...


class MediaPipeDetector:
    """MediaPipe's Tasks ``FaceDetector`` over one or more models, asked in turn until one finds a face.

    Each model is loaded once for every ``min_score`` it is asked for, when it is first asked: non-maximum suppression
    inside MediaPipe depends on that score, so a low one and a filter behind it would give other boxes.
    """

    def __init__(self, models: list[Path]) -> None:
        self._models = models
        self._loaded: dict[tuple[Path, float], Any] = {}

    def detect(self, rgb: np.ndarray, min_score: float) -> list[Face]:
        for model in self._models:
            faces = self._ask(model, rgb, min_score)
            if faces:
                return faces
        return []

    def look_again(self, rgb: np.ndarray) -> SecondLook:
        """See `LOOK_AGAIN_SCORE`. A single model has no other to agree with: its face has to be sure."""
        looks = [self._ask(model, rgb, _LEAST_SCORE) for model in self._models]
        best = _best(itertools.chain(*looks))
        if best is None or best.score >= _SURE_SCORE:
            return SecondLook(best, best is not None)
        if len(looks) < 2 or not all(_found_at(best.box, look) for look in looks):
            return SecondLook(best, is_face=False)
        x, y, width, height = best.box
        mirrored = (rgb.shape[1] - x - width, y, width, height)
        flipped = (self._ask(model, rgb[:, ::-1], _LEAST_SCORE) for model in self._models)
        return SecondLook(best, all(_found_at(mirrored, look) for look in flipped))

    def load(self, min_score: float) -> None:
        """Loads the first model ahead of the first photograph."""
        self._loaded[self._models[0], min_score] = _load(self._models[0], min_score)

    def _ask(self, model: Path, rgb: np.ndarray, min_score: float) -> list[Face]:
        key = (model, min_score)
        if key not in self._loaded:
            self._loaded[key] = _load(model, min_score)
        height, width = rgb.shape[:2]
        faces = []
        for found in self._loaded[key].detect(_as_image(rgb)).detections:
            box, score = found.bounding_box, found.categories[0].score
            points = tuple((point.x * width, point.y * height) for point in found.keypoints)
            numbers = [value for point in points for value in point]
            if all(map(math.isfinite, numbers)):  # near a score of 0 the model's keypoints may be NaN
                faces.append(Face((box.origin_x, box.origin_y, box.width, box.height), points, score))
        return faces

    def close(self) -> None:
        # By hand: at interpreter shutdown MediaPipe's own __del__ raises.
        with _stderr_held():
            while self._loaded:
                self._loaded.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _load(model: Path, min_score: float) -> Any:
    os.environ.setdefault("GLOG_minloglevel", "3")
    with _stderr_held():
        from mediapipe.tasks.python import BaseOptions, vision

        options = vision.FaceDetectorOptions(
            base_options=BaseOptions(model_asset_path=str(model)), min_detection_confidence=min_score
        )
        try:
            detector = vision.FaceDetector.create_from_options(options)
        except (RuntimeError, ValueError) as error:
            why = str(error).splitlines()[0]
            raise ModelError(
                f"{model} is no face detector that MediaPipe can load: {why}\nSee: facegan models"
            ) from None
        detector.detect(_as_image(np.zeros((64, 64, 3), np.uint8)))  # some of its words come with the first picture
        return detector


def _as_image(rgb: np.ndarray) -> Any:
    import mediapipe as mp

    return mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(rgb))


@contextlib.contextmanager
def _stderr_held() -> Iterator[None]:
    """Drops what C++ writes to file descriptor 2 while a model loads or closes: errors are raised besides."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        silence_stderr()
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def silence_stderr() -> None:
    """Sends file descriptor 2 to nowhere: MediaPipe also speaks now and then while it detects."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def look_again(detector: Detector, rgb: np.ndarray) -> SecondLook:
    """What a detector finds below ``min_score``. Of other detectors than MediaPipe's the score decides alone."""
    if isinstance(detector, MediaPipeDetector):
        return detector.look_again(rgb)
    best = _best(detector.detect(rgb, _LEAST_SCORE))
    return SecondLook(best, best is not None and best.score >= LOOK_AGAIN_SCORE)


def _best(faces: Iterable[Face]) -> Face | None:
    return max(faces, key=lambda face: face.score, default=None)


def _found_at(box: Box, faces: list[Face]) -> bool:
    return any(face.score >= LOOK_AGAIN_SCORE and _overlap(face.box, box) >= _SAME_PLACE for face in faces)


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = a[2] * a[3] + b[2] * b[3] - shared
    return shared / union if union > 0 else 0.0


def nearest_to_centre(faces: list[Face], width: int, height: int) -> Face:
    """The face with the highest score × (1 − d / 2), d its box's distance from the centre, 1 in a corner."""

    def weight(face: Face) -> float:
        x, y, w, h = face.box
        distance = math.hypot((x + w / 2) / width - 0.5, (y + h / 2) / height - 0.5) / math.sqrt(0.5)
        return face.score * (1 - min(distance, 1.0) / 2)

    return max(faces, key=weight)  # the first of equals: MediaPipe's order is fixed

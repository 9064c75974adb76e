"""Photographs that lie on a side or stand on their head: the quarter turn at which their faces are upright.

All turns are clockwise, in degrees: 0, 90, 180 or 270. A picture turned by 90 has its left edge at the top.
"""

from __future__ import annotations

import cmath
import math

import numpy as np

from facegan.faces.crop import Quad
from facegan.faces.detect import Detector, Face, nearest_to_centre

TURNS = (90, 180, 270)  # in the order in which they are looked at; of equal ones the first is taken
# BlazeFace also finds faces that lie or stand on their head, but with less confidence, and mostly with the keypoints
# of an upright face: 281 of 299 CelebA faces turned by 180° had them in anatomical order, and 50 px off. So order alone
# tells nothing. Scores among the faces that lean at most 45° do: of 800 CelebA faces, each turned all four ways, 99.9 %
# were put right, and 75 % of those that were upright needed one look, for they score 0.9, which others do not.
_LEAN = math.pi / 4
_SURE_SCORE = 0.9

_ROTATIONS = {90: 3, 180: 2, 270: 1}  # numpy.rot90 turns counter-clockwise


def best_turn(rgb: np.ndarray, found: list[Face], detector: Detector, min_score: float) -> tuple[list[Face], int]:
    """Faces at the quarter turn where the best of them is upright, and that turn.

    The picture is left as it is where its best face leans at most 45° and scores 0.9 or more. Else all turns are
    looked at, and the one whose best face scores highest among those that lean at most 45° wins; the smaller turn where
    they are equal, and no turn at all where there is no such face.

    Args:
        rgb: uint8 (height, width, 3).
        found: faces of ``rgb`` as it is.

    Returns:
        The faces in pixels of ``rgb`` as it is, and the degrees by which it has to be turned clockwise.
    """
    height, width = rgb.shape[:2]
    best, faces, turn = _upright_score(found, width, height), found, 0
    if best >= _SURE_SCORE:
        return found, 0
    for degrees in TURNS:
        turned = np.ascontiguousarray(np.rot90(rgb, _ROTATIONS[degrees]))
        size = turned.shape[1], turned.shape[0]
        candidates = detector.detect(turned, min_score)
        score = _upright_score(candidates, *size)
        if score > best:
            best, turn = score, degrees
            faces = [turned_face(face, 360 - degrees, *size) for face in candidates]
    return faces, turn


def _upright_score(faces: list[Face], width: int, height: int) -> float:
    """Score of the best face of those that are upright; 0 where there is none."""
    upright = [face for face in faces if face.anatomical and abs(_lean(face)) <= _LEAN]
    return nearest_to_centre(upright, width, height).score if upright else 0.0


def _lean(face: Face) -> float:
    """The angle by which an aligned crop would be turned, radians: that of e − rot90(m), as in `aligned_quad`."""
    left, right, _, mouth = (complex(*point) for point in face.keypoints[:4])
    return cmath.phase(right - left - 1j * (mouth - (left + right) / 2))


def turned_size(degrees: int, width: int, height: int) -> tuple[int, int]:
    return (width, height) if degrees in (0, 180) else (height, width)


def turned_point(x: float, y: float, degrees: int, width: float, height: float) -> tuple[float, float]:
    """Where a point of a width × height picture lies once the picture is turned."""
    if degrees == 90:
        return height - y, x
    if degrees == 180:
        return width - x, height - y
    return (y, width - x) if degrees == 270 else (x, y)


def turned_face(face: Face, degrees: int, width: float, height: float) -> Face:
    """The face in a width × height picture once the picture is turned; 360 − degrees in the turned one undoes it."""
    x, y, w, h = face.box
    (x0, y0), (x1, y1) = (turned_point(*corner, degrees, width, height) for corner in ((x, y), (x + w, y + h)))
    keypoints = tuple(turned_point(*point, degrees, width, height) for point in face.keypoints)
    return Face((min(x0, x1), min(y0, y1), abs(x1 - x0), abs(y1 - y0)), keypoints, face.score)


def turned_quad(quad: Quad, degrees: int, width: float, height: float) -> Quad:
    """The quadrilateral once the picture is turned: its first corner is still the crop's top left."""
    return np.array([turned_point(x, y, degrees, width, height) for x, y in quad.tolist()])

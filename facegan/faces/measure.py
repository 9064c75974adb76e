"""What a face is like: size, sharpness, light, pose and a perceptual hash, whatever the settings of its dataset.

All are of the aligned crop at margin 1 and 64 × 64 pixels, so that values of different datasets can be compared.
"""

from __future__ import annotations

import cmath
import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from facegan.faces.crop import Quad, face_axes, quad_side, sharpness_of_grey
from facegan.faces.detect import Face

SIZE = 64  # px, of the crop that is measured
# Of a face seen from the front, in units of the distance from the eyes' midpoint to the mouth: height of the tip of the
# nose above the mouth, and above the plane of the face (Gee & Cipolla 1994).
_NOSE_HEIGHT, _NOSE_LENGTH = 0.4, 0.6


@dataclass(frozen=True)
class Measures:
    """Rounded as they are stored; thresholds compare these values."""

    side: float  # of the aligned crop, in pixels of the photograph
    outside: float  # share of the aligned crop outside the photograph, 0 to 1
    outside_box: float  # the same of the detector's box as a square
    yaw: float  # degrees; see `pose`
    pitch: float
    roll: float
    sharpness: float = 0.0  # see `facegan.faces.crop.sharpness`; this and the following are 0 if the crop is not made
    brightness: float = 0.0  # mean of the grey crop, 0 to 255
    contrast: float = 0.0  # its standard deviation
    hash: int = 0  # 64 bits, see `perceptual_hash`


class AlignedCrop(NamedTuple):
    """A face and its aligned crop at margin 1, which are measured."""

    face: Face  # in the photograph as rotated, so that it is upright
    quad: Quad
    outside: tuple[float, float]  # shares outside the photograph of the crop and of the detector's box
    pixels: np.ndarray | None  # uint8 RGB (64, 64, 3); None leaves out what is measured on pixels

    def measure(self) -> Measures:
        of_crop, of_box = self.outside
        of_face = round(quad_side(self.quad), 3), round(of_crop, 4), round(of_box, 4), *pose(self.face)
        if self.pixels is None:
            return Measures(*of_face)
        grey = cv2.cvtColor(self.pixels, cv2.COLOR_RGB2GRAY)
        mean, deviation = (round(float(value[0, 0]), 2) for value in cv2.meanStdDev(grey))
        return Measures(*of_face, round(sharpness_of_grey(grey), 3), mean, deviation, perceptual_hash(grey))


def pose(face: Face) -> tuple[float, float, float]:
    """Yaw, pitch and roll in degrees, estimated from eyes, nose and mouth under weak perspective.

    Roll is the angle of the line through the eyes, clockwise. The rest is Gee & Cipolla 1994, "Determining the gaze of
    faces in images", section 2: the tip of the nose is above the plane of the face, so its distance l_n in the image
    from the nose's base, relative to the distance l_f from eyes to mouth, and the angle θ between the two lines give
    the slant σ of the plane: D = cos²σ is the root of R²(1 − m₂)D² + (m₁ − R² + 2m₂R²)D − m₂R² = 0 with
    m₁ = (l_n/l_f)², m₂ = cos²θ and R = 0.6. Yaw is positive towards the right edge of the image, pitch towards the top.
    """
    middle, eye_to_eye, eye_to_mouth, _ = face_axes(face)
    if not eye_to_eye or not eye_to_mouth:
        return 0.0, 0.0, 0.0
    roll = cmath.phase(eye_to_eye)
    nose = complex(*face.keypoints[2]) - (middle + eye_to_mouth * (1 - _NOSE_HEIGHT))
    if not nose:
        return 0.0, 0.0, round(math.degrees(roll), 1)
    m1 = abs(nose / eye_to_mouth) ** 2
    m2 = ((nose / eye_to_mouth).real / abs(nose / eye_to_mouth)) ** 2
    squared = _NOSE_LENGTH**2
    a, b, c = squared * (1 - m2), m1 - squared + 2 * m2 * squared, m2 * squared
    root = math.sqrt(b * b + 4 * a * c)
    cos2 = 2 * c / (b + root) if b > 0 else (root - b) / (2 * a)
    cos2 = min(max(cos2, 0.0), 1.0)
    across = math.sqrt(1 - cos2) * nose / abs(nose) * cmath.exp(-1j * roll)  # the face's normal in the upright image
    yaw, pitch = math.atan2(across.real, math.sqrt(cos2)), -math.asin(across.imag)
    return round(math.degrees(yaw), 1), round(math.degrees(pitch), 1), round(math.degrees(roll), 1)


def perceptual_hash(grey: np.ndarray) -> int:
    """64 bits that hardly change when a picture is scaled, compressed or brightened: OpenCV's pHash.

    The signs of the 8 × 8 lowest frequencies of a 32 × 32 cosine transform, relative to their mean: Zauner 2010,
    "Implementation and benchmarking of perceptual image hash functions".
    """
    return int.from_bytes(_hasher().compute(grey).tobytes())


@functools.cache
def _hasher() -> cv2.img_hash.PHash:
    return cv2.img_hash.PHash.create()

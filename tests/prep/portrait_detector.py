"""A detector that finds one face, and only where it is shown the portrait that it knows, upright and whole."""

from __future__ import annotations

import cv2
import numpy as np

from facegan.demo import Portrait
from facegan.faces.detect import Face

_GRID = (8, 10)  # what is compared: mean greys of a grid this coarse
_TOLERANCE = 12  # levels of 255; another picture, or this one turned, differs by 30 and more


class PortraitDetector:
    def __init__(self, portrait: Portrait) -> None:
        self._height, self._width = portrait.pixels.shape[:2]
        self._known = _greys(portrait.pixels)
        self._points = portrait.keypoints.array()

    def detect(self, rgb: np.ndarray, min_score: float) -> list[Face]:
        height, width = rgb.shape[:2]
        same_shape = abs(height * self._width / (width * self._height) - 1) < 0.05
        if not same_shape or self.difference(rgb) > _TOLERANCE:
            return []
        x, y = (self._points * (width / self._width, height / self._height)).T
        side = 2.4 * (x[1] - x[0])
        points = tuple((float(a), float(b)) for a, b in zip(x, y, strict=True))
        box = (float(x[2] - side / 2), float(y[2] - side / 2), float(side), float(side))
        return [Face(box, (*points, points[0], points[1]), 0.9)]

    def difference(self, rgb: np.ndarray) -> float:
        """Mean distance from the known portrait, in levels of 255."""
        return float(np.abs(_greys(rgb) - self._known).mean())

    def close(self) -> None:
        pass


def _greys(rgb: np.ndarray) -> np.ndarray:
    return cv2.resize(rgb, _GRID, interpolation=cv2.INTER_AREA).mean(axis=2)

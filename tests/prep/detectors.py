"""Detectors of a user's own, as ``--detector tests.prep.detectors:NAME`` finds them: slow, crashing and wrong ones."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from facegan.demo import Portrait
from facegan.faces.detect import Face
from facegan.system import peak_memory_bytes
from tests.prep.fake import face_at

HANGS, FAULTS, EATS, EXITS, LEAVES = 90, 91, 92, 93, 94  # photographs of this width do


class Centred:
    """Finds a face in the middle of every photograph."""

    seconds = 0.0

    def detect(self, rgb: np.ndarray, min_score: float) -> list[Face]:
        time.sleep(self.seconds)
        height, width = rgb.shape[:2]
        return [face_at(width / 2, height / 2, min(width, height) / 4)]

    def close(self) -> None:
        pass


class Close(Centred):
    """Finds a face that nearly fills the photograph; the wider the photograph, the less."""

    def detect(self, rgb: np.ndarray, min_score: float) -> list[Face]:
        height, width = rgb.shape[:2]
        score = 0.4 if width % 2 else 0.9
        return [face_at(width / 2, height / 2, 54, score)] if score >= min_score else []


class Slow(Centred):
    """Leaves time to be killed in."""

    seconds = 0.01


class Crashing(Centred):
    """Meets every bad end, each on photographs of one width."""

    def detect(self, rgb: np.ndarray, min_score: float) -> list[Face]:
        width = rgb.shape[1]
        if width == HANGS:
            time.sleep(1000)
        elif width == FAULTS:
            ctypes.string_at(0)
        elif width == EATS:
            limits = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (peak_memory_bytes() * 4 + (4 << 30), limits[1]))
            try:
                eaten = [np.empty(1 << 28, np.uint8) for _ in range(1000)]  # never touched: only asked for
                return [face_at(len(eaten), 0)]
            finally:
                resource.setrlimit(resource.RLIMIT_AS, limits)
        elif width == EXITS:
            sys.exit("I have had enough")
        elif width == LEAVES:
            os._exit(0)
        return super().detect(rgb, min_score)


class Numbers(Centred):
    """Of NumPy's types."""

    def detect(self, rgb: np.ndarray, min_score: float) -> list[Any]:
        number: Any = np.float32
        return [Face(number(f.box), number(f.keypoints), number(f.score)) for f in super().detect(rgb, min_score)]


class Nowhere(Centred):
    def detect(self, rgb: np.ndarray, min_score: float) -> list[Face]:
        return [Face((float("nan"), 0, 9, 9), f.keypoints, f.score) for f in super().detect(rgb, min_score)]


class FivePoints(Centred):
    def detect(self, rgb: np.ndarray, min_score: float) -> list[Face]:
        return [Face(f.box, f.keypoints[:5], f.score) for f in super().detect(rgb, min_score)]


class Boxes(Centred):
    def detect(self, rgb: np.ndarray, min_score: float) -> list[Any]:
        return [f.box for f in super().detect(rgb, min_score)]


class Needy(Centred):
    def __init__(self, weights: Path) -> None:
        pass


class Endless:
    """Cannot be closed."""

    def detect(self, rgb: np.ndarray, min_score: float) -> list[Face]:
        return []


_GRID = (8, 10)  # what is compared: mean greys of a grid this coarse
_TOLERANCE = 12  # levels of 255; another picture, or this one turned, differs by 30 and more


class PortraitDetector:
    """Finds one face, and only in the portrait that it knows, upright and whole."""

    def __init__(self, portrait: Portrait) -> None:
        self._height, self._width = portrait.pixels.shape[:2]
        self._known = _greys(portrait.pixels)
        self._points = portrait.keypoints

    def detect(self, rgb: np.ndarray, min_score: float) -> list[Face]:
        height, width = rgb.shape[:2]
        same_shape = abs(height * self._width / (width * self._height) - 1) < 0.05
        if not same_shape or np.abs(_greys(rgb) - self._known).mean() > _TOLERANCE:
            return []
        x, y = (self._points * (width / self._width, height / self._height)).T
        side = 2.4 * (x[1] - x[0])
        points = tuple((float(a), float(b)) for a, b in zip(x, y, strict=True))
        box = (float(x[2] - side / 2), float(y[2] - side / 2), float(side), float(side))
        return [Face(box, (*points, points[0], points[1]), 0.9)]

    def close(self) -> None:
        pass


def _greys(rgb: np.ndarray) -> np.ndarray:
    return cv2.resize(rgb, _GRID, interpolation=cv2.INTER_AREA).mean(axis=2)

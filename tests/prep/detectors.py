"""Detectors of a user's own, as ``--detector tests.prep.detectors:NAME`` finds them: slow ones and crashing ones."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import time

import numpy as np

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

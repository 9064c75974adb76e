"""Colours to grey, everywhere by the same weights."""

from __future__ import annotations

import cv2
import numpy as np


def grey(rgb: np.ndarray) -> np.ndarray:
    """uint8 (height, width, 3) → uint8 (height, width, 1): ITU-R BT.601's luma, 0.299 R + 0.587 G + 0.114 B, rounded.

    OpenCV's weights are whole parts of a power of two, and come to it: what is grey already keeps its values.
    """
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None]

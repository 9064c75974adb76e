"""Sharpness against SciPy's Laplacian."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy import ndimage

from facegan.faces.crop import sharpness


def test_it_is_the_variance_of_the_laplacian_of_the_luma() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    grey = np.round(rgb.astype(float) @ (0.299, 0.587, 0.114))
    assert sharpness(rgb) == pytest.approx(ndimage.laplace(grey, mode="mirror").var(), rel=1e-3)


def test_blurring_lowers_it_down_to_nothing() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    levels = [sharpness(rgb), *(sharpness(cv2.GaussianBlur(rgb, (0, 0), sigma)) for sigma in (1, 2, 4))]
    assert levels == sorted(levels, reverse=True)
    assert sharpness(np.full((64, 64, 3), 200, np.uint8)) == 0

"""A second, slow way to cut a quadrilateral: 8 × 8 cubic samples a pixel by SciPy, averaged."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage


def zone_plate(width: int = 256, height: int = 256) -> np.ndarray:
    """cos(k·r²): every spatial frequency, up to 0.5 cycles a pixel at the ends of the longer side; what aliases shows
    up as rings. RGB uint8 (height, width, 3).
    """
    x, y = np.arange(width) + 0.5 - width / 2, np.arange(height) + 0.5 - height / 2
    wave = 127.5 + 127.5 * np.cos(math.pi * (y[:, None] ** 2 + x[None, :] ** 2) / (2 * max(width, height)))
    return np.repeat(np.round(wave)[..., None], 3, axis=2).astype(np.uint8)


def supersampled(rgb: np.ndarray, quad: np.ndarray, size: int, factor: int = 8) -> np.ndarray:
    """float64 (size, size, 3). ``quad`` as facegan's: corners, pixel centres at .5."""
    fine = size * factor
    u = (np.arange(fine) + 0.5) / fine
    across, down = quad[3] - quad[0], quad[1] - quad[0]
    points = quad[0] + u[None, :, None] * across + u[:, None, None] * down  # (fine, fine, 2), x before y
    positions = [points[..., 1] - 0.5, points[..., 0] - 0.5]
    channels = [
        ndimage.map_coordinates(rgb[..., c].astype(float), positions, order=3, mode="reflect")
        for c in range(rgb.shape[2])
    ]
    stacked = np.stack(channels, axis=-1)
    return stacked.reshape(size, factor, size, factor, -1).mean(axis=(1, 3))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, of values 0 … 255."""
    error = float(((a.astype(float) - b.astype(float)) ** 2).mean())
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))

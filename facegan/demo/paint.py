"""An airbrush: soft shapes and strokes on a float canvas, smooth curves, and a head that turns.

Points are (N, 2) float arrays of x, y. On the canvas they are canvas pixels, the left and top edges of the picture
being 0.0 and pixel centres .5; on the head they are head units: the eyes' line is y = 0, the cheeks x = ±1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating[Any]]
Outlines = Floats | Sequence[Floats]  # one curve (N, 2), or several

_FRACTION_BITS = 4  # OpenCV draws at 1/16 px
_STEPS = 6  # segments between two points of a curve
# Catmull-Rom weights (Catmull and Rom 1974): (_STEPS, 4), of the point before, the two ends, the point after.
_T = np.arange(_STEPS) / _STEPS
_BASIS = 0.5 * np.stack(
    [-_T + 2 * _T**2 - _T**3, 2 - 5 * _T**2 + 3 * _T**3, _T + 4 * _T**2 - 3 * _T**3, _T**3 - _T**2], axis=1
)


def closed_curve(points: ArrayLike) -> Floats:
    """A smooth closed curve through (N, 2) points: (6 N, 2)."""
    p = np.asarray(points, float)
    return _spline(p[np.arange(-1, len(p) + 2) % len(p)])


def open_curve(points: ArrayLike) -> Floats:
    """A smooth curve from the first of (…, N, 2) points to the last: (…, 6 (N − 1) + 1, 2)."""
    p = np.asarray(points, float)
    first, last = p[..., :1, :], p[..., -1:, :]
    along = np.concatenate([2 * first - p[..., 1:2, :], p, 2 * last - p[..., -2:-1, :]], axis=-2)
    return np.concatenate([_spline(along), last], axis=-2)


def _spline(p: Floats) -> Floats:
    """(…, N + 3, 2) points, of which the first and last only bend the curve: (…, 6 N, 2)."""
    n = p.shape[-2] - 3
    weighted = [_BASIS[:, k, None] * p[..., k : k + n, None, :] for k in range(4)]
    return (weighted[0] + weighted[1] + weighted[2] + weighted[3]).reshape(*p.shape[:-2], n * _STEPS, 2)


@functools.cache
def _circle(count: int) -> Floats:
    t = np.linspace(0, 2 * math.pi, count, endpoint=False)
    return np.stack([np.cos(t), np.sin(t)], axis=1)


def ellipse(x: float, y: float, rx: float, ry: float, turn: float = 0.0, count: int = 24) -> Floats:
    """``count`` points of an ellipse about (x, y), turned clockwise by ``turn`` radians: (count, 2)."""
    c, s = math.cos(turn), math.sin(turn)
    return _circle(count) @ np.array([[rx * c, rx * s], [-ry * s, ry * c]]) + (x, y)


def mirrored(points: ArrayLike) -> Floats:
    """The other half of a face, in the order that continues from the end of the first half."""
    return np.asarray(points, float)[::-1] * (-1, 1)


def resampled(line: Floats, where: Floats) -> Floats:
    """The points of a line (N, 2) at the fractions ``where`` (…) of its points: (…, 2)."""
    at = where * (len(line) - 1)
    low = np.clip(at.astype(int), 0, len(line) - 2)
    return line[low] + (line[low + 1] - line[low]) * (at - low)[..., None]


@dataclass(frozen=True)
class Mask:
    """Coverage per pixel: ``alpha`` (h, w) float32 in 0 … 1, with its corner at (left, top) px."""

    left: int
    top: int
    alpha: NDArray[np.float32]


@dataclass(frozen=True)
class Canvas:
    """``planes``: (3, height, width) float32, red, green, blue, 0 … 255. Planar, as NumPy blends planes fastest."""

    planes: NDArray[np.float32]
    unit: float = 1.0  # canvas pixels in the unit of ``soft`` and ``stroke``

    def shape(self, outlines: Outlines, soft: float = 0.0, within: Mask | None = None, stroke: float = 0.0) -> Mask:
        """Filled outlines, or lines ``stroke`` wide, cut by ``within``; ``soft`` is the sigma of a Gaussian blur."""
        soft, stroke = soft * self.unit, stroke * self.unit
        outlines = [outlines] if isinstance(outlines, np.ndarray) and outlines.ndim == 2 else outlines
        # A wide blur hides a coarse mask, and costs a fraction on it.
        coarse = 1 if soft < 3 else 2 if soft < 7 else 4
        every = np.concatenate(outlines) if len(outlines) > 1 else outlines[0]
        margin = math.ceil(2.4 * soft + stroke / 2) + 2
        (x0, y0), (x1, y1) = every.min(axis=0), every.max(axis=0)
        left, top = (within.left, within.top) if within else (0, 0)
        height, width = within.alpha.shape if within else self.planes.shape[1:]
        x0, y0 = max(math.floor(x0) - margin, left), max(math.floor(y0) - margin, top)
        x1, y1 = min(math.ceil(x1) + margin, left + width), min(math.ceil(y1) + margin, top + height)
        if x1 <= x0 or y1 <= y0:
            return Mask(0, 0, np.zeros((0, 0), np.float32))
        sheet = np.zeros((-((y0 - y1) // coarse), -((x0 - x1) // coarse)), np.uint8)
        # OpenCV's whole numbers are pixel centres, so .5 comes off.
        zoom, offset = 2**_FRACTION_BITS / coarse, 2**_FRACTION_BITS / 2
        grid = [np.rint((p - (x0, y0)) * zoom - offset).astype(np.int32) for p in outlines]
        if stroke:
            cv2.polylines(sheet, grid, False, 255, max(1, round(stroke / coarse)), cv2.LINE_AA, _FRACTION_BITS)
        else:
            cv2.fillPoly(sheet, grid, 255, cv2.LINE_AA, _FRACTION_BITS)
        # Two box filters with the variance of a Gaussian, in a tenth of its time: a box of width k has (k² − 1) / 12.
        sigma = soft / coarse
        wide = int(math.sqrt(6 * sigma * sigma + 1) - 1) // 2 * 2 + 1
        for box in (wide, wide + 2 if 12 * sigma**2 > 2 * wide * wide + 2 * wide else wide):
            if box > 1:
                cv2.blur(sheet, (box, box), sheet, borderType=cv2.BORDER_REPLICATE)
        if coarse > 1:
            sheet = cv2.resize(sheet, None, fx=coarse, fy=coarse, interpolation=cv2.INTER_LINEAR)
        alpha = sheet[: y1 - y0, : x1 - x0].astype(np.float32)
        alpha *= np.float32(1 / 255)
        if within:
            alpha *= within.alpha[y0 - top : y1 - top, x0 - left : x1 - left]
        return Mask(x0, y0, alpha)

    def lay(self, mask: Mask, colour: ArrayLike, opacity: float = 1.0, gain: float = 1.0) -> None:
        """Paint a colour (3,), or a field of colours (3, height, width) times ``gain``, where the mask is."""
        h, w = mask.alpha.shape
        part = (slice(None), slice(mask.top, mask.top + h), slice(mask.left, mask.left + w))
        paint = np.asarray(colour, np.float32)
        paint = paint[part] if paint.ndim == 3 else paint[:, None, None]
        under = self.planes[part]
        step = (paint if gain == 1.0 else paint * np.float32(gain)) - under
        step *= mask.alpha if opacity == 1.0 else mask.alpha * np.float32(opacity)
        under += step

    def shade(self, mask: Mask, factor: ArrayLike, opacity: float = 1.0) -> None:
        """Multiply by a factor (3,) where the mask is: shadow below 1, light above 1."""
        h, w = mask.alpha.shape
        gain = (np.asarray(factor, np.float32) - 1)[:, None, None] * np.float32(opacity)
        gain = gain * mask.alpha
        gain += 1
        self.planes[:, mask.top : mask.top + h, mask.left : mask.left + w] *= gain


@dataclass(frozen=True)
class Pose:
    """Position of a head on the canvas. Angles in radians; ``unit`` is canvas pixels per head unit.

    ``yaw`` > 0 turns the face to image-right, ``pitch`` > 0 upwards, ``roll`` > 0 clockwise.
    """

    x: float
    y: float
    unit: float
    roll: float
    yaw: float
    pitch: float

    def place(self, points: ArrayLike, depth: ArrayLike = 0.0) -> Floats:
        """Head points (…, 2) at ``depth`` (…) head units in front of the head's axis, as canvas points."""
        p = np.asarray(points, float)
        c, s = self.unit * math.cos(self.roll), self.unit * math.sin(self.roll)
        x, y = math.cos(self.yaw), math.cos(self.pitch)
        forth_x, forth_y = math.sin(self.yaw), -math.sin(self.pitch)
        flat = p @ np.array([[c * x, s * x], [-s * y, c * y]]) + (self.x, self.y)
        return flat + np.asarray(depth, float)[..., None] * (c * forth_x - s * forth_y, s * forth_x + c * forth_y)

    def on_face(self, points: ArrayLike, lift: ArrayLike = 0.0) -> Floats:
        """Points on the front of the head, an ellipsoid, ``lift`` head units above its skin."""
        p = np.asarray(points, float)
        inside = 1 - (p[..., 0] / 1.1) ** 2 - ((p[..., 1] - 0.15) / 1.75) ** 2
        return self.place(p, 0.85 * np.sqrt(np.clip(inside, 0.0, 1.0)) + np.asarray(lift))

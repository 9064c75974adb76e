"""An airbrush: soft shapes and strokes on a float canvas, smooth curves, and a head that turns.

Points are (N, 2) float arrays of x, y. On the canvas they are canvas pixels, the left and top edges of the picture
being 0.0 and pixel centres .5; on the head they are head units: the eyes' line is y = 0, the cheeks x = ±1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating[Any]]

_FRACTION_BITS = 4  # OpenCV draws at 1/16 px
_STEPS = 6  # segments between two points of a curve


def _spline_basis() -> Floats:
    """Catmull-Rom weights (Catmull and Rom 1974): (_STEPS, 4), of the point before, the two ends, the point after."""
    t = np.arange(_STEPS) / _STEPS
    return 0.5 * np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2], axis=1)


_BASIS = _spline_basis()


def closed_curve(points: ArrayLike) -> Floats:
    """A smooth closed curve through (N, 2) points: (6 N, 2)."""
    p = np.asarray(points, float)
    around = np.concatenate([p[-1:], p, p[:2]])
    windows = np.stack([around[:-3], around[1:-2], around[2:-1], around[3:]])
    return np.einsum("sk,knd->nsd", _BASIS, windows).reshape(-1, 2)


def open_curve(points: ArrayLike) -> Floats:
    """A smooth curve from the first of (N, 2) points to the last: (6 (N − 1) + 1, 2)."""
    p = np.asarray(points, float)
    along = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    windows = np.stack([along[:-3], along[1:-2], along[2:-1], along[3:]])
    return np.concatenate([np.einsum("sk,knd->nsd", _BASIS, windows).reshape(-1, 2), p[-1:]])


def ellipse(x: float, y: float, rx: float, ry: float, turn: float = 0.0, count: int = 28) -> Floats:
    """``count`` points of an ellipse about (x, y), turned clockwise by ``turn`` radians."""
    t = np.linspace(0, 2 * math.pi, count, endpoint=False)
    c, s = math.cos(turn), math.sin(turn)
    return np.stack([x + rx * c * np.cos(t) - ry * s * np.sin(t), y + rx * s * np.cos(t) + ry * c * np.sin(t)], axis=1)


def mirrored(points: ArrayLike) -> Floats:
    """The points of the other half of a face, in the order that goes on from the first half's end."""
    return np.asarray(points, float)[::-1] * (-1, 1)


@dataclass(frozen=True)
class Mask:
    """How much of a shape lies on each pixel: ``alpha`` (h, w) float32 in 0 … 1, its corner at (left, top) px."""

    left: int
    top: int
    alpha: NDArray[np.float32]


class Canvas:
    """``planes``: (3, height, width) float32, red, green, blue, 0 … 255. Planar, as NumPy blends planes fastest."""

    def __init__(self, planes: NDArray[np.float32]) -> None:
        self.planes = planes
        self.height, self.width = planes.shape[1:]

    def shape(self, points: Floats, soft: float = 0.0, within: Mask | None = None) -> Mask:
        """The filled outline, its edge blurred by ``soft`` canvas pixels (a Gaussian's sigma), cut by ``within``."""
        return self._draw([points], soft, within, None)

    def strokes(self, lines: Sequence[Floats], width: float, soft: float = 0.0, within: Mask | None = None) -> Mask:
        """Lines ``width`` canvas pixels wide."""
        return self._draw(lines, soft, within, width)

    def _draw(self, outlines: Sequence[Floats], soft: float, within: Mask | None, stroke: float | None) -> Mask:
        # A wide blur hides what a coarse mask lacks, and costs a fraction there.
        coarse = 1 if soft < 4 else 2 if soft < 9 else 4
        every = outlines[0] if len(outlines) == 1 else np.concatenate(outlines)
        margin = math.ceil(2.6 * soft + (stroke or 0) / 2) + 2
        x0, y0 = np.floor(every.min(axis=0)).astype(int) - margin
        x1, y1 = np.ceil(every.max(axis=0)).astype(int) + margin
        if within is not None:
            x0, y0 = max(x0, within.left), max(y0, within.top)
            x1, y1 = min(x1, within.left + within.alpha.shape[1]), min(y1, within.top + within.alpha.shape[0])
        x0, y0, x1, y1 = int(max(x0, 0)), int(max(y0, 0)), int(min(x1, self.width)), int(min(y1, self.height))
        if x1 <= x0 or y1 <= y0:
            return Mask(0, 0, np.zeros((0, 0), np.float32))
        sheet = np.zeros((-((y0 - y1) // coarse), -((x0 - x1) // coarse)), np.uint8)
        # OpenCV's whole numbers are pixel centres, so .5 comes off.
        grid = [np.rint(((p - (x0, y0)) / coarse - 0.5) * 2**_FRACTION_BITS).astype(np.int32) for p in outlines]
        if stroke is None:
            cv2.fillPoly(sheet, grid, 255, cv2.LINE_AA, _FRACTION_BITS)
        else:
            cv2.polylines(sheet, grid, False, 255, max(1, round(stroke / coarse)), cv2.LINE_AA, _FRACTION_BITS)
        if soft > 0:
            sheet = cv2.GaussianBlur(sheet, (0, 0), soft / coarse, borderType=cv2.BORDER_REPLICATE)
        if coarse > 1:
            sheet = cv2.resize(sheet, None, fx=coarse, fy=coarse, interpolation=cv2.INTER_LINEAR)
        alpha = sheet[: y1 - y0, : x1 - x0].astype(np.float32)
        alpha *= np.float32(1 / 255)
        if within is not None:
            alpha *= within.alpha[y0 - within.top : y1 - within.top, x0 - within.left : x1 - within.left]
        return Mask(x0, y0, alpha)

    def lay(self, mask: Mask, colour: ArrayLike, opacity: float = 1.0) -> None:
        """Lays a colour (3,), or a field of colours (3, height, width), over what the mask covers."""
        h, w = mask.alpha.shape
        if h == 0:
            return
        part = (slice(None), slice(mask.top, mask.top + h), slice(mask.left, mask.left + w))
        paint = np.asarray(colour, np.float32)
        paint = paint[part] if paint.ndim == 3 else paint[:, None, None]
        under = self.planes[part]
        step = paint - under
        step *= mask.alpha if opacity == 1.0 else mask.alpha * np.float32(opacity)
        under += step

    def shade(self, mask: Mask, factor: ArrayLike, opacity: float = 1.0) -> None:
        """Multiplies what the mask covers by a factor (3,): shadow under 1, light over 1."""
        h, w = mask.alpha.shape
        if h == 0:
            return
        gain = (np.asarray(factor, np.float32) - 1)[:, None, None] * np.float32(opacity)
        gain = gain * mask.alpha
        gain += 1
        self.planes[:, mask.top : mask.top + h, mask.left : mask.left + w] *= gain


@dataclass(frozen=True)
class Pose:
    """Where a head is on the canvas. Angles in radians; ``unit`` is canvas pixels a head unit.

    ``yaw`` > 0 turns the face to image-right, ``pitch`` > 0 upwards, ``roll`` > 0 clockwise.
    """

    x: float
    y: float
    unit: float
    roll: float
    yaw: float
    pitch: float

    def place(self, points: ArrayLike, depth: ArrayLike = 0.0) -> Floats:
        """Head points (N, 2) at ``depth`` head units before the head's axis, as canvas points."""
        p = np.asarray(points, float)
        z = np.asarray(depth, float)
        x = p[:, 0] * math.cos(self.yaw) + z * math.sin(self.yaw)
        y = p[:, 1] * math.cos(self.pitch) - z * math.sin(self.pitch)
        c, s = math.cos(self.roll), math.sin(self.roll)
        return np.stack([self.x + self.unit * (c * x - s * y), self.y + self.unit * (s * x + c * y)], axis=1)

    def on_face(self, points: ArrayLike, lift: float = 0.0) -> Floats:
        """Points on the front of the head, an ellipsoid, ``lift`` head units above its skin."""
        p = np.asarray(points, float)
        return self.place(p, face_depth(p) + lift)


def face_depth(points: Floats) -> Floats:
    """How far before the head's axis the skin is, in head units: (N,)."""
    return 0.85 * np.sqrt(np.clip(1 - (points[:, 0] / 1.1) ** 2 - ((points[:, 1] - 0.15) / 1.75) ** 2, 0.0, 1.0))

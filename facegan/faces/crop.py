"""A face → the quadrilateral to cut out → a square of pixels without aliasing; rotated photographs; sharpness.

Coordinates are continuous: pixel i covers [i, i + 1), its centre is at i + 0.5. A quadrilateral is four (x, y): top
left, bottom left, bottom right, top right. Images are RGB uint8 (height, width, 3).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from facegan.faces.detect import Face

Quad = np.ndarray  # float64 (4, 2)
Rectangle = tuple[int, int, int, int]  # left, top, right, bottom

_BORDER = cv2.BORDER_REFLECT
_WARP_LIMIT = 32_000  # OpenCV's warps store source coordinates in 16 bits
_FEW_SIDES = 4  # of a photo larger than this many sides of the crop, only the neighbourhood of the crop is warped
_FEW_VALUES = 1 << 18  # this many floats fit into a CPU's cache


def aligned_quad(face: Face, margin: float = 1.0) -> Quad:
    """The FFHQ crop, rotated and scaled by eyes and mouth.

    With e from the image-left to the image-right eye, m from their midpoint to the mouth and rot90(v) = (−v_y, v_x):
    x = unit(e − rot90(m)) · max(2.0·|e|, 1.8·|m|) · margin, y = rot90(x), centre = midpoint + 0.1·m,
    corners = centre ± x ± y. Karras et al. 2019, "A Style-Based Generator Architecture for GANs", appendix.
    """
    middle, eye_to_eye, eye_to_mouth, x = face_axes(face)
    x *= max(abs(eye_to_eye) * 2.0, abs(eye_to_mouth) * 1.8) * margin / (abs(x) or 1.0)
    y = 1j * x
    centre = middle + 0.1 * eye_to_mouth
    corners = (centre - x - y, centre - x + y, centre + x + y, centre + x - y)
    # Rounded as in the sample's JSON (1/256 px), so that the pixels follow from the JSON.
    return np.array([(round(c.real * 256) / 256, round(c.imag * 256) / 256) for c in corners])


def face_axes(face: Face) -> tuple[complex, complex, complex, complex]:
    """The eyes' midpoint, e, m and e − rot90(m), complex: rot90 multiplies by i, in a tenth of numpy's time."""
    left, right, _, mouth = (complex(*point) for point in face.keypoints[:4])
    middle = (left + right) / 2
    return middle, right - left, mouth - middle, right - left - 1j * (mouth - middle)


def box_quad(face: Face, margin: float = 1.0) -> Quad:
    """The detector's box as an upright square, scaled about its centre, its corners on whole pixels."""
    x, y, width, height = face.box
    side = max(1, round(max(width, height) * margin))
    left, top = round(x + (width - side) / 2), round(y + (height - side) / 2)
    return rectangle_quad((left, top, left + side, top + side))


def rectangle_quad(rectangle: Rectangle) -> Quad:
    left, top, right, bottom = rectangle
    return np.array([(left, top), (left, bottom), (right, bottom), (right, top)], np.float64)


def face_quad(face: Face, crop: str, margin: float, rotation: int, size: tuple[int, int]) -> Quad:
    """The ``aligned`` or ``box`` crop of an upright face, in a photograph of ``size`` that was rotated to find it."""
    quad = aligned_quad(face, margin) if crop == "aligned" else box_quad(face, margin)
    return rotated_quad(quad, 360 - rotation, *rotated_size(rotation, *size)) if rotation else quad


def quad_side(quad: Quad) -> float:
    """Length of a side, source pixels."""
    (x0, y0), _, _, (x3, y3) = quad.tolist()
    return math.hypot(x3 - x0, y3 - y0)


def outside_share(quad: Quad, width: int, height: int) -> float:
    """Share of the quadrilateral's area outside a width × height photo (Sutherland–Hodgman clipping)."""
    whole = polygon = quad.tolist()
    if all(0 <= x <= width and 0 <= y <= height for x, y in whole):
        return 0.0
    for axis, sign, limit in ((0, 1, 0), (0, -1, -width), (1, 1, 0), (1, -1, -height)):  # keep sign · p[axis] ≥ limit
        kept = []
        for before, here in zip(polygon[-1:] + polygon[:-1], polygon, strict=True):
            old, new = sign * before[axis], sign * here[axis]
            if (old >= limit) != (new >= limit):
                t = (limit - old) / (new - old)
                kept.append((before[0] + t * (here[0] - before[0]), before[1] + t * (here[1] - before[1])))
            if new >= limit:
                kept.append(here)
        polygon = kept
    return max(0.0, 1.0 - _area(polygon) / max(_area(whole), 1e-9))


def _area(polygon: list[tuple[float, float]]) -> float:
    pairs = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    return abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in pairs)) / 2


def crop_shrink(quad: Quad, size: int, decoded: int) -> int:
    """The scale of the decode to crop from: the one made for detection if it has enough pixels, else 1; for a very
    large crop, whose warp would need gigabytes, the smallest with enough pixels."""
    side = quad_side(quad)
    candidates = (8, 4, 2, decoded) if side > 2048 else (decoded,)
    return next((shrink for shrink in candidates if side / shrink >= 2 * size), 1)  # two pixels per pixel of the crop


def crop(rgb: np.ndarray, quad: Quad, size: int, shrink: int = 1) -> np.ndarray:
    """Cut out the quadrilateral as RGB uint8 (size, size, 3).

    A quadrilateral on whole pixels, upright or rotated by quarter turns, is averaged by area. Any other is warped
    (bilinear) at the next whole multiple of ``size`` and then averaged by area. Enlarging is Lanczos. Pixels outside
    the photo are reflected.

    ``quad`` is in pixels of the photograph; one pixel of ``rgb`` stands for ``shrink`` × ``shrink`` of them.
    """
    quad = quad / shrink
    side = quad_side(quad)
    if side < size:
        return _warp(rgb, quad, size, cv2.INTER_LANCZOS4)
    quarters = _quarter_turns(quad)
    if quarters is None:
        return _resize_area(_warp(rgb, quad, size * math.ceil(side / size), cv2.INTER_LINEAR), (size, size))
    upright = _resize_area(_cut(rgb, np.roll(quad, -quarters, axis=0) if quarters else quad), (size, size))
    return np.ascontiguousarray(np.rot90(upright, quarters)) if quarters else upright


def _resize_area(rgb: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Shrink to ``size`` (width, height): a pixel is the mean of the area it covers."""
    height, width = rgb.shape[:2]
    if (width, height) == (3 * size[0], 3 * size[1]):  # CelebA's; the same pixels (ninths need no rounding to even)
        means = cv2.blur(rgb, (3, 3), anchor=(0, 0))
        return cv2.resize(means, size, interpolation=cv2.INTER_NEAREST)
    if rgb.size > _FEW_VALUES or (width % size[0] == 0 and height % size[1] == 0):
        return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    # At fractional ratios OpenCV averages floats a third faster than bytes, to the same pixels.
    return cv2.convertScaleAbs(cv2.resize(rgb.astype(np.float32), size, interpolation=cv2.INTER_AREA))


def _quarter_turns(quad: Quad) -> int | None:
    """Clockwise quarter turns of a quadrilateral on whole pixels; None for any other."""
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = quad.tolist()
    if (x0 != x3 and y0 != y3) or not all(value.is_integer() for value in (x0, y0, x2, y2)):
        return None
    if y0 == y3:
        return None if x0 != x1 else 0 if x3 > x0 else 2
    return None if y0 != y1 else 1 if y3 > y0 else 3


def _warp(rgb: np.ndarray, quad: Quad, size: int, interpolation: int) -> np.ndarray:
    if max(rgb.shape[:2]) > min(_FEW_SIDES * quad_side(quad), _WARP_LIMIT):
        rgb, quad = _neighbourhood(rgb, quad)
    (x0, y0), (x1, y1), _, (x3, y3) = quad.tolist()
    across_x, across_y, down_x, down_y = (x3 - x0) / size, (y3 - y0) / size, (x1 - x0) / size, (y1 - y0) / size
    # OpenCV's coordinates are those of pixel centres: target pixel (0, 0) is half a step inside the corner.
    start_x, start_y = x0 + (across_x + down_x) / 2 - 0.5, y0 + (across_y + down_y) / 2 - 0.5
    matrix = np.array([(across_x, down_x, start_x), (across_y, down_y, start_y)])
    rgba = cv2.cvtColor(rgb, cv2.COLOR_RGB2RGBA)  # OpenCV has vector instructions for it: half the time
    warped = cv2.warpAffine(rgba, matrix, (size, size), flags=interpolation | cv2.WARP_INVERSE_MAP, borderMode=_BORDER)
    return cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)


def _neighbourhood(rgb: np.ndarray, quad: Quad) -> tuple[np.ndarray, Quad]:
    """The part of the photo within a side of the crop: a reflection shows nothing else."""
    reach = quad_side(quad) + 8
    low = np.maximum(np.floor(quad.min(axis=0) - reach), 0).astype(int)
    high = np.ceil(quad.max(axis=0) + reach).astype(int)
    return rgb[low[1] : high[1], low[0] : high[0]], quad - low


def _cut(rgb: np.ndarray, quad: Quad) -> np.ndarray:
    (left, top), (right, bottom) = quad[0].astype(int), quad[2].astype(int)
    height, width = rgb.shape[:2]
    if left < 0 or top < 0 or right > width or bottom > height:
        rgb, moved = _neighbourhood(rgb, quad)  # instead of a copy of the whole photo
        (left, top), (right, bottom) = moved[0].astype(int), moved[2].astype(int)
        height, width = rgb.shape[:2]
        before, after = (max(-top, 0), max(-left, 0)), (max(bottom - height, 0), max(right - width, 0))
        rgb = cv2.copyMakeBorder(rgb, before[0], after[0], before[1], after[1], borderType=_BORDER)
        top, bottom, left, right = top + before[0], bottom + before[0], left + before[1], right + before[1]
    return rgb[top:bottom, left:right]


# Crops of the literature for CelebA's aligned photographs (178×218), without a detector


class FixedCrop(NamedTuple):
    """A square of ``side`` source pixels whose centre is ``below`` pixels below the photograph's."""

    side: int
    below: int = 0

    @property
    def least_size(self) -> tuple[int, int]:
        """Width and height of the smallest photograph that contains it."""
        return self.side, self.side + max(0, 2 * self.below - 1)


# With (x, y) on 178×218. Relative to the centre, they also fit photographs of other sizes.
FIXED_CROPS = {
    "dcgan108": FixedCrop(108),  # (35, 55): Radford et al. 2015, DCGAN, arXiv:1511.06434
    "pggan128": FixedCrop(128, below=12),  # (25, 57), about (89, 121): Karras et al. 2017, arXiv:1710.10196
    "began128": FixedCrop(128, below=5),  # (25, 50): Berthelot et al. 2017, BEGAN, arXiv:1703.10717
    "ncsn140": FixedCrop(140),  # (19, 39): Song & Ermon 2019, NCSN, arXiv:1907.05600
    "vaegan148": FixedCrop(148, below=5),  # (15, 40): Larsen et al. 2015, VAE/GAN, arXiv:1512.09300
    "comparegan160": FixedCrop(160),  # (9, 29): Kurach et al. 2018, compare_gan, arXiv:1807.04720
    "center178": FixedCrop(178),  # (0, 20), the largest centred square: Choi et al. 2017, StarGAN, arXiv:1711.09020
}
SQUASH = "squash"  # the whole photo, stretched: Karras et al. 2020, ADA's dataset_tool without --transform


def fixed_rectangle(name: str, width: int, height: int) -> Rectangle | None:
    """A fixed crop in a width × height photo; None if it does not fit."""
    if name == SQUASH:
        return 0, 0, width, height
    crop = FIXED_CROPS[name]
    left, top = (width - crop.side) // 2, (height - crop.side) // 2 + crop.below
    right, bottom = left + crop.side, top + crop.side
    return (left, top, right, bottom) if left >= 0 and top >= 0 and right <= width and bottom <= height else None


def crop_rectangle(rgb: np.ndarray, rectangle: Rectangle, size: int) -> np.ndarray:
    """The rectangle as RGB uint8 (size, size, 3): averaged by area along sides that shrink, Lanczos along others."""
    left, top, right, bottom = rectangle
    shrunk = (min(right - left, size), min(bottom - top, size))
    small = _resize_area(rgb[top:bottom, left:right], shrunk)
    return small if shrunk == (size, size) else cv2.resize(small, (size, size), interpolation=cv2.INTER_LANCZOS4)


def grey(rgb: np.ndarray) -> np.ndarray:
    """Luma of ITU-R BT.601, uint8 (height, width, 1): 0.299 R + 0.587 G + 0.114 B; grey pixels keep their values."""
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None]


def sharpness(rgb: np.ndarray) -> float:
    """Variance of the Laplacian (four neighbours, mirrored at the edges) of the grey image: low if blurred.

    Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy: a comparative study".
    """
    return sharpness_of_grey(grey(rgb))


def sharpness_of_grey(luma: np.ndarray) -> float:
    laplacian = cv2.Laplacian(luma, cv2.CV_16S, ksize=1)
    count, total = laplacian.size, cv2.sumElems(laplacian)[0]
    return (cv2.norm(laplacian, cv2.NORM_L2SQR) - total * total / count) / count  # of integers: exact sums


# Photographs on their side or upside down. Degrees are clockwise: 0, 90, 180 or 270


def rotated_size(degrees: int, width: int, height: int) -> tuple[int, int]:
    return (width, height) if degrees in (0, 180) else (height, width)


def rotated_point(x: float, y: float, degrees: int, width: float, height: float) -> tuple[float, float]:
    """The position of a point of a width × height image after the image is rotated."""
    if degrees == 90:
        return height - y, x
    if degrees == 180:
        return width - x, height - y
    return (y, width - x) if degrees == 270 else (x, y)


def rotated_face(face: Face, degrees: int, width: float, height: float) -> Face:
    """The face after its width × height image is rotated; 360 − degrees in the rotated image is the inverse."""
    x, y, w, h = face.box
    (x0, y0), (x1, y1) = (rotated_point(*corner, degrees, width, height) for corner in ((x, y), (x + w, y + h)))
    keypoints = tuple(rotated_point(*point, degrees, width, height) for point in face.keypoints)
    return Face((min(x0, x1), min(y0, y1), abs(x1 - x0), abs(y1 - y0)), keypoints, face.score)


def rotated_quad(quad: Quad, degrees: int, width: float, height: float) -> Quad:
    """The quadrilateral after the image is rotated: its first corner is still the crop's top left."""
    return np.array([rotated_point(x, y, degrees, width, height) for x, y in quad.tolist()])

"""Crops: geometry against closed forms, pixels against supersampling; grey, sharpness and rotations."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from facegan import config
from facegan.config import PrepConfig
from facegan.faces.crop import (
    FIXED_CROPS,
    SQUASH,
    aligned_quad,
    box_quad,
    crop,
    crop_rectangle,
    fixed_rectangle,
    grey,
    outside_share,
    quad_side,
    rectangle_quad,
    rotated_point,
    rotated_size,
    sharpness,
)
from facegan.faces.detect import Face
from facegan.faces.find import find
from tests.faces.supersample import psnr, supersampled, zone_plate
from tests.prep.fake import face_at

CELEBA = (178, 218)
PAPERS = {  # x, y, width, height on 178×218
    "dcgan108": (35, 55, 108, 108),
    "pggan128": (25, 57, 128, 128),
    "began128": (25, 50, 128, 128),
    "ncsn140": (19, 39, 140, 140),
    "vaegan148": (15, 40, 148, 148),
    "comparegan160": (9, 29, 160, 160),
    "center178": (0, 20, 178, 178),
    "squash": (0, 0, 178, 218),
}
SIZE = (30, 20)
DEGREES = (0, 90, 180, 270)
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def face(left: tuple[float, float], right: tuple[float, float], mouth: tuple[float, float]) -> Face:
    ears = ((0.0, 0.0), (0.0, 0.0))
    return Face((10.0, 20.0, 40.0, 40.0), (left, right, (0.0, 0.0), mouth, *ears), 0.9)


def square(centre: tuple[float, float], side: float, degrees: float) -> np.ndarray:
    """Top left, bottom left, bottom right, top right, rotated clockwise."""
    angle = math.radians(degrees)
    x = np.array([math.cos(angle), math.sin(angle)]) * side / 2
    y = np.array([-x[1], x[0]])
    return np.array([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def test_quads_of_upright_and_long_faces() -> None:
    # |e| = 40, m = (0, 40): x points right, half a side is max(2·40, 1.8·40) = 80, the centre is 4 below the eyes.
    quad = aligned_quad(face((80, 100), (120, 100), (100, 140)))
    assert quad.tolist() == [[20, 24], [20, 184], [180, 184], [180, 24]]
    assert quad_side(aligned_quad(face((90, 100), (110, 100), (100, 160)))) == pytest.approx(2 * 1.8 * 60)
    twice = aligned_quad(face((80, 100), (120, 100), (100, 140)), margin=2.0)
    assert twice.mean(axis=0) == pytest.approx(quad.mean(axis=0))
    assert quad_side(twice) == pytest.approx(2 * quad_side(quad))
    assert box_quad(face((0, 0), (1, 0), (0, 1)), 1.5).tolist() == [[0, 10], [0, 70], [60, 70], [60, 10]]


@given(st.floats(-80, 80), st.floats(0.5, 2), st.floats(-50, 50), st.floats(-50, 50))
def test_aligned_quad_moves_with_the_face(degrees: float, scale: float, dx: float, dy: float) -> None:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = scale * np.array([[c, -s], [s, c]])

    def moved(point: tuple[float, float]) -> tuple[float, float]:
        x, y = matrix @ np.array(point) + (dx, dy)
        return float(x), float(y)

    points = ((80.0, 100.0), (120.0, 104.0), (99.0, 140.0))
    still = aligned_quad(face(*points))
    rotated = aligned_quad(face(*(moved(point) for point in points)))
    expected = still @ matrix.T + (dx, dy)
    assert np.abs(rotated - expected).max() < 0.02


def test_share_outside_the_photo() -> None:
    for centre, expected in [((50, 50), 0.0), ((0, 50), 0.5), ((0, 0), 0.75), ((-50, 50), 1.0), ((100, 100), 0.75)]:
        assert outside_share(square(centre, 20, 0), 100, 100) == pytest.approx(expected)
    # A square on its tip, centred on the left edge, and one with its tip alone outside: a triangle of area h².
    assert outside_share(square((0, 50), 20, 45), 100, 100) == pytest.approx(0.5)
    side, height = 20.0, 3.0
    centre = side * math.sqrt(0.5) - height
    assert outside_share(square((centre, 50), side, 45), 100, 100) == pytest.approx(height**2 / side**2)


@pytest.mark.parametrize("degrees", [0, 7, 45, 90, 264])
@pytest.mark.parametrize("side", [70.5, 129.0, 240.0])
def test_rotated_crop_does_not_alias(degrees: float, side: float) -> None:
    plate, quad = zone_plate(), square((128.0, 128.0), side, degrees)
    assert psnr(crop(plate, quad, 64), supersampled(plate, quad, 64)) >= 30


@pytest.mark.parametrize("degrees", DEGREES)
@pytest.mark.parametrize("side", [40, 108])
def test_crop_of_quarter_turns(degrees: int, side: int) -> None:
    plate = zone_plate()
    plate[:128, :, 0] //= 2
    quad = np.round(square((121.0, 133.0), side, degrees))
    # The same pixels as from the image rotated by numpy, counter-clockwise.
    back = complex(121.0 - 128, 133.0 - 128) * 1j ** (-degrees // 90)
    upright = np.round(square((128 + back.real, 128 + back.imag), side, 0))
    by_numpy = crop(np.ascontiguousarray(np.rot90(plate, degrees // 90)), upright, 64)
    assert np.abs(crop(plate, quad, 64).astype(int) - by_numpy).max() <= (0 if side >= 64 else 1)  # enlarging warps


def test_pixels_outside_are_reflected() -> None:
    ramp = np.broadcast_to(np.arange(100, dtype=np.uint8)[None, :, None], (100, 100, 3)).copy()
    quad = np.array([(-32, 18), (-32, 82), (32, 82), (32, 18)], float)
    row = crop(ramp, quad, 32)[16, :, 0].astype(float)
    mirrored = np.abs(np.arange(-32, 32) + 0.5) - 0.5
    assert np.abs(row - mirrored.reshape(32, 2).mean(axis=1)).max() <= 1


def test_enlarging_keeps_edges_in_place() -> None:
    picture = np.zeros((20, 20, 3), np.uint8)
    picture[:, 10:] = 255
    quad = np.array([(2, 2), (2, 18), (18, 18), (18, 2)], float)
    row = crop(picture, quad, 64)[32, :, 0]
    assert row[28] < 30
    assert row[35] > 225


def test_shrunk_decode_gives_same_crop() -> None:
    plate = zone_plate(512, 512)
    small = plate.reshape(256, 2, 256, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    quad = square((250.0, 260.0), 300.0, 20)
    assert psnr(crop(small, quad, 64, shrink=2), crop(plate, quad, 64)) >= 30


def test_photo_wider_than_opencv_warps() -> None:
    strip = np.zeros((64, 40_000, 3), np.uint8)
    strip[:, 39_968:] = 200
    quad = square((39_968.0, 32.0), 40.0, 10)
    middle = crop(strip, quad, 32)[16, :, 0]
    assert middle[2] < 20
    assert middle[-3] > 180


def test_fixed_crops_are_those_of_the_papers() -> None:
    assert config.FIXED_CROPS == (*FIXED_CROPS, SQUASH) == tuple(PAPERS)
    for name, (x, y, width, height) in PAPERS.items():
        assert fixed_rectangle(name, *CELEBA) == (x, y, x + width, y + height)


@pytest.mark.parametrize("name", FIXED_CROPS)
def test_fixed_crops_in_other_sizes(name: str) -> None:
    side, below = FIXED_CROPS[name].side, FIXED_CROPS[name].below
    left, top = (1024 - side) // 2, (768 - side) // 2 + below
    assert fixed_rectangle(name, 1024, 768) == (left, top, left + side, top + side)
    width, height = FIXED_CROPS[name].least_size
    assert fixed_rectangle(name, width, height) is not None
    assert fixed_rectangle(name, width - 1, height) is fixed_rectangle(name, width, height - 1) is None


@pytest.mark.parametrize("size", [28, 64])
@pytest.mark.parametrize("name", ["dcgan108", "began128", "center178", "squash"])
def test_fixed_crop_does_not_alias(name: str, size: int) -> None:
    plate, rectangle = zone_plate(*CELEBA), fixed_rectangle(name, *CELEBA)
    assert rectangle is not None
    expected = supersampled(plate, rectangle_quad(rectangle), size)
    assert psnr(crop_rectangle(plate, rectangle, size), expected) >= 30


@pytest.mark.parametrize("size", [(401, 283), (320, 256), (32, 32)])  # fractional ratio, whole ratio, none
def test_squashing_averages_by_area(size: tuple[int, int]) -> None:
    plate = zone_plate(*size)
    expected = supersampled(plate, rectangle_quad((0, 0, *size)), 32, factor=16)
    assert psnr(crop_rectangle(plate, (0, 0, *size), 32), expected) >= 30


def test_squashing_shrinks_one_side_and_enlarges_the_other() -> None:
    stripes = np.zeros((256, 20, 3), np.uint8)
    stripes[:, 10:] = 255
    stripes[::2] //= 2  # finer than the crop can show: 255 and 127 average to 191
    found = crop_rectangle(stripes, (0, 0, 20, 256), 64)
    assert found.shape == (64, 64, 3)
    assert found[:, 28].max() < 30
    assert np.abs(found[:, 40:].astype(int) - 191).max() <= 5  # Lanczos rings


def test_grey_is_the_luma_of_bt_601() -> None:
    assert np.abs(grey(NOISE)[..., 0] - NOISE @ (0.299, 0.587, 0.114)).max() <= 0.51  # integer weights
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    assert np.array_equal(grey(np.repeat(ramp, 3, axis=2)), ramp)


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    luma = np.round(NOISE.astype(float) @ (0.299, 0.587, 0.114))
    assert sharpness(NOISE) == pytest.approx(ndimage.laplace(luma, mode="mirror").var(), rel=1e-3)
    levels = [sharpness(NOISE), *(sharpness(cv2.GaussianBlur(NOISE, (0, 0), sigma)) for sigma in (1, 2, 4))]
    assert levels == sorted(levels, reverse=True)
    assert sharpness(np.full((64, 64, 3), 200, np.uint8)) == 0


@pytest.mark.parametrize("degrees", DEGREES)
def test_rotated_points_agree_with_numpy(degrees: int) -> None:
    rgb = np.zeros((20, 30, 3), np.uint8)
    rgb[3, 7] = 255
    rotated = np.rot90(rgb, -degrees // 90)
    x, y = rotated_point(7.5, 3.5, degrees, *SIZE)
    assert rotated[int(y), int(x)].all()
    assert rotated_size(degrees, *SIZE) == (rotated.shape[1], rotated.shape[0])


class Scripted:
    """Returns the given faces for each rotation, which it recognises by a marked corner."""

    def __init__(self, **given: list[Face]) -> None:
        self.given = given
        self.seen: list[str] = []

    def detect(self, rgb: np.ndarray, min_score: float) -> list[Face]:
        corners = {"at0": rgb[0, 0], "at90": rgb[0, -1], "at180": rgb[-1, -1], "at270": rgb[-1, 0]}
        view = next(name for name, corner in corners.items() if corner.any())
        self.seen.append(view)
        return [face for face in self.given.get(view, []) if face.score >= min_score]

    def close(self) -> None:
        pass


def leaning(score: float) -> Face:
    """A face on its side: keypoints in anatomical order, but the eyes nearly above each other."""
    points = ((99.0, 70.0), (101.0, 110.0), (110.0, 90.0), (80.0, 95.0), (100.0, 60.0), (100.0, 120.0))
    return Face((70.0, 60.0, 60.0, 60.0), points, score)


UPRIGHT, UPSIDE_DOWN = face_at(100, 100, score=0.8), face_at(150, 100, upside_down=True)


@pytest.mark.parametrize(
    ("given", "rotation", "looks"),
    [
        ({"at0": [face_at(150, 100, score=0.95)], "at90": [face_at(100, 150, score=0.99)]}, 0, 1),
        ({"at0": [UPRIGHT], "at90": [leaning(0.99)], "at270": [face_at(100, 140, score=0.88), leaning(0.9)]}, 270, 4),
        ({"at0": [UPRIGHT], "at90": [UPRIGHT]}, 0, 4),  # the smallest of equal ones
        ({"at180": [UPRIGHT], "at270": [UPRIGHT]}, 180, 4),
        ({"at0": [UPSIDE_DOWN], "at90": [leaning(0.9)]}, 0, 4),
    ],
)
def test_rotation_of_best_upright_face(given: dict[str, list[Face]], rotation: int, looks: int) -> None:
    rgb = np.zeros((200, 300, 3), np.uint8)
    rgb[0, 0] = 255
    detector = Scripted(**given)
    found = find(rgb, 1, (300, 200), detector, PrepConfig(rotate="auto"))
    assert (found.rotation, detector.seen[:4]) == (rotation, ["at0", "at90", "at180", "at270"][:looks])
    if rotation == 270:  # clockwise put the top edge on the left: x = width − y', y = x' is the inverse
        assert [face.box for face in found.faces] == [(300 - 170, 70, 60, 60), (300 - 120, 70, 60, 60)]


def test_thirds_are_averaged_by_area() -> None:
    """All sums of nine bytes, by a path of their own."""
    sums = np.arange(48 * 48) % (9 * 255 + 1)
    blocks = np.clip(sums[:, None] - 255 * np.arange(9), 0, 255).astype(np.uint8).reshape(48, 48, 3, 3)
    rgb = np.repeat(blocks.transpose(0, 2, 1, 3).reshape(144, 144)[..., None], 3, axis=2)
    found = crop(rgb, rectangle_quad((0, 0, 144, 144)), 48)
    assert np.array_equal(found[..., 0].ravel(), np.round(sums / 9))
    assert np.array_equal(found, cv2.resize(rgb, (48, 48), interpolation=cv2.INTER_AREA))

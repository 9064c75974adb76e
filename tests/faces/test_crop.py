"""Crops: the geometry against closed forms, the pixels against supersampling."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegan.faces.crop import aligned_quad, box_quad, crop, outside_share, quad_side
from facegan.faces.detect import Face
from tests.faces.supersample import psnr, supersampled, zone_plate


def face(left: tuple[float, float], right: tuple[float, float], mouth: tuple[float, float]) -> Face:
    ears = ((0.0, 0.0), (0.0, 0.0))
    return Face((10.0, 20.0, 40.0, 40.0), (left, right, (0.0, 0.0), mouth, *ears), 0.9)


def square(centre: tuple[float, float], side: float, degrees: float) -> np.ndarray:
    """Top left, bottom left, bottom right, top right, turned clockwise on the screen."""
    turn = math.radians(degrees)
    x = np.array([math.cos(turn), math.sin(turn)]) * side / 2
    y = np.array([-x[1], x[0]])
    return np.array([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def test_an_upright_face_gives_the_square_of_the_formula() -> None:
    # |e| = 40, m = (0, 40): x points right, half a side is max(2·40, 1.8·40) = 80, the centre is 4 below the eyes.
    quad = aligned_quad(face((80, 100), (120, 100), (100, 140)))
    assert quad.tolist() == [[20, 24], [20, 184], [180, 184], [180, 24]]


def test_a_long_face_is_sized_by_its_mouth() -> None:
    quad = aligned_quad(face((90, 100), (110, 100), (100, 160)))
    assert quad_side(quad) == pytest.approx(2 * 1.8 * 60)


@given(st.floats(-80, 80), st.floats(0.5, 2), st.floats(-50, 50), st.floats(-50, 50))
def test_the_crop_turns_grows_and_moves_with_the_face(degrees: float, scale: float, dx: float, dy: float) -> None:
    turn = math.radians(degrees)
    matrix = scale * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])

    def moved(point: tuple[float, float]) -> tuple[float, float]:
        x, y = matrix @ np.array(point) + (dx, dy)
        return float(x), float(y)

    points = ((80.0, 100.0), (120.0, 104.0), (99.0, 140.0))
    straight = aligned_quad(face(*points))
    turned = aligned_quad(face(*(moved(point) for point in points)))
    expected = straight @ matrix.T + (dx, dy)
    assert np.abs(turned - expected).max() < 0.02


def test_margin_scales_about_the_centre() -> None:
    one, two = (aligned_quad(face((80, 100), (120, 100), (100, 140)), margin) for margin in (1.0, 2.0))
    assert two.mean(axis=0) == pytest.approx(one.mean(axis=0))
    assert quad_side(two) == pytest.approx(2 * quad_side(one))


def test_a_box_is_upright_and_on_whole_pixels() -> None:
    quad = box_quad(face((0, 0), (1, 0), (0, 1)), 1.5)
    assert quad.tolist() == [[0, 10], [0, 70], [60, 70], [60, 10]]


@pytest.mark.parametrize(
    ("centre", "expected"), [((50, 50), 0.0), ((0, 50), 0.5), ((0, 0), 0.75), ((-50, 50), 1.0), ((100, 100), 0.75)]
)
def test_the_share_outside_of_an_upright_square(centre: tuple[float, float], expected: float) -> None:
    assert outside_share(square(centre, 20, 0), 100, 100) == pytest.approx(expected)


def test_the_share_outside_of_a_turned_square() -> None:
    # A square on its tip, centred on the left edge: half of it is outside.
    assert outside_share(square((0, 50), 20, 45), 100, 100) == pytest.approx(0.5)
    # Its tip alone: a right triangle of height h has the area h².
    side, sunk = 20.0, 3.0
    centre = side * math.sqrt(0.5) - sunk
    assert outside_share(square((centre, 50), side, 45), 100, 100) == pytest.approx(sunk**2 / side**2)


@pytest.mark.parametrize("degrees", [0, 7, 30, 45, 97, 180, 264])
@pytest.mark.parametrize("side", [70.5, 129.0, 165.0, 240.0])
def test_a_zone_plate_does_not_alias(degrees: float, side: float) -> None:
    plate, quad = zone_plate(), square((128.0, 128.0), side, degrees)
    assert psnr(crop(plate, quad, 64), supersampled(plate, quad, 64)) >= 30


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("side", [40, 108, 178])
def test_quarter_turns_on_whole_pixels(degrees: int, side: int) -> None:
    plate = zone_plate()
    plate[:128, :, 0] //= 2  # so that each side of it looks different
    plate[:, :128, 1] //= 2
    quad = np.round(square((121.0, 133.0), side, degrees))
    found = crop(plate, quad, 64)
    assert psnr(found, supersampled(plate, quad, 64)) >= 30
    # The same pixels as from the picture turned by hand: numpy turns counter-clockwise.
    x, y = 121.0 - 128, 133.0 - 128
    turned_back = complex(x, y) * 1j ** (-degrees // 90)
    standing = np.round(square((128 + turned_back.real, 128 + turned_back.imag), side, 0))
    by_hand = crop(np.ascontiguousarray(np.rot90(plate, degrees // 90)), standing, 64)
    assert np.abs(found.astype(int) - by_hand).max() <= (0 if side >= 64 else 1)  # enlarging is a warp


def test_an_upright_crop_on_whole_pixels_is_the_mean_of_its_blocks() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    quad = np.array([(4, 8), (4, 72), (68, 72), (68, 8)], float)
    blocks = picture[8:72, 4:68].reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.abs(crop(picture, quad, 32).astype(float) - blocks).max() <= 0.51


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


def test_a_shrunk_decode_gives_the_same_crop() -> None:
    plate = zone_plate(512, 512)
    small = plate.reshape(256, 2, 256, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    quad = square((250.0, 260.0), 300.0, 20)
    assert psnr(crop(small, quad, 64, shrink=2), crop(plate, quad, 64)) >= 30


def test_a_photo_wider_than_opencv_warps_can_address() -> None:
    strip = np.zeros((64, 40_000, 3), np.uint8)
    strip[:, 39_968:] = 200
    quad = square((39_968.0, 32.0), 40.0, 10)
    middle = crop(strip, quad, 32)[16, :, 0]
    assert middle[2] < 20
    assert middle[-3] > 180

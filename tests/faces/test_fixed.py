"""Fixed crops: the papers' numbers on CelebA, the rule for photographs of other sizes, and pixels that don't alias."""

from __future__ import annotations

import numpy as np
import pytest

from facegan import config
from facegan.faces.crop import FIXED_CROPS, SQUASH, crop_rectangle, fixed_rectangle, rectangle_quad
from tests.faces.supersample import psnr, supersampled, zone_plate

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


def test_settings_and_crops_have_the_same_names() -> None:
    assert config.FIXED_CROPS == (*FIXED_CROPS, SQUASH) == tuple(PAPERS)


@pytest.mark.parametrize("name", PAPERS)
def test_on_celeba_it_is_cut_as_in_the_paper(name: str) -> None:
    x, y, width, height = PAPERS[name]
    assert fixed_rectangle(name, *CELEBA) == (x, y, x + width, y + height)


@pytest.mark.parametrize("name", FIXED_CROPS)
def test_in_other_photographs_it_keeps_its_place_about_the_centre(name: str) -> None:
    side, below = FIXED_CROPS[name].side, FIXED_CROPS[name].below
    rectangle = fixed_rectangle(name, 1024, 768)
    assert rectangle is not None
    left, top, right, bottom = rectangle
    assert ((left + right) / 2, (top + bottom) / 2) == (512, 384 + below)
    assert (right - left, bottom - top) == (side, side)


@pytest.mark.parametrize("name", FIXED_CROPS)
def test_it_does_not_fit_into_a_photograph_that_is_too_small(name: str) -> None:
    width, height = FIXED_CROPS[name].least_size
    assert fixed_rectangle(name, width, height) is not None
    assert fixed_rectangle(name, width - 1, height) is None
    assert fixed_rectangle(name, width, height - 1) is None


@pytest.mark.parametrize("size", [28, 64, 128])
@pytest.mark.parametrize("name", PAPERS)
def test_a_zone_plate_does_not_alias(name: str, size: int) -> None:
    plate, rectangle = zone_plate(*CELEBA), fixed_rectangle(name, *CELEBA)
    assert rectangle is not None
    expected = supersampled(plate, rectangle_quad(rectangle), size)
    assert psnr(crop_rectangle(plate, rectangle, size), expected) >= 30


@pytest.mark.parametrize("size", [(1003, 701), (640, 512), (64, 64)])  # broken ratios, whole ones, none
def test_squashing_averages_by_area(size: tuple[int, int]) -> None:
    plate = zone_plate(*size)
    expected = supersampled(plate, rectangle_quad((0, 0, *size)), 64, factor=16)
    assert psnr(crop_rectangle(plate, (0, 0, *size), 64), expected) >= 30


def test_squashing_shrinks_one_side_and_enlarges_the_other() -> None:
    stripes = np.zeros((256, 20, 3), np.uint8)
    stripes[:, 10:] = 255
    stripes[::2] //= 2  # finer than the crop can show: 255 and 127 average to 191
    found = crop_rectangle(stripes, (0, 0, 20, 256), 64)
    assert found.shape == (64, 64, 3)
    assert found[:, 28].max() < 30
    assert np.abs(found[:, 40:].astype(int) - 191).max() <= 5  # what Lanczos rings

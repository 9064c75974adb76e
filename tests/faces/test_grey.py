"""Colours to grey: the weights of ITU-R BT.601, and nothing changed where there are none."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from facegan.faces.crop import grey, sharpness


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_the_luma_of_bt_601(colour: tuple[int, int, int]) -> None:
    found = grey(np.array([[colour]], np.uint8))
    assert found.shape == (1, 1, 1)
    exact = np.dot((0.299, 0.587, 0.114), colour)
    assert abs(int(found.item()) - exact) <= 0.51  # whole parts of a power of two


def test_what_is_grey_keeps_its_values() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    assert np.array_equal(grey(np.repeat(ramp, 3, axis=2)), ramp)


def test_sharpness_is_measured_on_the_same_grey() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert sharpness(rgb) == sharpness(np.repeat(grey(rgb), 3, axis=2))

"""The sliced Wasserstein distance: a second implementation, closed forms, and what it responds to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats
from torch import Tensor

from facegan.evaluate.swd import (
    BINS,
    DIRECTIONS,
    PATCH,
    SCALE,
    STEP,
    _corners,
    _directions,
    level_sizes,
    project,
    sliced_wasserstein,
)
from tests.evaluate.drawn import textures

FILTER = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1])[None, None] / 256


def distance(a: Tensor, b: Tensor, seed: int = 0) -> float:
    return sliced_wasserstein(project(a, seed), project(b, seed))["swd"]


def down(images: np.ndarray) -> np.ndarray:
    return ndimage.convolve(images, FILTER, mode="mirror")[:, :, ::2, ::2]


def up(images: np.ndarray) -> np.ndarray:
    wide = np.zeros((*images.shape[:2], 2 * images.shape[2], 2 * images.shape[3]))
    wide[:, :, ::2, ::2] = images
    return ndimage.convolve(wide, 4 * FILTER, mode="mirror")


def by_sorting(a: Tensor, b: Tensor, seed: int) -> dict[str, float]:
    """As the paper's own code has it, with loops and sorted projections, in float64; only random numbers are shared."""
    images, found = [a.double().numpy(), b.double().numpy()], {}
    while (side := images[0].shape[-1]) >= 14:
        last = side % 2 or side // 2 < 14
        smaller = [] if last else [down(each) for each in images]
        levels = images if last else [each - up(low) for each, low in zip(images, smaller, strict=True)]
        projected = []
        for level in levels:
            places = _corners(len(level), side, seed, 0)
            patches = np.stack(
                [
                    image[:, y : y + PATCH, x : x + PATCH]
                    for image, each in zip(level, places, strict=True)
                    for y, x in each
                ]
            )
            patches -= patches.mean((0, 2, 3), keepdims=True)
            patches /= patches.std((0, 2, 3), keepdims=True)
            directions = _directions(level.shape[1], side, seed)
            projected.append(np.sort(patches.reshape(len(patches), -1) @ directions.T, axis=0))
        found[f"swd_{side}"] = 1000 * np.abs(projected[0] - projected[1]).mean()
        images = smaller
        if last:
            break
    return {"swd": float(np.mean(list(found.values()))), **found}


@pytest.mark.parametrize(("size", "channels"), [(28, 3), (64, 1)])
def test_values_equal_the_papers_algorithm(size: int, channels: int) -> None:
    a, b = textures(6, size, channels, 1), textures(6, size, channels, 2, blur=1.5)
    assert sliced_wasserstein(project(a, 5), project(b, 5)) == pytest.approx(by_sorting(a, b, 5), rel=2e-3)


def test_levels_halve_down_to_14() -> None:
    assert [level_sizes(size) for size in (128, 64, 28)] == [(128, 64, 32, 16), (64, 32, 16), (28, 14)]


def test_distance_is_deterministic_and_symmetric() -> None:
    a, b = textures(8, 28), textures(8, 28, seed=1)
    ours, theirs = project(a, 3), project(b, 3)
    assert set(sliced_wasserstein(ours, project(a, 3)).values()) == {0.0}
    found = sliced_wasserstein(ours, theirs)
    assert found == sliced_wasserstein(theirs, ours)
    assert list(found) == ["swd", "swd_28", "swd_14"]
    assert found["swd"] == pytest.approx((found["swd_28"] + found["swd_14"]) / 2)
    assert found["swd"] != distance(a, b, 4)


def test_patch_positions_follow_image_index() -> None:
    """So block size and later images change nothing."""
    assert (_corners(700, 32, 9, 0)[600:] == _corners(100, 32, 9, 600)).all()
    assert (_corners(3, 32, 9, 0) != _corners(3, 32, 10, 0)).any()
    places = _corners(2000, 32, 9, 0)
    assert (places.min(), places.max()) == (0, 32 - PATCH)
    assert np.abs(np.bincount(places.ravel()) / places.size * (32 - PATCH + 1) - 1).max() < 0.03


def test_tint_and_contrast_are_ignored() -> None:
    """Each channel is normalized over its set."""
    a = textures(16).div(2, rounding_mode="floor")
    tinted = torch.stack([a[:, 0] + 40, a[:, 1] * 2, a[:, 2]], dim=1)
    assert distance(a, tinted) < 0.02 * distance(a, textures(16, blur=1.5))


def test_constant_images_are_far_from_others() -> None:
    plain = torch.full((8, 3, 32, 32), 90, dtype=torch.uint8)
    assert distance(plain, plain + 20) == 0
    assert distance(plain, textures(8)) > 5 * distance(textures(8, seed=1), textures(8))


@settings(max_examples=5, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, BINS - 1), st.integers(0, BINS - 1)), min_size=1, max_size=8), st.integers(1, 3)
)
def test_level_distance_equals_scipys(pairs: list[tuple[int, int]], times: int) -> None:
    """Also for sets of different sizes."""
    sets = []
    for places, factor in zip(zip(*pairs, strict=True), (1, times), strict=True):
        row = factor * np.bincount(places, minlength=BINS).astype(np.int32)
        sets.append({16: np.broadcast_to(row, (DIRECTIONS, BINS))})  # the same in every direction
    w1 = stats.wasserstein_distance(*(np.array(places) * STEP for places in zip(*pairs, strict=True)))
    assert sliced_wasserstein(*sets)["swd"] == pytest.approx(SCALE * w1, abs=1e-6)

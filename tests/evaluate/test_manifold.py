"""Density, coverage and nearest neighbours against an implementation with all distances at once."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from facegan.errors import SettingsError
from facegan.evaluate import density_coverage, manifold, nearest


def cloud(count: int, features: int = 8, seed: int = 0, mean: float = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((count, features)) + mean).astype(np.float32)


def by_all_distances(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, float]:
    """As the paper's equations read, with loops over the balls."""
    radii = np.sort(cdist(real, real))[:, k]  # the nearest is itself
    inside = cdist(real, fake) < radii[:, None]
    return inside.sum() / (k * len(fake)), float(np.mean([ball.any() for ball in inside]))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(7, 60), st.integers(1, 60), st.integers(1, 6), st.floats(0, 1.5))
def test_values_equal_the_papers_equations(seed: int, real: int, fake: int, k: int, apart: float) -> None:
    a, b = cloud(real, seed=seed), cloud(fake, seed=seed + 1, mean=apart)
    assert density_coverage(a, b, k) == pytest.approx(by_all_distances(a, b, k))


def test_block_size_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = cloud(300), cloud(250, seed=1, mean=0.3)
    whole = density_coverage(a, b), nearest(b, a, 4)
    monkeypatch.setattr(manifold, "_BLOCK_ENTRIES", 301)  # a row at a time
    assert density_coverage(a, b) == whole[0]
    for one, other in zip(nearest(b, a, 4), whole[1], strict=True):
        assert np.allclose(one, other)


def test_memory_is_bounded_by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifold, "_BLOCK_ENTRIES", 1 << 16)
    a, b = cloud(2000), cloud(2000, seed=1)
    tracemalloc.start()
    try:
        density_coverage(a, b)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 * len(a) * len(b) / 4


def test_equal_distributions_reach_the_papers_limit() -> None:
    real = cloud(1000, features=4)
    density, coverage = density_coverage(real, cloud(1000, features=4, seed=1))
    assert density == pytest.approx(1, abs=0.1)
    assert coverage == pytest.approx(1 - 0.5**5, abs=0.02)  # the paper's limit, for as many samples as real images
    assert density_coverage(real, cloud(1000, features=4, seed=1, mean=9)) == (0, 0)


def test_one_repeated_sample_covers_little() -> None:
    real = cloud(500)
    one = np.repeat(real.mean(0, keepdims=True), 500, axis=0)
    density, coverage = density_coverage(real, one)
    assert density > 1
    assert coverage < 0.2


def test_repeated_real_images_have_empty_balls() -> None:
    """Rounding must not matter, however far the features are from 0."""
    real = np.repeat(cloud(4, mean=1000), 8, axis=0)
    assert density_coverage(real, real) == (0, 0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 40), st.integers(4, 40), st.integers(1, 4))
def test_nearest_equals_scipy(seed: int, queries: int, references: int, count: int) -> None:
    a, b = cloud(queries, seed=seed), cloud(references, seed=seed + 1)
    distances, indices = nearest(a, b, count)
    every = cdist(a, b)
    assert (indices == np.argsort(every)[:, :count]).all()
    assert np.allclose(distances, np.sort(every)[:, :count])


def test_equal_images_have_distance_0() -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 12288)).astype(np.float32)
    distances, indices = nearest(images[::3], images)
    assert (indices[:, 0] == np.arange(0, 40, 3)).all()
    assert (distances == 0).all()


def test_wrong_features_are_errors() -> None:
    with pytest.raises(SettingsError, match="at least 1 image and 6 real images, not 9 and 5"):
        density_coverage(cloud(5), cloud(9))
    with pytest.raises(SettingsError, match="not 0 and 9"):
        density_coverage(cloud(9), cloud(0))
    with pytest.raises(SettingsError, match="3 references, not 4 and 2"):
        nearest(cloud(4), cloud(2), 3)
    with pytest.raises(SettingsError, match="not 4 and 8 features"):
        nearest(cloud(4, 4), cloud(4, 8))

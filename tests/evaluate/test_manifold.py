"""Density, coverage and nearest neighbours against an implementation with all distances at once."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from facegan.evaluate import manifold
from facegan.evaluate.manifold import density_coverage, nearest


def cloud(count: int, features: int = 8, seed: int = 0, mean: float = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((count, features)) + mean).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(7, 60), st.integers(1, 60), st.integers(1, 6), st.floats(0, 1.5))
def test_values_equal_the_papers_equations(seed: int, real: int, fake: int, k: int, apart: float) -> None:
    a, b = cloud(real, seed=seed), cloud(fake, seed=seed + 1, mean=apart)
    every = cdist(b, a)
    inside = every < np.sort(cdist(a, a))[:, k]  # the nearest is itself
    assert density_coverage(a, b, k) == pytest.approx((inside.sum() / (k * fake), inside.any(axis=0).mean()))
    distances, indices = nearest(b, a, k)
    assert (indices == np.argsort(every)[:, :k]).all()
    assert np.allclose(distances, np.sort(every)[:, :k])


def test_blocks_bound_memory_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = cloud(1500), cloud(1200, seed=1, mean=0.3)
    whole = density_coverage(a, b), nearest(b, a, 4)
    monkeypatch.setattr(manifold, "_BLOCK_ENTRIES", 1 << 15)
    tracemalloc.start()
    try:
        assert density_coverage(a, b) == whole[0]
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 * len(a) * len(b) / 4
    for one, other in zip(nearest(b, a, 4), whole[1], strict=True):
        assert np.allclose(one, other)


def test_equal_distributions_reach_the_papers_limit() -> None:
    real = cloud(1000, features=4)
    density, coverage = density_coverage(real, cloud(1000, features=4, seed=1))
    assert density == pytest.approx(1, abs=0.1)
    assert coverage == pytest.approx(1 - 0.5**5, abs=0.02)  # the paper's limit, for as many samples as real images
    assert density_coverage(real, cloud(1000, features=4, seed=1, mean=9)) == (0, 0)


def test_one_repeated_sample_covers_little() -> None:
    real = cloud(500)
    density, coverage = density_coverage(real, np.repeat(real.mean(0, keepdims=True), 500, axis=0))
    assert density > 1
    assert coverage < 0.2


def test_equal_images_have_distance_0() -> None:
    """Rounding must not matter, however far the features are from 0."""
    images = np.random.default_rng(0).integers(0, 256, (40, 12288)).astype(np.float32)
    distances, indices = nearest(images[::3], images)
    assert (indices[:, 0] == np.arange(0, 40, 3)).all()
    assert (distances == 0).all()
    real = np.repeat(cloud(4, mean=1000), 8, axis=0)
    assert density_coverage(real, real) == (0, 0)

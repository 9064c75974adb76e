"""The Fréchet distance against closed forms and scipy; published statistics are read without trust."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from facegan.errors import ModelError
from facegan.evaluate.fid import fid, frechet_distance, read_statistics, statistics


def drawn(count: int, features: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((count, features)) @ rng.standard_normal((features, features))
    return (mixed + rng.standard_normal(features)).astype(np.float32)


def test_statistics_are_numpys() -> None:
    features = drawn(9000, 5, 0)  # more than a block
    mean, covariance = statistics(features)
    assert np.allclose(mean, features.astype(float).mean(0))
    assert np.allclose(covariance, np.cov(features.astype(float), rowvar=False))
    assert mean.dtype == covariance.dtype == np.float64


def test_distance_of_known_gaussians() -> None:
    round_one = np.zeros(2), np.eye(2)
    assert frechet_distance(round_one, (np.array([3.0, 4.0]), np.eye(2))) == pytest.approx(25)
    # independent features: Σ (µ_a − µ_b)² + (σ_a − σ_b)²
    a, b = (np.array([1.0, 0, -2]), np.diag([4, 9, 0.25])), (np.array([0.0, 0, 2]), np.diag([1, 16, 0.25]))
    assert frechet_distance(a, b) == pytest.approx(1 + 16 + (2 - 1) ** 2 + (3 - 4) ** 2)
    # a Gaussian turned by 45° against the round one that has its mean spread
    turned = np.zeros(2), np.array([[2.5, 1.5], [1.5, 2.5]])  # eigenvalues 4 and 1
    assert frechet_distance(turned, round_one) == pytest.approx((2 - 1) ** 2 + 0)
    point, many = statistics(np.repeat(drawn(1, 4, 0), 10, axis=0)), statistics(drawn(50, 4, 1))
    assert frechet_distance(point, many) == pytest.approx(np.square(point[0] - many[0]).sum() + np.trace(many[1]))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 12), st.integers(2, 40), st.integers(2, 40))
def test_distance_equals_scipys(seed: int, features: int, count_a: int, count_b: int) -> None:
    """Also with fewer images than features, where the covariance has no inverse."""
    a, b = statistics(drawn(count_a, features, seed)), statistics(drawn(count_b, features, seed + 1))
    root = np.asarray(linalg.sqrtm(a[1] @ b[1] + 1e-9 * np.eye(features)))
    known = np.square(a[0] - b[0]).sum() + np.trace(a[1] + b[1]) - 2 * np.trace(root).real
    found = frechet_distance(a, b)
    assert found == pytest.approx(known, rel=1e-3, abs=1e-2)
    assert frechet_distance(b, a) == pytest.approx(found, rel=1e-6, abs=1e-6)
    assert 0 <= frechet_distance(a, a) < 1e-6 * np.trace(a[1]) + 1e-9


@pytest.mark.slow
def test_fid_to_published_statistics(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(2100, 2048)).astype(np.float32)
    path = tmp_path / "stats.npz"
    np.savez(path, mu=features.mean(0), sigma=np.cov(features, rowvar=False))
    assert fid(features + np.float32(0.5), read_statistics(str(path))) == pytest.approx(512, rel=1e-3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(2048)}, "contains no statistics"),
        ({"mu": np.zeros(3), "sigma": np.zeros((3, 3))}, r"has mu of shape \(3,\)"),
        ({"mu": np.full(2048, np.nan), "sigma": np.zeros((2048, 2048), np.float16)}, "finite"),
        ({"mu": np.zeros(2048), "sigma": np.zeros(100_000_001, np.int8)}, "unpack to more than 100 MB"),
        ({"mu": np.array([Path("pickled")], object), "sigma": np.zeros(1)}, "nothing pickled is loaded"),
    ],
)
def test_wrong_statistics_are_errors(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    """No error advises to unpickle, as NumPy's own does."""
    path = tmp_path / "stats.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]  # keys of a dict
    with pytest.raises(ModelError, match=message) as error:
        read_statistics(str(path))
    assert "allow_pickle" not in str(error.value)
    for data in (b"PK\x03\x04 and no more", b"hi"):
        path.write_bytes(data)
        with pytest.raises(ModelError):
            read_statistics(str(path))

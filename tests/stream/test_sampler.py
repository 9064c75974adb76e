"""The order: one exact permutation per epoch, computed at any position on its own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facegan.stream.sampler import Sampler, sample_at

seeds = st.integers(0, 2**63 - 1)


def epoch(samples: int, seed: int, number: int) -> np.ndarray:
    return sample_at(np.arange(number * samples, (number + 1) * samples), samples, seed)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 3000), seeds, st.integers(0, 10**6))
def test_each_epoch_is_another_permutation(samples: int, seed: int, number: int) -> None:
    order = epoch(samples, seed, number)
    assert np.array_equal(np.sort(order), np.arange(samples))
    if samples >= 20:
        assert not np.array_equal(order, epoch(samples, seed, number + 1))
        assert not np.array_equal(order, epoch(samples, (seed + 1) % 2**63, number))


@pytest.mark.parametrize("samples", [5, 16, 40])
def test_samples_are_uniform_at_every_position(samples: int) -> None:
    """χ² over 500 epochs: positions × samples against the uniform distribution, within five standard deviations."""
    epochs = 500
    drawn = sample_at(np.arange(epochs * samples), samples, seed=7).reshape(epochs, samples)
    for position in (0, samples // 2, samples - 1):
        counts = np.bincount(drawn[:, position], minlength=samples)
        expected = epochs / samples
        chi2 = float(((counts - expected) ** 2 / expected).sum())
        freedom = samples - 1
        assert chi2 < freedom + 5 * np.sqrt(2 * freedom)


def test_neighbours_are_separated() -> None:
    order = epoch(10_000, 0, 0)
    assert (np.abs(np.diff(order)) == 1).mean() < 0.002


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 3000), seeds, st.lists(st.integers(0, 5000), min_size=1, max_size=5), st.integers(1, 200))
def test_positions_are_independent(samples: int, seed: int, starts: list[int], count: int) -> None:
    asked = Sampler(samples, seed)
    for start in starts:
        fresh = Sampler(samples, seed)
        one_by_one = [int(fresh.at(start + i, 1)[0]) for i in (0, count // 2, count - 1)]
        together = asked.at(start, count)
        assert one_by_one == [together[0], together[count // 2], together[count - 1]]

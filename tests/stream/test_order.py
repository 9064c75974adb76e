"""The order: exact permutations, each epoch its own, at any position without the ones before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facegan.stream.order import Order, sample_at

sizes = st.integers(1, 3000)
seeds = st.integers(0, 2**63 - 1)


def epoch(samples: int, seed: int, number: int) -> np.ndarray:
    return sample_at(np.arange(number * samples, (number + 1) * samples), samples, seed)


@settings(deadline=None)
@given(sizes, seeds, st.integers(0, 10**6))
def test_each_epoch_is_a_permutation(samples: int, seed: int, number: int) -> None:
    assert np.array_equal(np.sort(epoch(samples, seed, number)), np.arange(samples))


@settings(deadline=None)
@given(st.integers(20, 3000), seeds, st.integers(0, 100))
def test_epochs_and_seeds_differ(samples: int, seed: int, number: int) -> None:
    assert not np.array_equal(epoch(samples, seed, number), epoch(samples, seed, number + 1))
    assert not np.array_equal(epoch(samples, seed, number), epoch(samples, (seed + 1) % 2**63, number))


@settings(deadline=None)
@given(sizes, seeds, st.integers(0, 10**5), st.integers(1, 500))
def test_a_position_says_the_same_alone_and_among_others(samples: int, seed: int, start: int, count: int) -> None:
    together = sample_at(np.arange(start, start + count), samples, seed)
    alone = [int(sample_at(np.array([start + i]), samples, seed)[0]) for i in (0, count // 2, count - 1)]
    assert alone == [together[0], together[count // 2], together[count - 1]]


@pytest.mark.parametrize("samples", [5, 16, 100])
def test_every_sample_is_equally_likely_in_every_place(samples: int) -> None:
    """χ² over 4,000 epochs: places × samples against the uniform law, within five standard deviations."""
    epochs = 4000
    drawn = sample_at(np.arange(epochs * samples), samples, seed=7).reshape(epochs, samples)
    for place in (0, samples // 2, samples - 1):
        counts = np.bincount(drawn[:, place], minlength=samples)
        expected = epochs / samples
        chi2 = float(((counts - expected) ** 2 / expected).sum())
        freedom = samples - 1
        assert chi2 < freedom + 5 * np.sqrt(2 * freedom)


def test_neighbours_do_not_stay_neighbours() -> None:
    order = epoch(10_000, 0, 0)
    assert (np.abs(np.diff(order)) == 1).mean() < 0.002


shards = st.lists(st.integers(1, 40), min_size=1, max_size=30).map(np.array)


@settings(deadline=None, max_examples=40)
@given(shards, seeds, st.integers(1, 8), st.integers(0, 1000))
def test_an_epoch_in_blocks_is_a_permutation_that_needs_a_block_at_a_time(
    counts: np.ndarray, seed: int, block: int, number: int
) -> None:
    total = int(counts.sum())
    order = Order(counts, seed, block)
    drawn = order.at(number * total, total)
    assert np.array_equal(np.sort(drawn), np.arange(total))
    shard_of = np.repeat(np.arange(len(counts)), counts)
    seen: list[set[int]] = []
    for offset, sample in enumerate(drawn.tolist()):
        near = order.shards_near(number * total + offset)
        assert shard_of[sample] in near
        assert len(near) <= 2 * block
        if not seen or shard_of[sample] not in seen[-1]:
            seen.append(set(near[:block]))
    assert len(seen) == -(-len(counts) // block)  # once left, a block does not come again


@settings(deadline=None, max_examples=40)
@given(shards, seeds, st.integers(0, 8), st.lists(st.integers(0, 5000), min_size=1, max_size=5), st.integers(1, 200))
def test_an_order_says_the_same_wherever_it_is_asked_first(
    counts: np.ndarray, seed: int, block: int, starts: list[int], count: int
) -> None:
    asked = Order(counts, seed, block)
    for start in starts:
        fresh = Order(counts, seed, block)
        one_by_one = [int(fresh.at(start + i, 1)[0]) for i in (0, count // 2, count - 1)]
        together = asked.at(start, count)
        assert one_by_one == [together[0], together[count // 2], together[count - 1]]


@settings(deadline=None, max_examples=40)
@given(shards, seeds, st.integers(0, 8), st.integers(0, 3000))
def test_the_shards_needed_first_come_first(counts: np.ndarray, seed: int, block: int, position: int) -> None:
    order, shard_of = Order(counts, seed, block), np.repeat(np.arange(len(counts)), counts)
    near = order.shards_near(position)
    if block:  # this block's, then the next one's
        while order.block_at(position) == order.block_at(position + 1):
            assert shard_of[order.at(position, 1)[0]] in near[:block]
            position += 1
        position, near = position + 1, order.shards_near(position + 1)
        assert order.block_at(position) != order.block_at(position - 1)
    begin, end = position, position
    while end - begin < counts.sum() and order.block_at(end) == order.block_at(begin):
        end += 1
    needed = list(dict.fromkeys(shard_of[order.at(begin, end - begin)].tolist()))
    assert near[: len(needed)] == needed
    assert len(set(near)) == len(near)


def test_blocks_differ_from_epoch_to_epoch() -> None:
    order = Order(np.full(20, 10), seed=1, block_shards=4)
    first, second = (set(order.at(epoch * 200, 40).tolist()) for epoch in (0, 1))
    assert len(first & second) < 40
    assert not np.array_equal(order.at(0, 200), Order(np.full(20, 10), seed=2, block_shards=4).at(0, 200))

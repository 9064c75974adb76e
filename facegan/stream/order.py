"""Which sample comes when: the endless concatenation of one exact permutation an epoch, each from (seed, epoch).

A format-preserving permutation (a Feistel network, Luby and Rackoff 1988, with cycle-walking, Black and Rogaway 2002)
gives the sample at any position without holding the permutation: resuming costs nothing, and a billion samples no more
than ten.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from facegan.errors import DatasetError

_ROUNDS = 8
_U64 = np.uint64
_AT_ONCE = 1 << 14  # positions computed together: batch by batch they would cost more than the faces


def whole_number(state: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """
    Raises:
        DatasetError: ``state`` is none of a stream of faces.
    """
    value = state.get(name, default)
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise DatasetError(f"A state of a stream of faces has a whole number as {name}, and this one {value!r:.40}.")
    return value


class Order:
    """The endless sequence of samples, whole or in blocks of shards.

    Args:
        counts: int64 (shards,), the samples of each shard; sample numbers run through the shards in their order.
        seed: 0 … 2⁶³ − 1.
        block_shards: 0 for a permutation of all samples. Else each epoch permutes the shards, cuts them into blocks of
            so many, and permutes the samples of each block: then no more than a block is needed at a time.
    """

    def __init__(self, counts: np.ndarray, seed: int, block_shards: int = 0) -> None:
        self.block_shards = block_shards
        self._counts, self._seed, self._samples = counts, seed, int(counts.sum())
        self._at_once = min(_AT_ONCE, 8 * self._samples)  # an epoch costs as much as a thousand positions
        self._known: dict[int, np.ndarray] = {}
        self._blocks: dict[int, _Blocks] = {}

    def at(self, start: int, count: int) -> np.ndarray:
        """int64 (count,): the samples at positions ``start`` and on."""
        first, last = start // self._at_once, (start + count - 1) // self._at_once
        self._known = {
            part: self._known[part] if part in self._known else self._compute(part) for part in range(first, last + 1)
        }
        together = self._known[first] if first == last else np.concatenate(list(self._known.values()))
        return together[start - first * self._at_once :][:count]

    def _compute(self, part: int) -> np.ndarray:
        positions = np.arange(part * self._at_once, (part + 1) * self._at_once, dtype=np.int64)
        if not self.block_shards:
            return sample_at(positions, self._samples, self._seed)
        epochs, offsets = np.divmod(positions, self._samples)
        samples = np.empty_like(offsets)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            samples[here] = self._of_epoch(int(epoch)).at(offsets[here])
        return samples

    def _of_epoch(self, epoch: int) -> _Blocks:
        if epoch not in self._blocks:
            kept = {other: blocks for other, blocks in self._blocks.items() if abs(other - epoch) < 3}
            self._blocks = {**kept, epoch: _Blocks(self._counts, self._seed, epoch, self.block_shards)}
        return self._blocks[epoch]

    def block_at(self, position: int) -> tuple[int, int]:
        """The epoch, and the number of the block in it; what is near changes with them. (0, 0) where all is near."""
        if not self.block_shards:
            return 0, 0
        epoch, offset = divmod(position, self._samples)
        return epoch, self._of_epoch(epoch).block_of(offset)

    def shards_near(self, position: int) -> list[int]:
        """The shards of the block at a position, then those of the next one; of a whole permutation, all shards.

        Those of which samples come first are first.
        """
        if not self.block_shards:
            return self._as_they_come(position, list(range(len(self._counts))))
        epoch, offset = divmod(position, self._samples)
        blocks = self._of_epoch(epoch)
        number = blocks.block_of(offset)
        near = self._as_they_come(position, blocks.shards(number))
        following, begin = blocks.shards(number + 1), epoch * self._samples + blocks.end_of(number)
        following = following or self._of_epoch(epoch + 1).shards(0)
        return list(dict.fromkeys(near + self._as_they_come(begin, following)))

    def _as_they_come(self, position: int, shards: list[int]) -> list[int]:
        """Those of them that come soon, as they come, then the others."""
        samples = self.at(position, min(_AT_ONCE, self._samples))
        coming = np.searchsorted(np.cumsum(self._counts), samples, "right")
        found, places = np.unique(coming, return_index=True)
        soon = found[np.argsort(places)].tolist()
        wanted = set(shards)
        return list(dict.fromkeys([shard for shard in soon if shard in wanted] + shards))


class _Blocks:
    """One epoch's order in blocks."""

    def __init__(self, counts: np.ndarray, seed: int, epoch: int, block_shards: int) -> None:
        self._seed, self._epoch, self._size = seed, epoch, block_shards
        self._order = _permuted(np.arange(len(counts)), len(counts), _round_keys(seed, epoch, 1))
        self._starts = (np.cumsum(counts) - counts)[self._order]  # the number of each shard's first sample
        self._ends = np.cumsum(counts[self._order])  # places in the epoch, before the blocks are permuted
        last = np.minimum(np.arange(block_shards, len(counts) + block_shards, block_shards), len(counts)) - 1
        self._block_ends = self._ends[last]

    def at(self, offsets: np.ndarray) -> np.ndarray:
        numbers = np.searchsorted(self._block_ends, offsets, "right")
        places = np.empty_like(offsets)
        for number in np.unique(numbers):
            here = numbers == number
            begin = int(self._block_ends[number - 1]) if number else 0
            size = int(self._block_ends[number]) - begin
            keys = _round_keys(self._seed, self._epoch, 2 + int(number))
            places[here] = begin + _permuted(offsets[here] - begin, size, keys)
        shards = np.searchsorted(self._ends, places, "right")
        before = np.concatenate([[0], self._ends])[shards]
        return self._starts[shards] + places - before

    def block_of(self, offset: int) -> int:
        return int(np.searchsorted(self._block_ends, offset, "right"))

    def end_of(self, block: int) -> int:
        return int(self._block_ends[block])

    def shards(self, block: int) -> list[int]:
        """Empty behind the last block."""
        return self._order[block * self._size : (block + 1) * self._size].tolist()


def sample_at(positions: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """The sample at each position of the endless sequence.

    Args:
        positions: int64 (n,), 0 and up; position p lies in epoch p // samples.
        samples: how many there are.
        seed: 0 … 2⁶³ − 1.

    Returns:
        int64 (n,), each in 0 … samples − 1.
    """
    epochs, offsets = np.divmod(positions, samples)
    indices = np.empty_like(offsets)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = _permuted(offsets[here], samples, _round_keys(seed, int(epoch)))
    return indices


def _permuted(offsets: np.ndarray, samples: int, keys: np.ndarray) -> np.ndarray:
    half = _U64(max(1, ((samples - 1).bit_length() + 1) // 2))
    mask = (_U64(1) << half) - _U64(1)
    values = offsets.astype(_U64)
    outside = np.ones(len(values), bool)
    while (
        outside.any()
    ):  # the network permutes 0 … 4^half − 1: walk on until back below `samples`, four steps at most on average
        values[outside] = _feistel(values[outside], half, mask, keys)
        outside = values >= samples
    return values.astype(np.int64)


def _feistel(values: np.ndarray, half: np.uint64, mask: np.uint64, keys: np.ndarray) -> np.ndarray:
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return left << half | right


def _mixed(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele et al. 2014)."""
    values = (values ^ (values >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> _U64(27))) * _U64(0x94D049BB133111EB)
    return values ^ (values >> _U64(31))


def _round_keys(seed: int, epoch: int, part: int = 0) -> np.ndarray:
    """Keys of one permutation: the epoch's, or with ``part`` > 0 one inside it."""
    with np.errstate(over="ignore"):
        start = _mixed(np.array([seed], _U64) + _U64(0x9E3779B97F4A7C15)) ^ _U64(epoch)
        if part:
            start = _mixed(start + _U64(0x9E3779B97F4A7C15)) ^ _U64(part)
        return _mixed(_mixed(start) + np.arange(1, _ROUNDS + 1, dtype=_U64) * _U64(0x9E3779B97F4A7C15))

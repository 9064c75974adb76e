"""Which sample comes when: the endless concatenation of one exact permutation per epoch, each from (seed, epoch).

A format-preserving permutation (a Feistel network, Luby and Rackoff 1988, with cycle-walking, Black and Rogaway 2002)
gives the sample at any position without storing the permutation: resuming costs nothing, whatever the dataset's size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from facegan.errors import DatasetError

_ROUNDS = 8
_U64 = np.uint64
_CHUNK = 1 << 14  # positions computed together: computing them batch by batch would cost more than reading the faces


def saved_position(state: Mapping[str, Any]) -> int:
    """The position in a stream's saved state. Raises DatasetError if it has none."""
    position = state.get("position")
    if type(position) is not int or not 0 <= position < 1 << 62:
        raise DatasetError(f"The saved position in the stream must be a whole number (got {position!r:.40}).")
    return position


class Sampler:
    """The endless sequence of the samples 0 … ``samples`` − 1, for a seed of 0 … 2⁶³ − 1."""

    def __init__(self, samples: int, seed: int) -> None:
        self._samples, self._seed = samples, seed
        self._chunk = min(_CHUNK, 8 * samples)  # an epoch's keys cost as much as a thousand positions
        self._computed: dict[int, np.ndarray] = {}

    def at(self, start: int, count: int) -> np.ndarray:
        """int64 (count,): the samples at positions ``start`` … ``start + count − 1``."""
        first, last = start // self._chunk, (start + count - 1) // self._chunk
        chunks = {}
        for chunk in range(first, last + 1):
            if (known := self._computed.get(chunk)) is None:
                positions = np.arange(chunk * self._chunk, (chunk + 1) * self._chunk, dtype=np.int64)
                known = sample_at(positions, self._samples, self._seed)
            chunks[chunk] = known
        self._computed = chunks
        samples = chunks[first] if first == last else np.concatenate(list(chunks.values()))
        return samples[start - first * self._chunk :][:count]


def sample_at(positions: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """The sample at each of some positions, both int64 (n,). Position p belongs to epoch p // samples."""
    epochs, offsets = np.divmod(positions, samples)
    indices = np.empty_like(offsets)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = _permute(offsets[here], samples, _round_keys(seed, int(epoch)))
    return indices


def _permute(offsets: np.ndarray, samples: int, keys: np.ndarray) -> np.ndarray:
    half = _U64(max(1, ((samples - 1).bit_length() + 1) // 2))
    mask = (_U64(1) << half) - _U64(1)
    values = offsets.astype(_U64)
    outside = np.ones(len(values), bool)
    # The network permutes 0 … 4^half − 1: walk until below `samples`, four steps at most on average.
    while outside.any():
        values[outside] = _feistel(values[outside], half, mask, keys)
        outside = values >= samples
    return values.astype(np.int64)


def _feistel(values: np.ndarray, half: np.uint64, mask: np.uint64, keys: np.ndarray) -> np.ndarray:
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return left << half | right


def _mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele et al. 2014)."""
    values = (values ^ (values >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> _U64(27))) * _U64(0x94D049BB133111EB)
    return values ^ (values >> _U64(31))


def _round_keys(seed: int, epoch: int) -> np.ndarray:
    with np.errstate(over="ignore"):
        start = _mix(np.array([seed], _U64) + _U64(0x9E3779B97F4A7C15)) ^ _U64(epoch)
        return _mix(_mix(start) + np.arange(1, _ROUNDS + 1, dtype=_U64) * _U64(0x9E3779B97F4A7C15))

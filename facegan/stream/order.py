"""Which sample comes when: the endless concatenation of one exact permutation an epoch, each from (seed, epoch).

A format-preserving permutation (a Feistel network, Luby and Rackoff 1988, with cycle-walking, Black and Rogaway 2002)
gives the sample at any position without holding the permutation: resuming costs nothing, and a billion samples no more
than ten.
"""

from __future__ import annotations

import numpy as np

_ROUNDS = 8
_U64 = np.uint64


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


def _round_keys(seed: int, epoch: int) -> np.ndarray:
    with np.errstate(over="ignore"):
        start = _mixed(np.array([seed], _U64) + _U64(0x9E3779B97F4A7C15)) ^ _U64(epoch)
        return _mixed(_mixed(start) + np.arange(1, _ROUNDS + 1, dtype=_U64) * _U64(0x9E3779B97F4A7C15))

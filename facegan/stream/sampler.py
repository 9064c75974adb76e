"""Which sample comes when: the endless concatenation of one exact permutation per epoch, each from (seed, epoch).

A format-preserving permutation (a Feistel network, Luby and Rackoff 1988, with cycle-walking, Black and Rogaway 2002)
gives the sample at any position without storing the permutation: resuming costs nothing, whatever the dataset's size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from facegan.console import shown
from facegan.errors import DatasetError, SettingsError

MOST_SHOWN = 20  # times that a face may come in an epoch of `BalancedSampler`
_FITTED = 10_000  # iterations
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


class BalancedSampler:
    """As `Sampler`, but the shares of attributes in an epoch are chosen: rare faces come several times, others seldom.

    Faces with the same values of the balanced attributes are a cell, and each cell has a fixed number of places in an
    epoch (see `places_of`); their order is the usual permutation. A cell's faces take its places in turn, by an endless
    concatenation of permutations of its own, so each of them is shown as often as the others, up to one time.
    """

    def __init__(self, cells: np.ndarray, places: np.ndarray, seed: int) -> None:
        """
        Args:
            cells: the cell of each face, int64 (F,).
            places: of each cell in an epoch, int64 (C,), with the sum F.
        """
        self._seed, self._starts = seed, np.cumsum(places) - places
        self._places, self._sampler = places, Sampler(len(cells), seed)
        self._members = [np.flatnonzero(cells == cell) for cell in range(len(places))]

    def at(self, start: int, count: int) -> np.ndarray:
        """As `Sampler.at`."""
        slots, epochs = self._sampler.at(start, count), np.arange(start, start + count) // sum(map(len, self._members))
        cells = np.searchsorted(self._starts + self._places, slots, "right")
        turns = epochs * self._places[cells] + slots - self._starts[cells]
        faces = np.empty(count, np.int64)
        for cell in np.unique(cells).tolist():
            here, members = cells == cell, self._members[cell]
            faces[here] = members[sample_at(turns[here], len(members), self._seed ^ (cell + 1))]
        return faces


def places_of(columns: Mapping[str, np.ndarray], shares: Mapping[str, float | None]) -> tuple[np.ndarray, np.ndarray]:
    """The cell of each face, int64 (F,), and the places of each cell in an epoch of F, int64 (C,).

    Several shares hold together, with the other proportions as they are: iterative proportional fitting (Deming &
    Stephan 1940, "On a least squares adjustment of a sampled frequency table when the expected marginal totals are
    known") of the cells' sizes, then rounding by the largest remainders, at least one place a cell.

    Args:
        columns: bool or int64 (F,) by attribute.
        shares: of faces with the attribute; None: the same for each value.

    Raises SettingsError if the shares cannot be reached, or a face would come more than `MOST_SHOWN` times an epoch.
    """
    stacked = np.stack([columns[name].astype(np.int64) for name in shares])
    values, cells = np.unique(stacked, axis=1, return_inverse=True)
    cells, count = cells.reshape(-1), stacked.shape[1]
    sizes = np.bincount(cells)
    wanted = ", ".join(
        f"{name}={share}" if share is not None else f"{name} in equal parts" for name, share in shares.items()
    )
    why, parts = f"These faces cannot be balanced by {wanted}", list[tuple[np.ndarray, np.ndarray]]()
    for row, (name, share) in zip(values, shares.items(), strict=True):
        found, part = np.unique(row, return_inverse=True)
        if share is not None and len(found) < 2:
            raise SettingsError(f"{why}: {'every' if found[0] else 'no'} face has {shown(name)}.")
        goal = np.full(len(found), 1 / len(found)) if share is None else np.array([1 - share, share])
        parts.append((part.reshape(-1), goal))
    has = ", ".join(f"{name}={columns[name].mean():.2g}" for name, share in shares.items() if share is not None)
    advice = f"Choose shares nearer to those of the dataset{f', {has}' if has else ''}."
    weights, wrong = sizes / count, np.inf
    for _ in range(_FITTED):
        wrong = 0.0
        for part, goal in parts:
            sums = np.bincount(part, weights)
            wrong = max(wrong, abs(sums - goal).max())
            weights *= (goal / np.maximum(sums, 1e-300))[part]
        if wrong < 1e-12:
            break
    if wrong * count > 0.5:  # faces
        raise SettingsError(f"{why}: no mixture of faces has these shares together.\n{advice}")
    places = np.maximum(np.floor(weights * count).astype(np.int64), weights > 0)
    for cell in np.argsort(-(weights * count - places), kind="stable")[: max(count - places.sum(), 0)]:
        places[cell] += 1
    while places.sum() > count:
        places[np.argmax(places)] -= 1
    most = (places + sizes - 2) // sizes + 1  # two epochs may share a permutation
    if most.max() > MOST_SHOWN:
        cell = int(np.argmax(most))
        faces = ", ".join(f"{name} = {value}" for name, value in zip(shares, values[:, cell].tolist(), strict=True))
        raise SettingsError(
            f"To balance by {wanted}, each of the {sizes[cell]:,} faces with {faces} would come {most[cell]} times an "
            f"epoch,\nand the limit is {MOST_SHOWN}. {_reachable(sizes, shares, cell) if len(values) == 1 else advice}"
        )
    return cells, places


def _reachable(sizes: np.ndarray, shares: Mapping[str, float | None], cell: int) -> str:
    """The most extreme share of one attribute whose ``cell`` does not exceed the limit."""
    (name, share), most = next(iter(shares.items())), ((MOST_SHOWN - 1) * int(sizes[cell]) + 1) / int(sizes.sum())
    if share is None:
        return f"{shown(name)} cannot be in equal parts."
    share = math.floor(most * 1e6) / 1e6 if cell else math.ceil((1 - most) * 1e6) / 1e6
    return f"The {'largest' if cell else 'smallest'} share that {shown(name)} can have is {share:.6f}".rstrip("0") + "."


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

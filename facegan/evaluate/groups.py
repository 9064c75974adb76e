"""Which groups of faces a generator misses: shares of attributes among its samples against those among real faces.

Samples have no labels, so `facegan.evaluate.attribute_net` gives each a probability of the group, and the errors that
it makes on held-out real faces are corrected. With m₁ and m₀ its mean probability over held-out faces inside and
outside the group, and q that over samples, the share of the group among samples is estimated as

    p = (q − m₀) / (m₁ − m₀),   Var p = (Var q + p² Var m₁ + (1 − p)² Var m₀) / (m₁ − m₀)²

(Rogan & Gladen 1978, "Estimating prevalence from the results of a screening test"; with probabilities in place of
decisions Bella et al. 2010, "Quantification via probability estimators"). This assumes that samples of a group look to
the classifier like real faces of it. The interval is p ± 1.96 √Var, cut to 0 … 1.

A group is missed if its share among samples is lower than among real faces by a one-sided test at 5 %, corrected for
the number of groups (Holm 1979, "A simple sequentially rejective multiple test procedure"), and below `MISSED` of it.

N images, H heads of the classifier, G groups, F features.
"""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from facegan.evaluate.manifold import covered

MISSED = 0.75  # of the real share; a smaller deficit is not worth another training
_LEAST_ACCURACY = 0.8  # balanced; at 0.5 the classifier guesses
_LEAST_SHARE, _LEAST_MEMBERS = 0.005, 40  # of a group among real faces; held-out faces inside and outside of it
_PAIR_SHARE = 0.01
_BINS = (0.2, "lowest fifth"), (0.8, "highest fifth")
_LEVEL, _SIGMAS, _NEIGHBOURS = 0.05, 1.96, 5
_MOST_CLASSES = 50


class Head(NamedTuple):
    """What the classifier tells of a face: whether it has an attribute, is of a class or in an outer fifth."""

    name: str
    column: str
    value: float | None  # of a class; the limit of a fifth
    kind: str  # "binary", "class", or which fifth

    def labels(self, table: pa.Table) -> NDArray[np.bool_]:
        values = table[self.column].to_numpy()
        if self.kind == "binary":
            return values
        if self.kind == "class":
            return values == self.value
        return values < self.value if self.kind == _BINS[0][1] else values > self.value


def heads_of(table: pa.Table) -> list[Head]:
    """From the training faces' columns: bool, int64 (classes) and double; those that few or nearly all have are left
    out."""
    heads = list[Head]()
    for column in table.schema:
        name, values = column.name, table[column.name].to_numpy()
        if column.type == pa.bool_():
            heads.append(Head(name, name, None, "binary"))
        elif column.type == pa.int64():
            classes = np.unique(values).tolist()
            heads += [Head(f"{name} = {value}", name, value, "class") for value in classes[:_MOST_CLASSES]]
        else:
            limits = [(float(np.quantile(values, at)), kind) for at, kind in _BINS] if len(values) else []
            heads += [Head(f"{name}, {kind}", name, limit, kind) for limit, kind in limits]
    shares = [float(head.labels(table).mean()) if len(table) else 0.0 for head in heads]
    return [head for head, share in zip(heads, shares, strict=True) if _LEAST_SHARE <= share <= 1 - _LEAST_SHARE]


@dataclass(frozen=True)
class GroupShare:
    """A group among real faces and among samples.

    Attributes:
        terms: names of heads, and whether the group has them or lacks them.
        real, samples: shares; ``low`` and ``high`` are the interval of the latter.
        coverage: the share of the group's real faces with a sample nearby; ``coverage_real`` the same by real faces.
        p_value: of the test that it is as frequent among samples, before the correction.
    """

    name: str
    terms: tuple[tuple[str, bool], ...]
    real: float
    samples: float
    low: float
    high: float
    coverage: float
    coverage_real: float
    p_value: float
    is_missed: bool = False

    def members(self, heads: Sequence[Head], labels: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which faces, by their labels (N, H), are in it."""
        number = {head.name: n for n, head in enumerate(heads)}
        return _members(labels, tuple((number[name], has) for name, has in self.terms))

    def sentence(self, coverage_of_all: float) -> str:
        """``Eyeglasses: 6.4 % of faces, 0.9 % of samples (0.6–1.3), coverage 0.31 against 0.74``."""
        shares = f"{self.real:.1%} of faces, {self.samples:.1%} of samples ({100 * self.low:.1f}–{100 * self.high:.1f})"
        text = shares.replace("%", " %")
        return f"{self.name}: {text}, coverage {self.coverage:.2f} against {coverage_of_all:.2f}"

    def remedy(self, shards: str) -> str:
        """The training that would show the group more often; "" if it is no attribute's."""
        if any(name.translate(str.maketrans(" =,", "???")) != name for name, _ in self.terms):  # a class or a fifth
            return ""
        wanted = min(max(3 * self.real, 0.1), 0.5)
        options = [word for n, has in self.terms for word in ("--balance", f"{n}={wanted if has else 1 - wanted:.2g}")]
        return shlex.join(["facegan", "train", "--shards", shards, *options])


@dataclass(frozen=True)
class Audit:
    """
    Attributes:
        groups: those that are missed first, by the upper end of the interval relative to the real share; then the rest.
        left_out: heads that the classifier cannot tell, with its balanced accuracy.
        coverage, coverage_real: of all real faces, by samples and by other real faces.
    """

    groups: tuple[GroupShare, ...]
    left_out: dict[str, float] = field(default_factory=dict)
    accuracy: dict[str, float] = field(default_factory=dict)
    coverage: float = 0.0
    coverage_real: float = 0.0

    @property
    def missed(self) -> tuple[GroupShare, ...]:
        return tuple(group for group in self.groups if group.is_missed)

    def to_json(self) -> dict[str, Any]:
        missed = [group.sentence(self.coverage) for group in self.missed]
        return {**vars(self), "missed": missed, "groups": [vars(group) for group in self.groups]}


class Classified(NamedTuple):
    """Images as the classifier sees them: probabilities (N, H) and features (N, F)."""

    scores: NDArray[np.float32]
    features: NDArray[np.float32]


def audit(
    heads: Sequence[Head],
    shares: NDArray[np.bool_],
    labels: NDArray[np.bool_],
    held_out: Classified,
    samples: Classified,
) -> Audit:
    """Compare samples with real faces.

    Args:
        shares: labels of all training faces, (M, H), for the real shares.
        labels: of the held-out faces, (N, H).
    """
    thresholds = shares.mean(axis=0)  # of calibrated probabilities: the best balanced accuracy
    accuracy, left_out, told = dict[str, float](), dict[str, float](), list[int]()
    for number, head in enumerate(heads):
        if min(labels[:, number].sum(), (~labels[:, number]).sum()) < _LEAST_MEMBERS:
            left_out[head.name] = math.nan
            continue
        found = balanced_accuracy(held_out.scores[:, number], labels[:, number], thresholds[number])
        (accuracy if found >= _LEAST_ACCURACY else left_out)[head.name] = round(found, 3)
        told += [number] if found >= _LEAST_ACCURACY else []
    half = len(labels) // 2
    first, second = held_out.features[:half], held_out.features[half : 2 * half]
    by_samples = covered(first, samples.features[:half], _NEIGHBOURS)
    by_real = covered(first, second[: len(samples.features)], _NEIGHBOURS)
    groups = list[GroupShare]()
    for terms in _groups(heads, told, shares):
        inside, real = _members(labels, terms), float(_members(shares, terms).mean())
        if min(inside.sum(), (~inside).sum()) < _LEAST_MEMBERS:
            continue
        estimate = corrected_share(_scores(held_out.scores, terms), inside, _scores(samples.scores, terms))
        if estimate is None:
            continue
        share, deviation = estimate
        spread = math.hypot(deviation, math.sqrt(real * (1 - real) / len(shares)))
        here = inside[:half]
        groups.append(
            GroupShare(
                " and ".join(heads[number].name if has else f"no {heads[number].name}" for number, has in terms),
                tuple((heads[number].name, has) for number, has in terms),
                real,
                share,
                max(share - _SIGMAS * deviation, 0.0),
                min(share + _SIGMAS * deviation, 1.0),
                float(by_samples[here].mean()) if here.any() else math.nan,
                float(by_real[here].mean()) if here.any() else math.nan,
                0.5 * math.erfc((real - share) / (spread * math.sqrt(2))) if spread else 1.0,
            )
        )
    coverage = float(by_samples.mean()), float(by_real.mean())
    return Audit(_ranked(groups), left_out, accuracy, *coverage)


def balanced_accuracy(scores: NDArray[Any], labels: NDArray[np.bool_], threshold: float) -> float:
    """Mean of the shares recognised among faces with the attribute and among those without; scores and labels (N,)."""
    found = scores > threshold
    return float((found[labels].mean() + (~found[~labels]).mean()) / 2)


def corrected_share(
    held_out: NDArray[Any], inside: NDArray[np.bool_], samples: NDArray[Any]
) -> tuple[float, float] | None:
    """The share of a group among samples and its standard deviation, as at the top; None if the classifier cannot tell.

    ``held_out`` (N,) and ``samples`` (M,) are probabilities of the group, ``inside`` (N,) which faces are in it.
    """
    means, variances = list[float](), list[float]()
    for values in (samples, held_out[inside], held_out[~inside]):
        means.append(float(values.mean(dtype=np.float64)))
        variances.append(float(values.var(dtype=np.float64)) / max(len(values) - 1, 1))
    distance = means[1] - means[2]
    if distance <= 0:
        return None
    share = min(max((means[0] - means[2]) / distance, 0.0), 1.0)
    variance = variances[0] + share**2 * variances[1] + (1 - share) ** 2 * variances[2]
    return share, math.sqrt(variance) / distance


_Terms = tuple[tuple[int, bool], ...]


def _groups(heads: Sequence[Head], told: Sequence[int], shares: NDArray[np.bool_]) -> list[_Terms]:
    """Each head; binary ones also by their absence, and two by two where enough real faces have both."""
    binary = [number for number in told if heads[number].kind == "binary"]
    singles: list[_Terms] = [((number, True),) for number in told] + [((number, False),) for number in binary]
    pairs: list[_Terms] = [((one, True), (other, True)) for one, other in itertools.combinations(binary, 2)]
    return singles + [pair for pair in pairs if _members(shares, pair).mean() >= _PAIR_SHARE]


def _members(labels: NDArray[np.bool_], terms: _Terms) -> NDArray[np.bool_]:
    return np.logical_and.reduce([labels[:, number] == has for number, has in terms])


def _scores(scores: NDArray[np.float32], terms: _Terms) -> NDArray[np.float64]:
    """As if attributes were independent given the image: what this gets wrong, the correction measures."""
    return np.prod([scores[:, n].astype(float) if has else 1.0 - scores[:, n] for n, has in terms], axis=0)


def _ranked(groups: list[GroupShare]) -> tuple[GroupShare, ...]:
    """Marks those that are missed, pairs only if neither half is, and sorts them."""
    in_order, rejected = sorted(groups, key=lambda group: group.p_value), set[str]()
    for number, group in enumerate(in_order):
        if group.p_value > _LEVEL / (len(in_order) - number):
            break
        if group.samples < MISSED * group.real:
            rejected.add(group.name)
    singles = {group.terms[0] for group in groups if len(group.terms) == 1 and group.name in rejected}
    explained = {group.name for group in groups if len(group.terms) > 1 and singles & {*group.terms}}
    marked = [replace(group, is_missed=group.name in rejected - explained) for group in groups]
    return tuple(sorted(marked, key=lambda group: (not group.is_missed, group.high / group.real, group.name)))

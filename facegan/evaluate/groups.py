"""Which groups of faces a generator misses: shares of attributes among its samples against those among real faces.

Samples have no labels, so `facegan.evaluate.attribute_classifier` gives each a probability of the group, and the errors
that it makes on held-out real faces are corrected. With m₁ and m₀ its mean probability over held-out faces inside and
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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import FiniteFloat, TypeAdapter, ValidationError

from facegan.console import shown
from facegan.errors import SettingsError
from facegan.evaluate.manifold import covered

MISSED = 0.75  # of the real share; a smaller deficit is not worth another training
_LEAST_ACCURACY = 0.8  # balanced; at 0.5 the classifier guesses
_LEAST_SHARE, _LEAST_MEMBERS = 0.005, 40  # of a group among real faces; held-out faces inside and outside of it
_PAIR_SHARE = 0.01
_BINS = (0.2, "lowest fifth"), (0.8, "highest fifth")
_LEVEL, _SIGMAS, _NEIGHBOURS = 0.05, 1.96, 5
_MOST_CLASSES = 50
_FREQUENT, _MOST_TIMES = 0.4, 19  # a share that is not raised; times that `--balance` always allows


class Head(NamedTuple):
    """What the classifier tells of a face: whether it has an attribute, is of a class or in an outer fifth."""

    name: str
    column: str
    value: float | None  # of a class; the limit of a fifth
    kind: str  # "binary", "class", or which fifth
    equal: float = 0.0  # of a class: its share if `--balance-by` makes all classes equal; 0 if that is impossible

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
            classes, counts = np.unique(values, return_counts=True)
            frequent = sorted(classes[np.argsort(-counts, kind="stable")[:_MOST_CLASSES]].tolist())
            is_possible = len(values) and len(values) <= _MOST_TIMES * len(classes) * counts.min()
            equal = 1 / len(classes) if is_possible else 0.0
            heads += [Head(f"{name} = {value}", name, value, "class", equal) for value in frequent]
        else:
            limits = [(float(np.quantile(values, at)), kind) for at, kind in _BINS] if len(values) else []
            heads += [Head(f"{name}, {kind}", name, limit, kind) for limit, kind in limits]
    shares = [float(head.labels(table).mean()) if len(table) else 0.0 for head in heads]
    return [head for head, share in zip(heads, shares, strict=True) if _LEAST_SHARE <= share <= 1 - _LEAST_SHARE]


def check_heads(names: Sequence[str], held_out: NDArray[np.bool_], asked: str) -> None:
    """Raise SettingsError if no head can be measured by the labels of the held-out faces, (N, H); ``asked``: what needs
    one."""
    if not any(map(_has_enough, held_out.T)):
        raise SettingsError(
            f"{asked} cannot compare by {', '.join(map(shown, names))}: each is rare, or nearly all faces have it.\n"
            f"{_LEAST_SHARE:.1%} of the training faces and {_LEAST_MEMBERS} of the {len(held_out):,} held-out faces "
            "must have an attribute, and as many lack it."
        )


def left_out_classes(table: pa.Table, heads: Sequence[Head]) -> dict[str, int]:
    """How many classes of each class attribute `heads_of` left out, if any."""
    columns = (field.name for field in table.schema if field.type == pa.int64())
    left = {name: len(table[name].unique()) - sum(head.column == name for head in heads) for name in columns}
    return {name: count for name, count in left.items() if count}


@dataclass(frozen=True)
class GroupShare:
    """A group among real faces and among samples.

    Attributes:
        terms: names of heads, and whether the group has them or lacks them.
        real, samples: shares; ``low`` and ``high`` are the interval of the latter.
        coverage: the share of the group's real faces with a sample nearby; ``coverage_real`` the same by real faces;
            None for too few faces.
        p_value: of the test that it is as frequent among samples, before the correction.
        remedies: options of ``facegan train``, each with its value, that would show the group more often.
    """

    name: str
    terms: tuple[tuple[str, bool], ...]
    real: FiniteFloat
    samples: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    coverage: FiniteFloat | None
    coverage_real: FiniteFloat | None
    p_value: FiniteFloat
    is_missed: bool = False
    remedies: tuple[tuple[str, str], ...] = ()

    def members(self, heads: Sequence[Head], labels: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which faces, by their labels (N, H), are in it."""
        number = {head.name: n for n, head in enumerate(heads)}
        return _members(labels, tuple((number[name], has) for name, has in self.terms))

    def sentence(self, coverage_of_all: float | None) -> str:
        """``Eyeglasses: 6.4 % of faces, 0.9 % of samples (0.6–1.3), coverage 0.31 against 0.74 (real faces 0.97)``."""
        shares = f"{self.real:.1%} of faces, {self.samples:.1%} of samples ({100 * self.low:.1f}–{100 * self.high:.1f})"
        text = f"{self.name}: {shares.replace('%', ' %')}"
        if self.coverage is None or self.coverage_real is None or coverage_of_all is None:
            return text
        return (
            f"{text}, coverage {self.coverage:.2f} against {coverage_of_all:.2f} (real faces {self.coverage_real:.2f})"
        )


@dataclass(frozen=True)
class Obedience:
    """How often a face shows the attribute that it should, by the classifier: shares of samples drawn with it and
    without it, and of real faces that have it and lack it."""

    name: str
    samples_with: FiniteFloat
    samples_without: FiniteFloat
    real_with: FiniteFloat
    real_without: FiniteFloat

    @property
    def sentence(self) -> str:
        """``Eyeglasses: seen in 93 % of samples drawn with it, and not seen in 98 % of those without (real faces 91 %,
        97 %)``."""
        shares = (self.samples_with, self.samples_without, self.real_with, self.real_without)
        with_, without, real_with, real_without = (f"{100 * share:.0f} %" for share in shares)
        return (
            f"{self.name}: seen in {with_} of samples drawn with it, and not seen in {without} of those without "
            f"(real faces {real_with}, {real_without})"
        )


@dataclass(frozen=True)
class Audit:
    """
    Attributes:
        groups: those that are missed first, by the upper end of the interval relative to the real share; then the rest.
        obedience: of a conditional generator, for the attributes that the classifier can tell.
        left_out: heads that the classifier cannot tell, with its balanced accuracy; None for too few held-out faces.
        coverage, coverage_real: of all real faces, by samples and by other real faces; None for too few faces.
    """

    groups: tuple[GroupShare, ...]
    obedience: tuple[Obedience, ...] = ()
    left_out: dict[str, FiniteFloat | None] = field(default_factory=dict)
    accuracy: dict[str, FiniteFloat] = field(default_factory=dict)
    coverage: FiniteFloat | None = None
    coverage_real: FiniteFloat | None = None

    @property
    def missed(self) -> tuple[GroupShare, ...]:
        return tuple(group for group in self.groups if group.is_missed)

    @property
    def sentences(self) -> list[str]:
        """One for each group that is missed."""
        return [group.sentence(self.coverage) for group in self.missed]

    @property
    def reasons(self) -> dict[str, list[str]]:
        """The heads that were left out, by the reason."""
        reasons: dict[str, list[str]] = {}
        for name, accuracy in self.left_out.items():
            few = f"fewer than {_LEAST_MEMBERS} held-out faces with or without them"
            reasons.setdefault(few if accuracy is None else "the classifier cannot tell them", []).append(name)
        return reasons

    def to_json(self) -> dict[str, Any]:
        parts = {"groups": self.groups, "obedience": self.obedience}
        return {**vars(self), "missed": self.sentences} | {name: list(map(vars, part)) for name, part in parts.items()}


def read_audit(value: Any) -> Audit | None:
    """From what `Audit.to_json` wrote to eval.json; None if it is absent, damaged, or of another version."""
    try:
        return TypeAdapter(Audit).validate_python(value)
    except ValidationError:
        return None


class Classified(NamedTuple):
    """Images as the classifier sees them: probabilities (N, H) and features (N, F); and by head's name what they were
    drawn with, (N,)."""

    scores: NDArray[np.float32]
    features: NDArray[np.float32]
    drawn: Mapping[str, NDArray[np.bool_]] = MappingProxyType({})


def audit(
    heads: Sequence[Head],
    shares: NDArray[np.bool_],
    labels: NDArray[np.bool_],
    held_out: Classified,
    samples: Classified,
    seed: int = 0,
) -> Audit:
    """Compare samples with real faces.

    Args:
        shares: labels of all training faces, (M, H), for the real shares.
        labels: of the held-out faces, (N, H).
        seed: of the choice of samples for coverage.
    """
    accuracy, left_out = recognised_heads(heads, shares, labels, held_out.scores)
    recognised = [number for number, head in enumerate(heads) if head.name in accuracy]
    thresholds, obedience = shares.mean(axis=0), list[Obedience]()
    for number in recognised:
        asked = samples.drawn.get(heads[number].name)
        if asked is not None and asked.any() and not asked.all():
            seen = _agreements(samples.scores[:, number] > thresholds[number], asked)
            real = _agreements(held_out.scores[:, number] > thresholds[number], labels[:, number])
            obedience.append(Obedience(heads[number].name, *seen, *real))
    half = len(labels) // 2
    first, second = held_out.features[:half], held_out.features[half : 2 * half]
    chosen = np.random.default_rng(seed).permutation(len(samples.features))[:half]  # the first of a folder are alike
    by = samples.features[chosen], second[: len(chosen)]
    covering = np.array([covered(first, each, _NEIGHBOURS) for each in by if half > _NEIGHBOURS]).reshape(2, -1)

    def coverages(inside: NDArray[np.bool_]) -> tuple[float | None, float | None]:
        here = covering[:, inside[: covering.shape[1]]]
        return (float(here[0].mean()), float(here[1].mean())) if here.size else (None, None)

    groups = list[GroupShare]()
    for terms in _groups(heads, recognised, shares):
        inside, real = _members(labels, terms), float(_members(shares, terms).mean())
        if not _has_enough(inside):
            continue
        estimate = corrected_share(_scores(held_out.scores, terms), inside, _scores(samples.scores, terms))
        if estimate is None:
            continue
        share, deviation = estimate
        spread = math.hypot(deviation, math.sqrt(real * (1 - real) / len(shares)))
        groups.append(
            GroupShare(
                " and ".join(heads[number].name if has else f"no {heads[number].name}" for number, has in terms),
                tuple((heads[number].name, has) for number, has in terms),
                real,
                share,
                max(share - _SIGMAS * deviation, 0.0),
                min(share + _SIGMAS * deviation, 1.0),
                *coverages(inside),
                0.5 * math.erfc((real - share) / (spread * math.sqrt(2))) if spread else 1.0,
                remedies=_remedies([(heads[number], has) for number, has in terms], real),
            )
        )
    return Audit(_ranked(groups), tuple(obedience), left_out, accuracy, *coverages(np.ones(len(labels), bool)))


def recognised_heads(
    heads: Sequence[Head], shares: NDArray[np.bool_], labels: NDArray[np.bool_], scores: NDArray[np.float32]
) -> tuple[dict[str, float], dict[str, float | None]]:
    """Balanced accuracy of the heads that the classifier recognises, and of the others; None: too few held-out faces.

    Arguments as for `audit`; ``scores``: of the held-out faces, (N, H).
    """
    thresholds = shares.mean(axis=0)  # of calibrated probabilities: the best balanced accuracy
    accuracy, left_out = dict[str, float](), dict[str, float | None]()
    for number, head in enumerate(heads):
        if not _has_enough(labels[:, number]):
            left_out[head.name] = None
            continue
        found = sum(_agreements(scores[:, number] > thresholds[number], labels[:, number])) / 2
        (accuracy if found >= _LEAST_ACCURACY else left_out)[head.name] = round(found, 3)
    return accuracy, left_out


def _has_enough(inside: NDArray[np.bool_]) -> bool:
    """Whether enough held-out faces are inside and outside of a group, (N,), to measure the classifier."""
    return bool(min(inside.sum(), (~inside).sum()) >= _LEAST_MEMBERS)


def _remedies(terms: Sequence[tuple[Head, bool]], real: float) -> tuple[tuple[str, str], ...]:
    """Of a single attribute: the shares of a pair do not say how often both are in one face."""
    (head, has), name = terms[0], terms[0][0].column
    if len(terms) > 1 or head.kind not in ("binary", "class") or "," in name:
        return ()
    found = list[tuple[str, str]]()
    if head.kind == "class":
        found += [("--balance-by", name)] if real < head.equal else []
    elif real <= _FREQUENT and "=" not in name:
        wanted = math.floor(1000 * min(max(3 * real, 0.1), 0.5, _MOST_TIMES * real)) / 1000
        found.append(("--balance", f"{name}={wanted if has else 1 - wanted:.3g}"))
    return (*found, ("--condition", name))


def _agreements(seen: NDArray[np.bool_], labels: NDArray[np.bool_]) -> tuple[float, float]:
    """Shares recognised among faces with the attribute and among those without; both arrays (N,)."""
    return float(seen[labels].mean()), float((~seen[~labels]).mean())


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


def _groups(heads: Sequence[Head], recognised: Sequence[int], shares: NDArray[np.bool_]) -> list[_Terms]:
    """Each head; binary ones also by their absence, and two by two where enough real faces have both."""
    binary = [number for number in recognised if heads[number].kind == "binary"]
    singles: list[_Terms] = [((number, True),) for number in recognised] + [((number, False),) for number in binary]
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

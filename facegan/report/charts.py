"""The curves of runs as plain values that the page's charts are drawn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from facegan.report.runs import Run, titles

MOST_POINTS = 1_500  # of a curve: more than a screen has columns
_PANELS = (
    ("Losses", "as the method defines them", {"loss_g": "generator", "loss_d": "discriminator"}),
    ("Penalty", "without its weight", {"gp": "penalty"}),
    ("BEGAN", "", {"convergence": "measure of convergence", "k": "k"}),
    ("Discriminator’s mean logit", "higher is more real", {"d_real": "real images", "d_fake": "fake images"}),
    ("Discriminator’s accuracy", "share of images placed rightly", {"d_accuracy": "real and fake images"}),
    ("Generator’s gradient", "L2 norm", {"grad_g": "gradient"}),
    ("Rate", "images per second, without saving and sampling", {"images_per_second": "images/s"}),
)
_SMALLER = "measured on the way; smaller is better"
_RANGES = {"d_accuracy": (0.0, 1.0)}
_FROM_ZERO = ("images_per_second", "grad_g")
_COMPARED = {
    "loss_g": "Generator’s loss",
    "loss_d": "Discriminator’s loss",
    "d_accuracy": "Discriminator’s accuracy",
    "images_per_second": "Images per second",
}

Points = tuple[list[int], list[float | None]]


@dataclass(frozen=True)
class Chart:
    """One panel: curves over the number of images.

    Attributes:
        x: real images shown to the discriminator.
        curves: label → values at ``x``, None where there is none.
        floor: what real faces come to, or None.
        low, high: of the axis; None: by the values.
        best: number of the point that is the best so far, or None.
        colours: number of each curve's colour; empty: by their order.
    """

    title: str
    note: str
    x: list[int]
    curves: dict[str, list[float | None]]
    floor: float | None = None
    low: float | None = None
    high: float | None = None
    best: int | None = None
    colours: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Mark:
    """A finding of health on the time line."""

    images: int
    kind: str
    text: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Curves:
    """All charts of a page, and the marks that each of them shows."""

    charts: list[Chart]
    marks: list[Mark] = field(default_factory=list)
    thinned: int = 1  # rows of stats.jsonl in one point

    def to_json(self) -> dict[str, Any]:
        return {"charts": [c.to_json() for c in self.charts], "marks": [m.to_json() for m in self.marks]}


def curves_of(run: Run) -> Curves:
    """Every curve that the run has rows of, and what was measured on the way."""
    charts = []
    for title, note, names in _PANELS:
        there = {name: label for name, label in names.items() if any(name in row for row in run.rows)}
        if there:
            points = {label: _thinned(run.rows, name) for name, label in there.items()}
            low, high = _RANGES.get(next(iter(there)), (None, None))
            zero = 0.0 if next(iter(there)) in _FROM_ZERO else low
            charts.append(Chart(title, note, *_joined(points), low=zero, high=high))
    return Curves([*charts, *_measured(run)], _marks([run]), _step(run.rows))


def compared_curves(runs: Sequence[Run]) -> Curves:
    """One chart a curve, with every run in it."""
    names, charts = titles(list(runs)), []
    for curve, title in _COMPARED.items():
        points = {
            name: _thinned(run.rows, curve)
            for name, run in zip(names, runs, strict=True)
            if any(curve in row for row in run.rows)
        }
        low, high = _RANGES.get(curve, (None, None))
        if points:
            colours = tuple(names.index(name) for name in points)
            zero = 0.0 if curve in _FROM_ZERO else low
            charts.append(Chart(title, "", *_joined(points), low=zero, high=high, colours=colours))
    for metric in _wholes(list(dict.fromkeys(name for run in runs for name in run.measured))):
        points = {name: _values(run, metric) for name, run in zip(names, runs, strict=True) if metric in run.measured}
        floors = {run.introduction.get("floor", {}).get(metric) for run in runs if metric in run.measured}
        floor = floors.pop() if len(floors) == 1 else None
        colours = tuple(names.index(name) for name in points)
        charts.append(Chart(metric, _SMALLER, *_joined(points), floor=_short(floor), low=0.0, colours=colours))
    return Curves(charts, thinned=max(_step(run.rows) for run in runs))


def _measured(run: Run) -> list[Chart]:
    floors: Mapping[str, float] = run.introduction.get("floor", {})
    charts = []
    wholes = _wholes(list(run.measured))
    for name in wholes:
        images, values = _values(run, name)
        # The first metric chooses the best checkpoint.
        best = [row["images"] for row in run.measurements if row.get("best")] if not charts else []
        at = images.index(best[-1]) if best and best[-1] in images else None
        charts.append(Chart(name, _SMALLER, images, {name: values}, _short(floors.get(name)), 0.0, best=at))
        parts = {part: _values(run, part) for part in run.measured if part not in wholes and _is_part(part, name)}
        if parts:
            charts.append(Chart(f"{name}, its parts", _SMALLER, *_joined(parts), low=0.0))
    return charts


def _wholes(metrics: list[str]) -> list[str]:
    """Those that are no parts of others, as ``swd_64`` is one of ``swd``."""
    return [name for name in metrics if not any(_is_part(name, other) for other in metrics)]


def _is_part(name: str, whole: str) -> bool:
    return name.startswith(f"{whole}_")


def _values(run: Run, metric: str) -> Points:
    rows = [row for row in run.measurements if row["measured"].get(metric) is not None]
    return [row["images"] for row in rows], [_short(row["measured"][metric]) for row in rows]


def _marks(runs: Iterable[Run]) -> list[Mark]:
    return [Mark(row["images"], row["health"], row["text"]) for run in runs for row in run.findings]


def _step(rows: Sequence[Any]) -> int:
    return -(-len(rows) // MOST_POINTS)


def _thinned(rows: Sequence[Mapping[str, Any]], name: str) -> Points:
    """Means of so many rows that no more than `MOST_POINTS` are left; rows are means themselves."""
    step = _step(rows)
    images, values = [], []
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        there = [row[name] for row in part if row.get(name) is not None]
        images.append(part[-1]["images"])
        values.append(_short(sum(there) / len(there)) if there else None)
    return images, values


def _joined(points: Mapping[str, Points]) -> tuple[list[int], dict[str, list[float | None]]]:
    """Curves over one axis of images: that of all of them together."""
    x = sorted({images for found, _ in points.values() for images in found})
    by_label = {label: dict(zip(images, values, strict=True)) for label, (images, values) in points.items()}
    return x, {label: [known.get(images) for images in x] for label, known in by_label.items()}


def _short(value: float | None) -> float | None:
    """Five digits: as many as a screen can show, and half the bytes."""
    return None if value is None else float(f"{value:.5g}")

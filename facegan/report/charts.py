"""The curves of runs as plain values for the page's charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from facegan.report.runs import Run, titles

MAX_POINTS = 1_500  # per curve: more than a screen has columns
_PANELS = (
    ("Losses", "as the method defines them", {"loss_g": "generator", "loss_d": "discriminator"}),
    ("Penalty", "without its weight", {"gp": "penalty"}),
    ("BEGAN", "", {"convergence": "measure of convergence", "k": "k"}),
    ("Discriminator’s mean logit", "higher is more real", {"d_real": "real images", "d_fake": "fake images"}),
    ("Discriminator’s accuracy", "share of correct answers", {"d_accuracy": "real and fake images"}),
    ("Generator’s gradient", "L2 norm", {"grad_g": "gradient"}),
    ("Rate", "images per second, excluding saving and sampling", {"images_per_second": "images/s"}),
)
_SMALLER = "during training; smaller is better"
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
    """One panel: curves over real images shown to the discriminator.

    Attributes:
        curves: label → values at ``x``.
        real_vs_real: the value of real faces against real faces.
        low, high: limits of the axis; None: from the values.
        best: index of the best point.
        colours: index of each curve's colour; empty: in order.
    """

    title: str
    note: str
    x: list[int]
    curves: dict[str, list[float | None]]
    real_vs_real: float | None = None
    low: float | None = None
    high: float | None = None
    best: int | None = None
    colours: tuple[int, ...] = ()


@dataclass(frozen=True)
class Mark:
    """A finding of the monitor on the time line."""

    images: int
    kind: str
    text: str


@dataclass(frozen=True)
class Curves:
    """All charts of a page, and the marks that each shows."""

    charts: list[Chart]
    marks: list[Mark] = field(default_factory=list)
    thinned: int = 1  # rows of stats.jsonl in one point

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def curves_of(run: Run) -> Curves:
    """The curves of the training's rows and of its periodic evaluation."""
    charts = []
    for title, note, names in _PANELS:
        points = {
            label: _thinned(run.rows, name) for name, label in names.items() if any(name in row for row in run.rows)
        }
        if points:
            low, high = _limits(next(iter(names)))
            charts.append(Chart(title, note, *_joined(points), low=low, high=high))
    return Curves(
        [*charts, *_measured(run)],
        [Mark(row["images"], row["health"], row["text"]) for row in run.findings],
        _step(run.rows),
    )


def compared_curves(runs: Sequence[Run]) -> Curves:
    """One chart per curve, with every run in it."""
    names, charts = titles(runs), []
    for curve, title in _COMPARED.items():
        points = {
            name: _thinned(run.rows, curve)
            for name, run in zip(names, runs, strict=True)
            if any(curve in row for row in run.rows)
        }
        if points:
            low, high = _limits(curve)
            colours = tuple(names.index(name) for name in points)
            charts.append(Chart(title, "", *_joined(points), low=low, high=high, colours=colours))
    for metric in _wholes(list(dict.fromkeys(name for run in runs for name in run.measured))):
        points = {name: _values(run, metric) for name, run in zip(names, runs, strict=True) if metric in run.measured}
        values = {run.reference.get("floor", {}).get(metric) for run in runs if metric in run.measured}
        real = values.pop() if len(values) == 1 else None
        colours = tuple(names.index(name) for name in points)
        charts.append(Chart(metric, _SMALLER, *_joined(points), real_vs_real=_short(real), low=0.0, colours=colours))
    return Curves(charts, thinned=max(_step(run.rows) for run in runs))


def _limits(curve: str) -> tuple[float | None, float | None]:
    low, high = _RANGES.get(curve, (None, None))
    return (0.0 if curve in _FROM_ZERO else low), high


def _measured(run: Run) -> list[Chart]:
    real: Mapping[str, float] = run.reference.get("floor", {})
    charts = []
    wholes = _wholes(list(run.measured))
    for name in wholes:
        images, values = _values(run, name)
        # Only the first metric selects the best checkpoint.
        best = [row["images"] for row in run.measurements if row.get("best")] if not charts else []
        at = images.index(best[-1]) if best and best[-1] in images else None
        charts.append(Chart(name, _SMALLER, images, {name: values}, _short(real.get(name)), 0.0, best=at))
        parts = {part: _values(run, part) for part in run.measured if part not in wholes and _is_part(part, name)}
        if parts:
            charts.append(Chart(f"{name}, parts", _SMALLER, *_joined(parts), low=0.0))
    return charts


def _wholes(metrics: list[str]) -> list[str]:
    """Without parts of others, as ``swd_64`` is of ``swd``."""
    return [name for name in metrics if not any(_is_part(name, other) for other in metrics)]


def _is_part(name: str, whole: str) -> bool:
    return name.startswith(f"{whole}_")


def _values(run: Run, metric: str) -> Points:
    rows = [row for row in run.measurements if row["measured"].get(metric) is not None]
    return [row["images"] for row in rows], [_short(row["measured"][metric]) for row in rows]


def _step(rows: Sequence[Any]) -> int:
    return -(-len(rows) // MAX_POINTS)


def _thinned(rows: Sequence[Mapping[str, Any]], name: str) -> Points:
    """Means of as many rows as leave `MAX_POINTS` points."""
    step = _step(rows)
    images, values = [], []
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        known = [row[name] for row in part if row.get(name) is not None]
        images.append(part[-1]["images"])
        values.append(_short(sum(known) / len(known)) if known else None)
    return images, values


def _joined(points: Mapping[str, Points]) -> tuple[list[int], dict[str, list[float | None]]]:
    """Curves over the union of their axes."""
    x = sorted({images for found, _ in points.values() for images in found})
    by_label = {label: dict(zip(images, values, strict=True)) for label, (images, values) in points.items()}
    return x, {label: [known.get(images) for images in x] for label, known in by_label.items()}


def _short(value: float | None) -> float | None:
    """Five digits: enough for a screen, and half the bytes."""
    return None if value is None else float(f"{value:.5g}")

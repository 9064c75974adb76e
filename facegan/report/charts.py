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
    ("Adaptive augmentation", "", {"ada_p": "probability p", "ada_r": "sign of D on real images"}),
    ("Generator’s gradient", "L2 norm", {"grad_g": "gradient"}),
    ("Rate", "images per second, excluding saving and sampling", {"images_per_second": "images/s"}),
)
_SMALLER = "during training; smaller is better"
_LIMITS = {"d_accuracy": (0.0, 1.0), "images_per_second": (0.0, None), "grad_g": (0.0, None)}
_COMPARED = {
    "loss_g": "Generator’s loss",
    "loss_d": "Discriminator’s loss",
    "d_accuracy": "Discriminator’s accuracy",
    "images_per_second": "Images per second",
}

Points = tuple[list[int], list[float | None]]


@dataclass(frozen=True)
class Chart:
    """One panel: curves over real images shown to the discriminator."""

    title: str
    note: str
    x: list[int]
    curves: dict[str, list[float | None]]  # label → values at ``x``
    real_vs_real: float | None = None  # the value of real faces against real faces
    low: float | None = None  # limits of the axis; None: from the values
    high: float | None = None
    best: int | None = None  # index of the best point
    colours: tuple[int, ...] = ()  # index of each curve's colour; empty: in order


@dataclass(frozen=True)
class Curves:
    """All charts of a page, and the findings of the monitor that each marks."""

    charts: list[Chart]
    marks: list[dict[str, Any]] = field(default_factory=list)
    thinned: int = 1  # rows of stats.jsonl in one point

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def curves_of(run: Run) -> Curves:
    """The curves of the training's rows and of its periodic evaluation."""
    charts = []
    for title, note, labels in _PANELS:
        charts += _chart(title, note, {label: (run, name) for name, label in labels.items()}, ())
    for name in (metrics := _wholes(run.measured)):
        images, values = _values(run, name)
        # Only the first metric selects the best checkpoint.
        best = [row["images"] for row in run.measurements if row.get("best")] if name == metrics[0] else []
        at = images.index(best[-1]) if best and best[-1] in images else None
        real = _short(run.reference.get("floor", {}).get(name))
        charts.append(Chart(name, _SMALLER, images, {name: values}, real, 0.0, best=at))
        parts = {part: _values(run, part) for part in run.measured if part.startswith(f"{name}_")}
        if parts:
            charts.append(Chart(f"{name}, parts", _SMALLER, *_joined(parts), low=0.0))
    marks = [{"images": row["images"], "kind": row["health"], "text": row["text"]} for row in run.findings]
    return Curves(charts, marks, _step(run.rows))


def compared_curves(runs: Sequence[Run]) -> Curves:
    """One chart per curve, with every run in it."""
    by_title, charts = dict(zip(titles(runs), runs, strict=True)), []
    for name, title in _COMPARED.items():
        charts += _chart(title, "", {label: (run, name) for label, run in by_title.items()}, list(by_title))
    for metric in _wholes(dict.fromkeys(name for run in runs for name in run.measured)):
        points = {label: _values(run, metric) for label, run in by_title.items() if metric in run.measured}
        values = {run.reference.get("floor", {}).get(metric) for run in runs if metric in run.measured}
        real = _short(values.pop()) if len(values) == 1 else None
        colours = tuple(list(by_title).index(label) for label in points)
        charts.append(Chart(metric, _SMALLER, *_joined(points), real_vs_real=real, low=0.0, colours=colours))
    return Curves(charts, thinned=max(_step(run.rows) for run in runs))


def _chart(title: str, note: str, curves: Mapping[str, tuple[Run, str]], colours: Sequence[str]) -> list[Chart]:
    """The panel of values in the training's rows, by label; none if no row has one. ``colours``: labels in order."""
    known = {label: (run, name) for label, (run, name) in curves.items() if any(name in row for row in run.rows)}
    if not known:
        return []
    points = {label: _thinned(run.rows, name) for label, (run, name) in known.items()}
    low, high = _LIMITS.get(next(name for _, name in curves.values()), (None, None))
    indexes = tuple(colours.index(label) for label in points) if colours else ()
    return [Chart(title, note, *_joined(points), low=low, high=high, colours=indexes)]


def _wholes(metrics: Mapping[str, Any]) -> list[str]:
    """Without parts of others, as ``swd_64`` is of ``swd``."""
    return [name for name in metrics if not any(name.startswith(f"{other}_") for other in metrics)]


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

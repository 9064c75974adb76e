"""An evaluation for people: a row a metric, with real faces beside it."""

from __future__ import annotations

from facegan.config import METRIC_TABLE
from facegan.evaluate.result import Evaluation


def rows_of(found: Evaluation) -> list[list[str]]:
    """Name, value, which way is better, the value of real faces, how near to that, and what the metric is.

    Those that are absent have no row: `facegan.evaluate.evaluation` has warned of them.
    """
    rows = []
    for name, metric in METRIC_TABLE.items():
        if name in found.metrics:
            value, floor = found.metrics[name], found.floors.get(name)
            spread = found.metrics.get(f"{name}_std")
            told = number(value) + (f" ± {number(spread)}" if spread is not None else "")
            real = "–" if floor is None else number(floor)
            rows.append([name, told, metric.better, real, nearness(name, value, floor), metric.what])
    return rows


def nearness(name: str, value: float, floor: float | None) -> str:
    """How far a value is from that of real faces: ``4.1 ×`` it, ``87 %`` of it, or the difference."""
    if floor is None:
        return ""
    better = METRIC_TABLE[name].better
    # The kernel distance of real faces is about nothing, and below it as often as above: no factor tells anything.
    if better == "less" and floor > 0 and name not in ("kid", "kid_clip", "copied"):
        return f"{value / floor:,.1f} ×"
    if better == "more" and floor > 0:
        return f"{100 * value / floor:.0f} %"
    return f"{value - floor:+.3g}"


def number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}" if abs(value) >= 0.001 else f"{value:.2g}"

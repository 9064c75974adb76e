"""What ``facegan eval`` left beside a run: eval.json and neighbours.png."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facegan.config import METRIC_TABLE
from facegan.report.pictures import Picture, picture_file
from facegan.run_folder import EVALUATION, NEIGHBOURS

_MOST_BYTES = 10_000_000


@dataclass(frozen=True)
class Metric:
    """One metric: its value, and what real faces come to beside other real ones.

    Attributes:
        what: in a few words, and which way is better; "" where this facegan does not know the metric.
    """

    name: str
    value: float
    floor: float | None
    what: str = ""


@dataclass(frozen=True)
class Judged:
    """What is shown of it.

    Attributes:
        why: why nothing is; "" where something is.
        command: what would mend that.
        measured, protocol: names and texts, nested ones joined by dots.
    """

    why: str = ""
    command: str = ""
    metrics: list[Metric] = field(default_factory=list)
    absent: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    measured: list[tuple[str, str]] = field(default_factory=list)
    protocol: list[tuple[str, str]] = field(default_factory=list)
    neighbours: Picture | None = None


def judged(run: Path) -> Judged:
    path = run / EVALUATION
    command = f"facegan eval {shlex.quote(str(run))} --shards OUT"
    if not path.is_file():
        return Judged("This run was not measured yet. Its numbers stand here after", command)
    try:
        told: Any = json.loads(path.read_bytes() if path.stat().st_size < _MOST_BYTES else b"")
        floors = told.get("floors") or {}
        metrics = [
            Metric(str(name), _finite(value), _number(floors.get(name)), _what(str(name)))
            for name, value in told["metrics"].items()
        ]
        return Judged(
            metrics=metrics,
            absent=[(str(name), str(why)) for name, why in (told.get("absent") or {}).items()],
            warnings=[str(text) for text in told.get("warnings") or []],
            measured=_flat(told.get("measured") or {}),
            protocol=_flat(told.get("protocol") or {}),
            # One that an earlier evaluation left is of other samples.
            neighbours=picture_file(run / NEIGHBOURS) if told.get("neighbours") else None,
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return Judged(f"{path} can’t be read. It is written anew by", command)


def _what(name: str) -> str:
    known = METRIC_TABLE.get(name)
    if known is None and name.startswith("swd_"):
        return f"of details at {name.removeprefix('swd_')} px"
    better = {"less": "less is better", "more": "more is better", "as real": "as real faces have it"}
    return f"{known.what}; {better[known.better]}" if known else ""


def _finite(value: Any) -> float:
    """
    Raises:
        ValueError: it is no finite number.
    """
    if isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{value} is no finite number")
    return float(value)


def _number(value: Any) -> float | None:
    return _finite(value) if isinstance(value, int | float) else None


def _flat(told: Any, before: str = "") -> list[tuple[str, str]]:
    """``{"a": {"b": 1}}`` → ``[("a.b", "1")]``."""
    if not isinstance(told, dict):
        text = ", ".join(map(str, told)) if isinstance(told, list) else str(told)
        return [(before, text)]
    return [pair for name, value in told.items() for pair in _flat(value, f"{before}.{name}" if before else str(name))]

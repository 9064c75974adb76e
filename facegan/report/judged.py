"""What ``facegan eval`` left beside a run: eval.json and neighbours.png."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facegan.config import METRIC_TABLE
from facegan.report.pictures import Picture, picture_file
from facegan.run_folder import EVALUATION, NEIGHBOURS, read_evaluation


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
    found = read_evaluation(run)
    if found is None or not (found.metrics or found.absent):
        return Judged(f"{path} can’t be read. It is written anew by", command)
    return Judged(
        metrics=[Metric(name, value, found.floors.get(name), _what(name)) for name, value in found.metrics.items()],
        absent=list(found.absent.items()),
        warnings=list(found.warnings),
        measured=_flat(found.measured),
        protocol=_flat(found.protocol),
        # One that an earlier evaluation left is of other samples.
        neighbours=picture_file(run / NEIGHBOURS) if found.neighbours else None,
    )


def _what(name: str) -> str:
    known = METRIC_TABLE.get(name)
    if known is None and name.startswith("swd_"):
        return f"of details at {name.removeprefix('swd_')} px"
    better = {"less": "less is better", "more": "more is better", "as real": "as real faces have it"}
    return f"{known.what}; {better[known.better]}" if known else ""


def _flat(told: Any, before: str = "") -> list[tuple[str, str]]:
    """``{"a": {"b": 1}}`` → ``[("a.b", "1")]``."""
    if not isinstance(told, dict):
        text = ", ".join(map(str, told)) if isinstance(told, list) else str(told)
        return [(before, text)]
    return [pair for name, value in told.items() for pair in _flat(value, f"{before}.{name}" if before else str(name))]

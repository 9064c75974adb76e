"""The rows of a run's stats.jsonl, checked: pages and tables tell of them, whoever wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from facegan.errors import CheckpointError
from facegan.train.folder.log import STATS, numbered_stats

_MOST = 1e300  # sums of them are numbers still
_MOST_IMAGES = 10**18
_IN_EACH = ("loss_g", "loss_d", "seconds")  # row of the training


def read_rows(run: Path) -> list[dict[str, Any]]:
    """All rows, of which those with ``loss_g`` are the training's; what they mean stands in `facegan.train.folder.log`.

    Raises:
        CheckpointError: facegan train wrote no such row.
    """
    rows = numbered_stats(run)
    if rows and not rows[max(rows)]:  # a process that was killed left it unfinished
        rows.popitem()
    for number, row in rows.items():
        if not row:
            raise CheckpointError(
                f"{run / STATS} is damaged: line {number} is no row, and others follow.\n"
                "Take an undamaged copy, or take that line out."
            )
        if wrong := _wrong(row):
            raise CheckpointError(
                f"{run / STATS} is damaged: in line {number}, {wrong} is not what facegan train writes.\n"
                "Take an undamaged copy, or take that line out."
            )
    return list(rows.values())


def _wrong(row: dict[str, Any]) -> str:
    """The first value that is of another kind; "" where there is none."""
    if isinstance(row["images"], bool) or not 0 <= row["images"] <= _MOST_IMAGES:
        return "images"
    if "loss_g" in row:
        return next((name for name in _IN_EACH if not _is_number(row.get(name))), "") or _no_number(row)
    if "health" in row:
        texts = (name for name in ("health", "text") if not isinstance(row.get(name), str))
        return next(texts, "measured" if "measured" in row else "")
    parts = (name for name in ("measured", "floor") if name in row)
    return next((name for name in parts if not isinstance(row[name], dict) or _no_number(row[name])), "")


def _no_number(values: dict[str, Any]) -> str:
    """The first of ``values`` that is neither a number nor none (which a measurement that came to nothing is)."""
    return next((name for name, value in values.items() if not (value is None or _is_number(value))), "")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_MOST <= value <= _MOST

"""The rows of a run's stats.jsonl, checked: pages and tables tell of them, whoever wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from facegan.errors import CheckpointError
from facegan.train.folder.log import STATS, numbered_stats, wrong_value


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
        if wrong := wrong_value(row):
            raise CheckpointError(
                f"{run / STATS} is damaged: in line {number}, {wrong} is not what facegan train writes.\n"
                "Take an undamaged copy, or take that line out."
            )
    return list(rows.values())

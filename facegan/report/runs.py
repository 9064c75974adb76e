"""Runs as reports read them: run.json and the checked rows of stats.jsonl."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegan.errors import CheckpointError
from facegan.nets import Condition
from facegan.training.log import STATS, numbered_stats, wrong_value
from facegan.training.run_record import read_record, settings_of


@dataclass(frozen=True)
class Run:
    """A run's folder, as its files describe it."""

    folder: Path
    record: dict[str, Any]  # run.json
    settings: dict[str, Any]  # see `settings_of`
    rows: list[dict[str, Any]]  # of the training
    findings: list[dict[str, Any]]  # of the monitor
    measurements: list[dict[str, Any]]  # of the periodic evaluation
    reference: dict[str, Any]  # its last ``protocol`` and ``floor``; empty if there is none

    @property
    def last(self) -> dict[str, Any]:
        return self.rows[-1]

    @property
    def images_per_second(self) -> float:
        """Over the whole training, excluding saving and sampling."""
        return self.last["images"] / max(self.last["seconds"], 1e-9)

    @property
    def measured(self) -> dict[str, float]:
        """The smallest value of each metric."""
        values = [pair for row in self.measurements for pair in row["measured"].items() if pair[1] is not None]
        return {name: min(value for other, value in values if other == name) for name, _ in values}

    @property
    def grid_rows(self) -> list[str]:
        """What the rows of the sample grids show, of a run with a condition."""
        nets = self.record.get("nets")
        try:
            return list(Condition.of(nets.get("condition") if isinstance(nets, dict) else None).contrasts())
        except ValueError:
            return []

    def figures(self) -> dict[str, Any]:
        """The values that ``--json`` prints."""
        return {
            "run": str(self.folder),
            "images": self.last["images"],
            "images_per_second": round(self.images_per_second, 1),
            "loss_g": self.last["loss_g"],
            "loss_d": self.last["loss_d"],
            "d_accuracy": self.last.get("d_accuracy"),
            "health": sorted({row["health"] for row in self.findings}),
            "measured": self.measured,
        }


def read_run(folder: str | Path) -> Run:
    """Raises CheckpointError if the folder is not a run, has no training rows yet, or is damaged."""
    folder = Path(folder)
    record, numbered = read_record(folder), numbered_stats(folder)
    if numbered and not numbered[max(numbered)]:  # left unfinished by a killed process
        numbered.popitem()
    for number, row in numbered.items():
        if name := wrong_value(row) if row else "the row":
            where = f"{folder / STATS} is damaged in line {number}"
            raise CheckpointError(f"{where}: {name} is invalid.\nUse an undamaged copy, or remove it.")
    rows = list(numbered.values())
    training = [row for row in rows if "loss_g" in row]
    if record is None or not training:
        what = "contains no run.json" if record is None else "has no row of losses yet"
        raise CheckpointError(f"{folder} {what}. Name the folder of a run that facegan train has trained.")
    return Run(
        folder,
        record,
        settings_of(record),
        training,
        findings=[row for row in rows if "health" in row],
        measurements=[row for row in rows if "measured" in row],
        reference=next((row for row in reversed(rows) if "floor" in row), {}),
    )


def titles(runs: Sequence[Run]) -> list[str]:
    """The folders' names, with as much of their paths as makes them different."""
    parts = [run.folder.resolve().parts for run in runs]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return [str(run.folder) for run in runs]

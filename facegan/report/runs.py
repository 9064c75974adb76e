"""What runs' folders say of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegan.config import TrainConfig
from facegan.errors import CheckpointError
from facegan.training.log import STATS, numbered_stats, wrong_value
from facegan.training.run_record import read_record

# The rows of a run's stats.jsonl, checked: pages and tables tell of them, whoever wrote them.


def read_rows(run: Path) -> list[dict[str, Any]]:
    """All rows, of which those with ``loss_g`` are the training's; what they mean stands in `facegan.training.log`.

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


@dataclass(frozen=True)
class Run:
    """What a run's folder says of it."""

    folder: Path
    record: dict[str, Any]  # run.json
    settings: dict[str, Any]  # of its training, and ``precision``, ``device``, ``dataset`` as they came to be
    rows: list[dict[str, Any]]  # of the training
    findings: list[dict[str, Any]]
    measurements: list[dict[str, Any]]
    introduction: dict[str, Any]  # the last ``protocol`` and ``floor``; empty where nothing was measured on the way

    @property
    def last(self) -> dict[str, Any]:
        return self.rows[-1]

    @property
    def images_per_second(self) -> float:
        """Over the whole training, without saving and sampling."""
        return self.last["images"] / max(self.last["seconds"], 1e-9)

    @property
    def measured(self) -> dict[str, float]:
        """The smallest value of each metric."""
        least: dict[str, float] = {}
        for row in self.measurements:
            for name, value in row["measured"].items():
                if value is not None:
                    least[name] = min(value, least.get(name, math.inf))
        return least

    def figures(self) -> dict[str, Any]:
        """Plain values, as ``--json`` prints them."""
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
    """
    Raises:
        CheckpointError: it is no run's folder, or one that trained nothing yet, or its files are damaged.
    """
    folder = Path(folder)
    record = read_record(folder)
    rows = read_rows(folder)
    training = [row for row in rows if "loss_g" in row]
    if record is None or not training:
        what = "holds no run.json" if record is None else "has no row of losses yet"
        raise CheckpointError(f"{folder} {what}: name the folder of a run that facegan train has trained.")
    # What an older facegan did not know of yet was as the default is now.
    settings = TrainConfig().model_dump(mode="json") | record["settings"]
    settings |= {"precision": record["precision"], "device": record["device"]}
    settings["dataset"] = f"{record['dataset']['path'] or 'memory'} ({record['dataset']['fingerprint'][:8]})"
    return Run(
        folder,
        record,
        settings,
        training,
        findings=[row for row in rows if "health" in row],
        measurements=[row for row in rows if "measured" in row],
        introduction=next((row for row in reversed(rows) if "floor" in row), {}),
    )


def titles(runs: list[Run]) -> list[str]:
    """The folders' names, or as much of their paths as tells them apart."""
    parts = [run.folder.resolve().parts for run in runs]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return [str(run.folder) for run in runs]


def title(run: Run) -> str:
    """The folder's name; with the one above it where it is that of every experiment of ``facegan run``."""
    *_, above, name = ("", *run.folder.resolve().parts)
    return f"{above}/{name}" if name == "run" else name

"""Measuring a run on the way, and which checkpoint is its best."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from facegan.config import TrainConfig
from facegan.errors import SettingsError
from facegan.files import write_json
from facegan.nets import Generator
from facegan.run_dir import BEST, Best

EVERY_IMAGES = 50_000  # where nobody says how often
Measure = Callable[[Generator], Mapping[str, float]]


@runtime_checkable
class ReferenceMetric(Protocol):
    """A `Measure` that compares with something, and can say with what. Asked in the process that measures alone."""

    def protocol(self) -> Mapping[str, Any]:
        """All that its values hang on, as plain values; ``what`` is a sentence's part for people.

        It is asked before the first round: whatever can be wrong with real images is to be found here.
        """
        ...

    def floor(self) -> Mapping[str, float]:
        """What real images come to beside other real ones."""
        ...


@dataclass(frozen=True)
class PeriodicEval:
    """What is measured, how often, and by which metric the best is chosen: its smallest finite value."""

    measure: Measure
    every_images: int
    metric: str = ""  # "": the first that ``measure`` gives

    def __post_init__(self) -> None:
        if self.every_images < 1:
            raise SettingsError(f"eval_every {self.every_images}: it has to be a number of images from 1 up.")

    def introduction(self, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Protocol and floor as a row of stats.jsonl, unless the last such row of ``rows`` has the same protocol."""
        if not isinstance(self.measure, ReferenceMetric):
            return None
        protocol = dict(self.measure.protocol())
        before = [row["protocol"] for row in rows if "protocol" in row]
        return None if before[-1:] == [protocol] else {"protocol": protocol, "floor": dict(self.measure.floor())}

    def judge(
        self, generator: Generator, images: int, best: Best | None
    ) -> tuple[dict[str, float | None], Best | None]:
        """All values (None: not finite), and the best so far.

        Raises:
            SettingsError: ``measure`` gives nothing, or not the metric asked for.
        """
        values = {name: float(value) for name, value in self.measure(generator).items()}
        metric = self.metric or next(iter(values), "")
        if metric not in values:
            given = ", ".join(values) or "nothing"
            raise SettingsError(f"measure gives {given}, but the best checkpoint is to be chosen by '{metric}'.")
        value = values[metric]
        better = math.isfinite(value) and (best is None or best.metric != metric or value < best.value)
        told = {name: value if math.isfinite(value) else None for name, value in values.items()}
        return told, Best(metric, value, images) if better else best


def periodic_eval(
    config: TrainConfig, measure: Measure | None, eval_every: int | None, best: str
) -> PeriodicEval | None:
    """
    Raises:
        SettingsError: the settings ask for measurements, and there is nothing to measure by.
    """
    if measure:
        return PeriodicEval(measure, config.eval_every or EVERY_IMAGES if eval_every is None else eval_every, best)
    if config.eval_every:
        raise SettingsError(
            f"train.eval_every = {config.eval_every} has nothing to measure by: give facegan.training a measure.\n"
            "The command facegan train has one of its own."
        )
    return None


def write_best(run: Path, best: Best | None) -> None:
    """best.json as it is to be, or none; DiskError where it can't be written."""
    if best:
        write_json(run / BEST, asdict(best))
    else:
        (run / BEST).unlink(missing_ok=True)

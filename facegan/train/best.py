"""Measuring a run on the way, and which checkpoint is its best."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from facegan.errors import SettingsError
from facegan.files import write_json
from facegan.nets import Generator

FILE_NAME = "best.json"
Measure = Callable[[Generator], Mapping[str, float]]


@dataclass(frozen=True)
class Best:
    """The smallest value of the metric so far, and where its checkpoint stands."""

    metric: str
    value: float
    images: int


@dataclass(frozen=True)
class Judge:
    """What is measured, how often, and by which metric the best is chosen: its smallest finite value."""

    measure: Measure
    every_images: int
    metric: str = ""  # "": the first that ``measure`` gives

    def __post_init__(self) -> None:
        if self.every_images < 1:
            raise SettingsError(f"eval_every {self.every_images}: it has to be a number of images from 1 up.")

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


def write_best(run: Path, best: Best | None) -> None:
    """best.json as it is to be, or none; DiskError where it can't be written."""
    if best:
        write_json(run / FILE_NAME, asdict(best))
    else:
        (run / FILE_NAME).unlink(missing_ok=True)

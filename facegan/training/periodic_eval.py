"""Evaluation during a training, and which checkpoint is its best."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from facegan.errors import SettingsError
from facegan.files import write_json
from facegan.nets import Generator
from facegan.run_dir import BEST, Best

EVERY_IMAGES = 50_000  # the default with a measure and no train.eval_every
Measure = Callable[[Generator], Mapping[str, float]]


@runtime_checkable
class ReferenceMetric(Protocol):
    """A `Measure` that compares with a reference and can describe it. Only the main process calls it."""

    def protocol(self) -> Mapping[str, Any]:
        """All that the values depend on, as plain values; ``what`` is a phrase for people.

        Called before the first step, so that problems with the reference show up at the start.
        """
        ...

    def real_vs_real(self) -> Mapping[str, float]:
        """The metrics of real images against other real images."""
        ...


@dataclass(frozen=True)
class PeriodicEval:
    """What is measured, how often, and the metric whose smallest finite value is best."""

    measure: Measure
    every_images: int
    metric: str = ""  # "": the first that ``measure`` returns

    def __post_init__(self) -> None:
        if self.every_images < 1:
            raise SettingsError(f"eval_every {self.every_images} is not a number of images. Choose 1 or more.")

    def reference_row(self, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Protocol and real-vs-real values as a row of stats.jsonl; None where the last such row is the same."""
        if not isinstance(self.measure, ReferenceMetric):
            return None
        protocol = dict(self.measure.protocol())
        before = [row["protocol"] for row in rows if "protocol" in row]
        return None if before[-1:] == [protocol] else {"protocol": protocol, "floor": dict(self.measure.real_vs_real())}

    def evaluate(
        self, generator: Generator, images: int, best: Best | None
    ) -> tuple[dict[str, float | None], Best | None]:
        """All values (None: not finite), and the best so far.

        Raises:
            SettingsError: ``measure`` does not return the metric that chooses the best.
        """
        values = {name: float(value) for name, value in self.measure(generator).items()}
        metric = self.metric or next(iter(values), "")
        if metric not in values:
            raise SettingsError(
                f"The best checkpoint is chosen by '{metric}', but measure returns {', '.join(values) or 'nothing'}."
            )
        value = values[metric]
        is_best = math.isfinite(value) and (best is None or best.metric != metric or value < best.value)
        row = {name: value if math.isfinite(value) else None for name, value in values.items()}
        return row, Best(metric, value, images) if is_best else best


def write_best(run: Path, best: Best | None) -> None:
    """Writes best.json, or removes it; DiskError where that fails."""
    if best:
        write_json(run / BEST, asdict(best))
    else:
        (run / BEST).unlink(missing_ok=True)

"""The stage from a generator to figures: ``[eval]``."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegan.config import EvalConfig
from facegan.console import Console
from facegan.own import Trust
from facegan.recipes.recipe import is_local
from facegan.recipes.seen import look
from facegan.recipes.settings import MeansConfig
from facegan.recipes.to_generator import GENERATOR, drawn_by
from facegan.run_folder import EVALUATION, NEIGHBOURS
from facegan.shards.layout import DATASET_FILE, DatasetInfo

_TOLD = 3  # metrics in the table of stages


@dataclass
class Eval:
    """``[eval]``: the run's generator against real faces, into the run's own folder."""

    run: Path
    shards: str
    means: MeansConfig
    config: EvalConfig
    measured: bool = False  # on the way: the best checkpoint is measured, and not the newest
    trust_code: Trust = False
    name: str = "eval"

    @property
    def where(self) -> str:
        return str(self.run / EVALUATION)

    def inputs(self) -> dict[str, Any]:
        told: dict[str, Any] = {"generator": look(str(self._generator() / GENERATOR)), "faces": self._faces()}
        for name in ("inception_weights", "clip_weights", "statistics"):
            path = getattr(self.means, name)
            told[name] = f"{path} ({look(path)})" if path else ""
        return told | self.config.model_dump(mode="json")

    def outputs(self) -> list[Path]:
        files = [self.run / EVALUATION]
        return [*files, self.run / NEIGHBOURS] if self.config.neighbours else files

    def title(self) -> str:
        best = " --best" if self._generator() != self.run else ""
        return f"facegan eval {self.run} --shards {self.shards}{best}"

    def plan(self) -> str:
        return f"{self.config.n:,} samples against real faces: {', '.join(self.config.asked)}"

    def do(self, console: Console, command: list[str]) -> dict[str, Any]:
        from facegan.recipes.evaluated import measure

        target, trust = self._generator(), self.trust_code
        return measure(target, self.shards, self.config, self.means, console=console, out=self.run, trust_code=trust)[0]

    def tell(self, result: dict[str, Any]) -> str:
        metrics, floors = result["metrics"], result["floors"]
        first = [name for name in self.config.asked if name in metrics][:_TOLD]
        return ", ".join(
            f"{name} {metrics[name]:.3g}" + (f" (real {floors[name]:.3g})" if name in floors else "") for name in first
        )

    def _generator(self) -> Path:
        return drawn_by(self.run, self.measured)

    def _faces(self) -> str:
        """Of a dataset in a folder its sums; of one behind a URL its name."""
        folder = Path(self.shards)
        if not is_local(self.shards) or not (folder / DATASET_FILE).is_file():
            return self.shards
        sums = "".join(shard.sha256 for shard in DatasetInfo.read(folder).shards)
        return hashlib.sha256(sums.encode()).hexdigest()

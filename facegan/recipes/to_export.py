"""The stage from a generator to a folder for other programs: ``[export]``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegan.config import ExportConfig
from facegan.console import Console
from facegan.files import human_bytes
from facegan.own import Trust
from facegan.recipes.seen import look
from facegan.recipes.to_generator import GENERATOR, drawn_by
from facegan.run_folder import EVALUATION


@dataclass
class Export:
    """``[export]``: the run's generator, with its card."""

    run: Path
    folder: Path
    config: ExportConfig
    measured: bool = False  # on the way: the best checkpoint is exported, and not the newest
    trust_code: Trust = False
    name: str = "export"

    @property
    def where(self) -> str:
        return str(self.folder)

    def inputs(self) -> dict[str, Any]:
        """What was measured stands in the card."""
        files = {"generator": self._generator() / GENERATOR, "figures": self.run / EVALUATION}
        return {name: look(str(path)) for name, path in files.items()} | self.config.model_dump(mode="json")

    def outputs(self) -> list[Path]:
        return [self.folder / "config.json"]

    def title(self) -> str:
        return f"facegan export {self._generator()} {self.folder}"

    def plan(self) -> str:
        """The generator may still have to be trained."""
        if self.config.with_onnx:
            from facegan.export.onnx import refuse_missing_packages

            refuse_missing_packages()
        return "the generator is written for other programs, with a model card"

    def do(self, console: Console, command: list[str]) -> dict[str, Any]:
        from facegan.export.write import export_generator

        generator, trust = self._generator(), self.trust_code
        return export_generator(generator, self.folder, self.config, console=console, trust_code=trust).to_json()

    def tell(self, result: dict[str, Any]) -> str:
        return f"{len(result['files'])} files, {human_bytes(sum(result['files'].values()))}"

    def _generator(self) -> Path:
        return drawn_by(self.run, self.measured)

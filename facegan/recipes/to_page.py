"""The stage that makes a page of a run: ``[report]``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegan.console import Console
from facegan.files import human_bytes
from facegan.own import Trust
from facegan.recipes.recipe import Recipe, read_recipe
from facegan.recipes.seen import look
from facegan.recipes.settings import ReportConfig
from facegan.report.target import report_path
from facegan.run_folder import EVALUATION, NEIGHBOURS, RECORD

# What a page shows, and that a later start may have changed.
_SHOWN = (RECORD, "stats.jsonl", "generator.safetensors", EVALUATION, NEIGHBOURS)


@dataclass
class Report:
    """``[report]``: one HTML file, or a folder with a latent explorer."""

    recipe: Recipe
    page: ReportConfig
    run: Path
    to: Path
    trust_code: Trust = False
    name: str = "report"

    @property
    def where(self) -> str:
        return str(self.outputs()[0])

    def inputs(self) -> dict[str, Any]:
        seen = {name: look(str(self.run / name)) for name in _SHOWN if (self.run / name).exists()}
        return {**self.page.model_dump(mode="json"), **seen}

    def outputs(self) -> list[Path]:
        path = report_path(self.to, self.page.explore)
        return [path / "index.html" if self.page.explore else path]

    def title(self) -> str:
        return f"facegan report {self.run}"

    def plan(self) -> str:
        return "a page with a latent explorer is made" if self.page.explore else "a page is made"

    def do(self, console: Console, command: list[str]) -> dict[str, Any]:
        from facegan.recipes.begun import recipe_baseline
        from facegan.report.runs import read_run
        from facegan.report.write import write_report

        run, (page,) = read_run(self.run), self.outputs()
        # As it is written: what --set said is a difference.
        written = read_recipe(self.recipe.name if self.recipe.is_packaged else str(self.recipe.file))
        baseline = recipe_baseline(written, run.record["dataset"]["faces"])
        if self.page.explore:
            from facegan.report.explore import write_explorer

            write_explorer(run, page.parent, baseline, trust_code=self.trust_code)
        else:
            write_report(run, page, baseline)
        return {"bytes": page.stat().st_size}

    def tell(self, result: dict[str, Any]) -> str:
        return f"a page of {human_bytes(result['bytes'])}"

"""Which stages a recipe has, and where in the experiment's folder each of them works."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from facegan.config import EvalConfig, ExportConfig, PrepConfig
from facegan.config.resources import EvalResources, PhotosConfig, ReportConfig
from facegan.console import Console, human_seconds
from facegan.errors import SettingsError
from facegan.files import human_bytes
from facegan.plugins import Trust
from facegan.recipes.fingerprint import fingerprint
from facegan.recipes.recipe import Recipe, is_local, read_recipe
from facegan.recipes.train_stage import GENERATOR, SampleStage, TrainStage, drawn_by
from facegan.report.write import report_path
from facegan.run_dir import EVALUATION, NEIGHBOURS, RECORD
from facegan.shards.format import DATASET_FILE, DatasetInfo

if TYPE_CHECKING:
    from facegan.prep.request import PrepareRequest

# What every stage of an experiment has in common.
#
# Nothing heavy is imported before a stage has work to do: that all is done is found out in a second.


class Stage(Protocol):
    name: str

    @property
    def where(self) -> str:
        """The folder or file that it makes."""
        ...

    def inputs(self) -> dict[str, Any]:
        """All that decides what comes of it, as plain values by name."""
        ...

    def outputs(self) -> list[Path]:
        """Files that have to stay as they are for it to be up to date."""
        ...

    def title(self) -> str:
        """What is being done, as a note before it."""
        ...

    def plan(self) -> str:
        """What would be done, in a few words. Touches nothing; raises what `do` would before it begins."""
        ...

    def do(self, console: Console, command: list[str]) -> dict[str, Any]:
        """What came of it, as plain values."""
        ...

    def tell(self, result: dict[str, Any]) -> str:
        """The result in a few words."""
        ...


# The stage from a generator to a folder for other programs: ``[export]``.


@dataclass
class ExportStage:
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
        return {name: fingerprint(str(path)) for name, path in files.items()} | self.config.model_dump(mode="json")

    def outputs(self) -> list[Path]:
        return [self.folder / "config.json"]

    def title(self) -> str:
        return f"facegan export {self._generator()} {self.folder}"

    def plan(self) -> str:
        """The generator may still have to be trained."""
        if self.config.with_onnx:
            from facegan.export.onnx import require_onnx

            require_onnx()
        return "the generator is written for other programs, with a model card"

    def do(self, console: Console, command: list[str]) -> dict[str, Any]:
        from facegan.export.write import export_generator

        generator, trust = self._generator(), self.trust_code
        return export_generator(generator, self.folder, self.config, console=console, trust_code=trust).to_json()

    def tell(self, result: dict[str, Any]) -> str:
        return f"{len(result['files'])} files, {human_bytes(sum(result['files'].values()))}"

    def _generator(self) -> Path:
        return drawn_by(self.run, self.measured)


# The stages from nothing or photographs to faces: ``portraits:N`` and ``[prep]``.


@dataclass
class DrawStage:
    """``portraits:N``: drawn portraits as the source of an experiment."""

    folder: Path
    count: int
    seed: int
    dataset: Path
    name: str = "draw"

    @property
    def where(self) -> str:
        return str(self.folder)

    def inputs(self) -> dict[str, Any]:
        return {"portraits": self.count, "seed": self.seed}

    def outputs(self) -> list[Path]:
        """Once the dataset stands, nobody needs the portraits."""
        return [] if (self.dataset / DATASET_FILE).is_file() else [self._path(self.count)]

    def title(self) -> str:
        return f"drawing {self.count:,} portraits into {self.folder}"

    def plan(self) -> str:
        return f"{self.count:,} portraits are drawn"

    def do(self, console: Console, command: list[str]) -> dict[str, Any]:
        from facegan.demo import write_portraits

        write_portraits(self.folder, self.count, self.seed)
        return {"portraits": self.count}

    def tell(self, result: dict[str, Any]) -> str:
        return f"{result['portraits']:,} portraits"

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.jpg"


@dataclass
class PrepStage:
    """``[prep]``: photographs to faces."""

    source: str
    drawn: str  # "portraits:500" where the source is one
    out: Path
    photos: PhotosConfig
    config: PrepConfig
    name: str = "prep"

    @property
    def where(self) -> str:
        return str(self.out)

    def inputs(self) -> dict[str, Any]:
        """Photographs that were all deleted are no change: as with those that are gone one by one, their faces stay."""
        told: dict[str, Any] = {"source": self.drawn or self.source, "limit": self.photos.limit}
        told["photographs"] = self.drawn or fingerprint(self.source, leave_out=self.out)
        for name in ("model", "attributes"):
            path = getattr(self.photos, name)
            told[name] = f"{path} ({fingerprint(path)})" if path else ""
        return told | self.config.model_dump(mode="json")

    def outputs(self) -> list[Path]:
        return [self.out / DATASET_FILE]

    def title(self) -> str:
        return f"facegan prep {self.source} {self.out}"

    def plan(self) -> str:
        if self.drawn and not Path(self.source).is_dir():
            return f"the portraits become faces of {self.config.size}×{self.config.size}"
        if self.photos.download and self.source.startswith("torchvision:"):
            name, size = self.source.split(":")[1], self.config.size
            return f"{name} is fetched where it is missing, and becomes faces of {size}×{size}"
        from facegan.prep.prepare import plan_prepare

        plan = plan_prepare(self._request())
        return (
            f"{plan.photos:,} photographs, {plan.new:,} of them new: about {human_seconds(plan.about_seconds)}, "
            f"about {human_bytes(plan.about_bytes)}"
        )

    def do(self, console: Console, command: list[str]) -> dict[str, Any]:
        from facegan.prep.prepare import run_prepare

        return run_prepare(self._request(), console).to_json()

    def _request(self) -> PrepareRequest:
        from facegan.prep.request import PrepareRequest

        return PrepareRequest.of_config(self.out, self.photos.model_copy(update={"source": self.source}), self.config)

    def tell(self, result: dict[str, Any]) -> str:
        kept, photos, faces = result["kept"], result["photos"], result["faces"]
        return f"{kept:,} of {photos:,} photographs kept, {faces:,} faces, {human_bytes(result['bytes'])}"


# The stage from a generator to figures: ``[eval]``.

_TOLD = 3  # metrics in the table of stages


@dataclass
class EvalStage:
    """``[eval]``: the run's generator against real faces, into the run's own folder."""

    run: Path
    shards: str
    resources: EvalResources
    config: EvalConfig
    measured: bool = False  # on the way: the best checkpoint is measured, and not the newest
    trust_code: Trust = False
    name: str = "eval"

    @property
    def where(self) -> str:
        return str(self.run / EVALUATION)

    def inputs(self) -> dict[str, Any]:
        told: dict[str, Any] = {"generator": fingerprint(str(self._generator() / GENERATOR)), "faces": self._faces()}
        for name in ("inception_weights", "clip_weights", "statistics"):
            path = getattr(self.resources, name)
            told[name] = f"{path} ({fingerprint(path)})" if path else ""
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
        from facegan.evaluate.run import evaluate_run

        target, trust = self._generator(), self.trust_code
        return evaluate_run(
            target, self.shards, self.config, self.resources, console=console, out=self.run, trust_code=trust
        )[0]

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


# The stage that makes a page of a run: ``[report]``.

# What a page shows, and that a later start may have changed.
_SHOWN = (RECORD, "stats.jsonl", "generator.safetensors", EVALUATION, NEIGHBOURS)


@dataclass
class ReportStage:
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
        seen = {name: fingerprint(str(self.run / name)) for name in _SHOWN if (self.run / name).exists()}
        return {**self.page.model_dump(mode="json"), **seen}

    def outputs(self) -> list[Path]:
        path = report_path(self.to, self.page.explore)
        return [path / "index.html" if self.page.explore else path]

    def title(self) -> str:
        return f"facegan report {self.run}"

    def plan(self) -> str:
        return "a page with a latent explorer is made" if self.page.explore else "a page is made"

    def do(self, console: Console, command: list[str]) -> dict[str, Any]:
        from facegan.recipes.run import recipe_baseline
        from facegan.report.runs import read_run
        from facegan.report.write import write_report

        run, (page,) = read_run(self.run), self.outputs()
        # As it is written: what --set said is a difference.
        written = read_recipe(self.recipe.name if self.recipe.is_packaged else str(self.recipe.file))
        baseline = recipe_baseline(written, run.record["dataset"]["faces"])
        if self.page.explore:
            from facegan.report.explorer import write_explorer

            write_explorer(run, page.parent, baseline, trust_code=self.trust_code)
        else:
            write_report(run, page, baseline)
        return {"bytes": page.stat().st_size}

    def tell(self, result: dict[str, Any]) -> str:
        return f"a page of {human_bytes(result['bytes'])}"


_MOST_PORTRAITS = 1_000_000


def stages_of(recipe: Recipe, to: Path, trust_code: bool = False) -> list[Stage]:
    """The stages that a recipe has, in their order, with all that they make in ``to``.

    Args:
        trust_code: generators may name nets other than the recipe's own.

    Raises:
        SettingsError: ``portraits:`` with what is no number of them.
    """
    stages: list[Stage] = []
    shards = recipe.faces.shards if recipe.faces else ""
    if recipe.photos and recipe.prep:
        out = Path(recipe.photos.out) if recipe.photos.out else to / "faces"
        photos, source, shards, drawn = recipe.photos, recipe.photos.source, str(out), ""
        if source.startswith("portraits:"):
            drawn, source = source, str(to / "portraits")
            count, seed = _portraits(recipe, drawn)
            # There may lie more of them, of a time when more were asked for.
            photos = photos.model_copy(update={"limit": min(count, photos.limit or count)})
            stages.append(DrawStage(Path(source), count, seed, dataset=out))
        stages.append(PrepStage(source, drawn, out, photos, recipe.prep))
    if recipe.faces:
        stages.append(TrainStage(recipe, recipe.faces, shards, to / "run", trust_code))
        train = recipe.train()
        measured, trust = train.eval_every > 0, trust_code or frozenset({train.nets})
        stages.append(SampleStage(to / "run", to / "samples.png", recipe.faces.device, measured, trust))
        if recipe.eval_resources and recipe.measures:
            stages.append(EvalStage(to / "run", shards, recipe.eval_resources, recipe.measures, measured, trust))
        if recipe.export:
            stages.append(ExportStage(to / "run", to / "export", recipe.export, measured, trust))
        if recipe.page:  # the last one, for it shows what the others made
            stages.append(ReportStage(recipe, recipe.page, to / "run", to, trust))
    return stages


def _portraits(recipe: Recipe, source: str) -> tuple[int, int]:
    found = re.fullmatch(r"portraits:(\d{1,7})(?::(\d{1,18}))?", source, re.ASCII)
    if not found or not 0 < int(found[1]) <= _MOST_PORTRAITS:
        raise SettingsError(
            f"{recipe.line('prep', 'source')}{source}: write portraits:N with a number from 1 to "
            f"{_MOST_PORTRAITS:,}, or portraits:N:SEED."
        )
    return int(found[1]), int(found[2] or 0)

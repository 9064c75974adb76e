"""The stages of a recipe: what each is made from, what it makes, and the one function of another room that it calls.

Nothing heavy is imported before a stage has work to do: a run in which everything is up to date takes a second.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from facegan.config import EvalConfig, ExportConfig, PrepConfig, SampleConfig, Settings
from facegan.config.resources import EvalResources, FacesConfig, PhotosConfig, RecipePaths, ReportConfig, count_or_none
from facegan.console import Console, counted, human_seconds
from facegan.errors import DatasetError, SettingsError
from facegan.files import human_bytes
from facegan.plugins import PIPE, Trust, is_import_path, source_digests
from facegan.recipes.recipe import Recipe, baseline_of_recipe, fingerprint, is_local, read_recipe
from facegan.run_dir import CHECKPOINTS, DATASET_PAGE, EVALUATION, NEIGHBOURS, RECORD, best_images, report_path
from facegan.shards.format import DATASET_FILE, DatasetInfo

if TYPE_CHECKING:
    from facegan.prep.request import PrepareRequest

Values = dict[str, Any]
GENERATOR = "generator.safetensors"
SAMPLES = 64
_METRICS_SHOWN = 3
_MAX_PORTRAITS = 1_000_000
_ON_THE_PAGE = (RECORD, "stats.jsonl", GENERATOR, EVALUATION, NEIGHBOURS)


class Stage(ABC):
    """One stage of a recipe in its output folder ``to``; ``trust_code``: code that files name may run."""

    name: ClassVar[str]
    config_class: ClassVar[type[Settings]]
    makes: ClassVar[str]  # the folder or file that it makes, below ``to``
    output: ClassVar[str] = ""  # the file in that folder which is written last

    def __init__(self, recipe: Recipe, to: Path, trust_code: bool = False) -> None:
        self.recipe, self.to, self.trained, self.trust_code = recipe, to, to / "run", trust_code
        self.config: Any = recipe.settings(self.config_class)

    @property
    def where(self) -> Path:
        return self.to / self.makes

    @abstractmethod
    def inputs(self) -> Values:
        """Everything that decides the result, as plain values by name."""

    def outputs(self) -> list[Path]:
        """Files that must stay as they are for the stage to be up to date."""
        return [self.where / self.output]

    @abstractmethod
    def plan(self) -> str:
        """What it would do, in a few words. Touches nothing; raises what `run` would raise before it starts."""

    @abstractmethod
    def run(self, console: Console, command: list[str]) -> Values:
        """Returns the result as plain values."""

    @abstractmethod
    def summary(self, result: Values) -> str:
        """The result in a few words."""

    @property
    def shards(self) -> str:
        if "prep" not in self.recipe.values:
            return self.recipe.settings(FacesConfig).shards
        return self.recipe.settings(RecipePaths).out or str(self.to / "faces")

    def dataset(self) -> DatasetInfo | None:
        """None for shards that are no dataset in a folder."""
        folder = Path(self.shards)
        return DatasetInfo.read(folder) if is_local(self.shards) and not folder.is_file() else None

    @property
    def generator(self) -> Path:
        """The best checkpoint of a run that was evaluated during training; else the run. Found without torch."""
        best = self.trained / CHECKPOINTS / f"{best_images(self.trained):09d}"
        return best if self.recipe.train().eval_every and (best / GENERATOR).is_file() else self.trained

    @property
    def trust_generator(self) -> Trust:
        return self.trust_code or frozenset({self.recipe.train().nets})


class Prep(Stage):
    """``[prep]``: photographs to faces."""

    name, config_class, output = "prep", PrepConfig, DATASET_FILE
    config: PrepConfig

    def __init__(self, recipe: Recipe, to: Path, trust_code: bool = False) -> None:
        super().__init__(recipe, to, trust_code)
        self.photos, self.portraits = recipe.settings(PhotosConfig), _portraits(recipe)
        self.named = self.source = recipe.settings(RecipePaths).source
        if self.portraits:  # the folder may have more of them, of an earlier run
            count, self.source = self.portraits[0], str(to / "portraits")
            self.photos = self.photos.model_copy(update={"limit": min(count, self.photos.limit or count)})

    @property
    def where(self) -> Path:
        return Path(self.shards)

    def inputs(self) -> Values:
        return {
            "source": self.named,
            **self.photos.model_dump(include={"limit", "missing_attributes"}),
            "photographs": self.named if self.portraits else fingerprint(self.source, leave_out=self.where),
            **_fingerprints(self.photos.model_dump(include={"model", "attributes", "identity", "exclude"})),
            **self.config.model_dump(mode="json"),
        }

    def plan(self) -> str:
        download = self.photos.download and self.source.startswith("torchvision:")
        if download or self.portraits:
            size = f"{self.config.size}×{self.config.size}"
            return f"makes faces of {size} from {self.named}{', downloaded if needed' if download else ''}"
        from facegan.prep.prepare import plan_prepare

        plan = plan_prepare(self._request())
        return (
            f"{counted(plan.photos, 'photograph')}, {plan.new:,} of them new: "
            f"about {human_seconds(plan.about_seconds)}, about {human_bytes(plan.about_bytes)}"
        )

    def run(self, console: Console, command: list[str]) -> Values:
        from facegan.prep.prepare import run_prepare

        if self.portraits:
            from facegan.demo import write_portraits

            write_portraits(Path(self.source), *self.portraits)
        return run_prepare(self._request(), console).to_json()

    def _request(self) -> PrepareRequest:
        from facegan.prep.request import PrepareRequest

        return PrepareRequest(self.source, self.where, self.config, self.photos)

    def summary(self, result: Values) -> str:
        photos, faces = counted(result["photos"], "photograph"), counted(result["faces"], "face")
        return f"{result['kept']:,} of {photos} kept, {faces}, {human_bytes(result['bytes'])}"


class Train(Stage):
    """``[train]``: faces to a generator."""

    name, config_class, makes, output = "train", FacesConfig, "run", GENERATOR
    config: FacesConfig

    def inputs(self) -> Values:
        """Without the settings of saving and logging, which change nothing of a finished training."""
        info, count = self.dataset(), None
        if self.recipe.in_epochs:
            if info is None:
                what = f"{self.shards} is not one. Use images or steps."
                raise SettingsError(f"A length in epochs needs a dataset in a folder, and {what}")
            count = sum(shard.samples for shard in info.split_shards(self.config.split))
            if not count:
                raise DatasetError(f"{self.shards} has no split '{self.config.split}', only {', '.join(info.splits)}.")
        config = self.recipe.train(count)
        code = source_digests({"nets": config.nets, "loss": config.loss})
        return {
            "shards": "" if info else self.shards,
            "faces": _checksums(info, self.config.split) if info else fingerprint(self.shards),
            "split": self.config.split,
            "init": self.config.init,
            **config.model_dump(mode="json", include=set(config.decisive)),
            "images": config.time or config.images,  # a time, whatever number it turns out to be
            **{f"code of {name}": digest["sha256"] for name, digest in code.items()},
        }

    def plan(self) -> str:
        """Faces that do not exist yet are not looked at, and a command is not run."""
        exists = not is_local(self.shards) or (Path(self.shards) / DATASET_FILE).is_file()
        if exists and not self.shards.startswith(PIPE):
            from facegan.training import plan_train

            with contextlib.closing(self._open_faces(Console(quiet=True))[0]) as faces:
                plan_train(self.recipe.train(len(faces)), faces, self.where, **self._options)
        config, in_epochs = self.recipe.train(), "images" in self.recipe.in_epochs
        length = self.recipe.values["train"]["images"] if in_epochs else config.length
        return f"{config.method}, {length}, batch {config.batch}"

    def run(self, console: Console, command: list[str]) -> Values:
        from facegan.evaluate.during_training import training_measure
        from facegan.training import train

        faces, options = self._open_faces(console)
        with contextlib.closing(faces):
            config = self.recipe.train(len(faces))
            return train(
                config,
                faces,
                self.where,
                **self._options,
                console=console,
                dataset=self.shards,
                command=command,
                measure=training_measure(config, faces, self.shards, options),
                trust_code=self.trust_code,
            ).to_json()

    @property
    def _options(self) -> Values:
        return {"device": self.config.device, "init": self.config.init or None, "log": self.config.log}

    def _open_faces(self, console: Console) -> tuple[Any, Any]:
        from facegan import stream

        options = stream.StreamOptions(self.config.cache, count_or_none(self.config.workers))
        return stream.open_faces(self.shards, self.config.split, options, console), options

    def summary(self, result: Values) -> str:
        losses, best = f"losses D {result['loss_d']:.2f}, G {result['loss_g']:.2f}", result.get("best")
        found = f"{result['images']:,} images, {losses}, {result['images_per_second']:,.0f} images/s"
        return found + (f", best {best['metric']} {best['value']:.3g} at {best['images']:,}" if best else "")


class Sample(Stage):
    """A grid of samples."""

    name, config_class, makes = "sample", FacesConfig, "samples.png"
    config: FacesConfig

    def inputs(self) -> Values:
        return {"generator": fingerprint(self.generator / GENERATOR), "samples": SAMPLES, "seed": 0}

    def plan(self) -> str:
        return f"draws {SAMPLES} samples"

    def run(self, console: Console, command: list[str]) -> Values:
        from facegan.sample import SampleRequest, write_grid

        device, trust = self.config.device, self.trust_generator
        write_grid(SampleRequest(self.generator, SampleConfig(n=SAMPLES), device, trust), self.where)
        return {"samples": SAMPLES}

    def summary(self, result: Values) -> str:
        return f"{result['samples']} samples"


class Eval(Stage):
    """``[eval]``: the generator against real faces, into the run's folder."""

    name, config_class, makes = "eval", EvalConfig, f"run/{EVALUATION}"
    config: EvalConfig

    def outputs(self) -> list[Path]:
        return [self.where, *([self.trained / NEIGHBOURS] if self.config.neighbours else [])]

    def inputs(self) -> Values:
        info = self.dataset() if (Path(self.shards) / DATASET_FILE).is_file() else None
        return {
            "generator": fingerprint(self.generator / GENERATOR),
            "faces": _checksums(info) if info else self.shards,
            **_fingerprints(self.recipe.settings(EvalResources).model_dump(exclude={"device"})),
            **self.config.model_dump(mode="json"),
        }

    def plan(self) -> str:
        return f"{self.config.n:,} samples against real faces: {', '.join(self.config.asked)}"

    def run(self, console: Console, command: list[str]) -> Values:
        from facegan.evaluate.run import evaluate_run

        resources, trust = self.recipe.settings(EvalResources), self.trust_generator
        place: Values = {"console": console, "out": self.trained, "trust_code": trust}
        return evaluate_run(self.generator, self.shards, self.config, resources, **place).to_json()

    def summary(self, result: Values) -> str:
        real = {name: f" (real {value:.3g})" for name, value in result["floors"].items()}
        found = {name: result["metrics"][name] for name in self.config.asked if name in result["metrics"]}
        return ", ".join(f"{name} {found[name]:.3g}{real.get(name, '')}" for name in [*found][:_METRICS_SHOWN])


class Export(Stage):
    """``[export]``: the generator, with its card, which shows the metrics."""

    name, config_class, makes, output = "export", ExportConfig, "export", "config.json"
    config: ExportConfig

    def inputs(self) -> Values:
        files = {"generator": self.generator / GENERATOR, "metrics": self.trained / EVALUATION}
        return {name: fingerprint(file) for name, file in files.items()} | self.config.model_dump(mode="json")

    def plan(self) -> str:
        if self.config.with_onnx:
            from facegan.export.onnx import require_onnx

            require_onnx()
        return "writes the generator for other programs, with a model card"

    def run(self, console: Console, command: list[str]) -> Values:
        from facegan.export.write import export_generator

        trust = self.trust_generator
        return export_generator(self.generator, self.where, self.config, console=console, trust_code=trust).to_json()

    def summary(self, result: Values) -> str:
        return f"{len(result['files'])} files, {human_bytes(sum(result['files'].values()))}"


class Report(Stage):
    """``[report]``: one HTML file, or a folder with a latent explorer; and the page of the dataset."""

    name, config_class = "report", ReportConfig
    config: ReportConfig

    @property
    def where(self) -> Path:
        path = report_path(self.to, self.config.explore)
        return path / "index.html" if self.config.explore else path

    def outputs(self) -> list[Path]:
        return [self.where, *([self.to / DATASET_PAGE] if self.dataset() else [])]

    def inputs(self) -> Values:
        files = {name: self.trained / name for name in _ON_THE_PAGE} | {"faces": Path(self.shards) / DATASET_FILE}
        found = {name: fingerprint(file) for name, file in files.items() if file.exists()}
        return {"explore": self.config.explore} | found

    def plan(self) -> str:
        return "makes a page with a latent explorer" if self.config.explore else "makes a page"

    def run(self, console: Console, command: list[str]) -> Values:
        from facegan.report.runs import read_run

        if self.dataset():
            from facegan.report.dataset import write_dataset_page

            write_dataset_page(Path(self.shards), self.to / DATASET_PAGE)
        run = read_run(self.trained)
        written = self.recipe.name if self.recipe.is_packaged else str(self.recipe.file)  # --set is a difference
        baseline = baseline_of_recipe(read_recipe(written), run)
        if self.config.explore:
            from facegan.report.explorer import write_explorer

            write_explorer(run, self.where.parent, baseline, trust_code=self.trust_generator)
        else:
            from facegan.report.write import write_report

            write_report(run, self.where, baseline)
        return {"bytes": self.where.stat().st_size}

    def summary(self, result: Values) -> str:
        return f"a page of {human_bytes(result['bytes'])}"


def stages_of(recipe: Recipe, to: Path, trust_code: bool = False) -> list[Stage]:
    """The stages of a recipe in their order. Raises SettingsError for ``portraits:`` without a number."""
    stages: list[type[Stage]] = [Prep] if "prep" in recipe.values else []
    if "train" in recipe.values:
        others = (stage for stage in (Eval, Export, Report) if stage.name in recipe.values)
        stages += [Train, Sample, *others]  # the page is last: it shows the results of the others
    return [stage(recipe, to, trust_code) for stage in stages]


def refuse_unfit_nets(recipe: Recipe, try_code: bool) -> None:
    """Raise SettingsError if the nets cannot make faces of [prep]'s size or channels, before hours of preparing them.

    ``try_code``: import the user's own nets, too.
    """
    from facegan.nets import find_pair
    from facegan.training.trainer import spec_of

    prep = recipe.settings(PrepConfig)
    with recipe.located("train"):
        config = recipe.train()
        if try_code or not is_import_path(config.nets):
            find_pair(spec_of(config, prep.size, prep.channels))


def _portraits(recipe: Recipe) -> tuple[int, int] | None:
    """Number and seed of portraits to draw as the source; None for photographs."""
    source = recipe.settings(RecipePaths).source
    if not source.startswith("portraits:"):
        return None
    found = re.fullmatch(r"portraits:(\d{1,7})(?::(\d{1,18}))?", source, re.ASCII)
    if not found or not 0 < int(found[1]) <= _MAX_PORTRAITS:
        raise SettingsError(
            f"{recipe.line('prep', 'source')}{source}: write portraits:N with a number from 1 to {_MAX_PORTRAITS:,}, "
            "or portraits:N:SEED."
        )
    return int(found[1]), int(found[2] or 0)


def _checksums(info: DatasetInfo, split: str | None = None) -> str:
    shards = info.split_shards(split) if split else info.shards
    return hashlib.sha256("".join(shard.sha256 for shard in shards).encode()).hexdigest()


def _fingerprints(paths: dict[str, str]) -> dict[str, str]:
    return {name: f"{path} ({fingerprint(path)})" if path else "" for name, path in paths.items()}

"""The stages of a recipe: what each is made from, what it makes, and the one function of another room that it calls.

Nothing heavy is imported before a stage has work to do: a run in which everything is up to date takes a second.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facegan.config import EvalConfig, ExportConfig, PrepConfig, SampleConfig
from facegan.config.resources import EvalResources, FacesConfig, PhotosConfig, RecipePaths, ReportConfig, count_or_none
from facegan.console import Console, human_seconds
from facegan.errors import DamagedFile, DatasetError, SettingsError
from facegan.files import human_bytes, parsing, read_json
from facegan.plugins import PIPE, Trust, is_import_path, source_digests
from facegan.recipes.fingerprint import fingerprint
from facegan.recipes.recipe import Recipe, is_local, read_recipe
from facegan.run_dir import BEST, CHECKPOINTS, EVALUATION, NEIGHBOURS, RECORD, report_path
from facegan.shards.format import DATASET_FILE, DatasetInfo

if TYPE_CHECKING:
    from facegan.prep.request import PrepareRequest

GENERATOR = "generator.safetensors"
SAMPLES = 64
_METRICS_SHOWN = 3
_MAX_PORTRAITS = 1_000_000
_ON_THE_PAGE = (RECORD, "stats.jsonl", GENERATOR, EVALUATION, NEIGHBOURS)


@dataclass(frozen=True)
class Experiment:
    """A recipe and its output folder.

    Attributes:
        trust_code: of modules and commands that files name.
    """

    recipe: Recipe
    to: Path
    trust_code: bool = False

    @property
    def run(self) -> Path:
        return self.to / "run"

    @property
    def portraits(self) -> tuple[int, int] | None:
        """Number and seed of portraits to draw as the source; None for photographs.

        Raises:
            SettingsError: ``portraits:`` without a number.
        """
        source = self.recipe.settings(RecipePaths).source
        if not source.startswith("portraits:"):
            return None
        found = re.fullmatch(r"portraits:(\d{1,7})(?::(\d{1,18}))?", source, re.ASCII)
        if not found or not 0 < int(found[1]) <= _MAX_PORTRAITS:
            raise SettingsError(
                f"{self.recipe.line('prep', 'source')}{source}: write portraits:N with a number from 1 to "
                f"{_MAX_PORTRAITS:,}, or portraits:N:SEED."
            )
        return int(found[1]), int(found[2] or 0)

    @property
    def source(self) -> str:
        return str(self.to / "portraits") if self.portraits else self.recipe.settings(RecipePaths).source

    @property
    def shards(self) -> str:
        if "prep" not in self.recipe.values:
            return self.recipe.settings(FacesConfig).shards
        return self.recipe.settings(RecipePaths).out or str(self.to / "faces")

    @property
    def generator(self) -> Path:
        """The best checkpoint of a run that was evaluated during training; else the run.

        Found without torch, which takes seconds to load: best.json and the names of checkpoints are plain.
        """
        try:
            with parsing(self.run / BEST):
                images = int(read_json(self.run / BEST)["images"])
        except (OSError, DamagedFile):
            return self.run
        checkpoint = self.run / CHECKPOINTS / f"{images:09d}"
        evaluated = self.recipe.train().eval_every > 0
        return checkpoint if evaluated and (checkpoint / GENERATOR).is_file() else self.run

    def generator_fingerprint(self) -> str:
        return fingerprint(str(self.generator / GENERATOR))

    @property
    def trust_generator(self) -> Trust:
        return self.trust_code or frozenset({self.recipe.train().nets})

    def dataset(self) -> DatasetInfo | None:
        """None for shards that are no dataset in a folder."""
        folder = Path(self.shards)
        return DatasetInfo.read(folder) if is_local(self.shards) and not folder.is_file() else None


@dataclass(frozen=True)
class Stage:
    """
    Attributes:
        where: the folder or file that it makes.
        inputs: everything that decides its result, as plain values by name.
        outputs: files that must stay as they are for it to be up to date.
        plan: what it would do, in a few words. Touches nothing; raises what `run` would raise before it starts.
        run: called with the console and the command; returns the result as plain values.
        summary: of a result, in a few words.
    """

    name: str
    where: Path
    inputs: Callable[[], dict[str, Any]]
    outputs: Callable[[], list[Path]]
    plan: Callable[[], str]
    run: Callable[[Console, list[str]], dict[str, Any]]
    summary: Callable[[dict[str, Any]], str]


def stages_of(recipe: Recipe, to: Path, trust_code: bool = False) -> list[Stage]:
    """The stages of a recipe in their order.

    Raises:
        SettingsError: ``portraits:`` without a number.
    """
    experiment, stages = Experiment(recipe, to, trust_code), list[Stage]()
    if "prep" in recipe.values:
        stages += [_draw(experiment, *experiment.portraits)] if experiment.portraits else []
        stages.append(_prep(experiment))
    if "train" in recipe.values:
        stages += [_train(experiment), _sample(experiment)]
        others = {"eval": _eval, "export": _export, "report": _report}  # the page shows the others' results
        stages += [make(experiment) for section, make in others.items() if section in recipe.values]
    return stages


def refuse_unfit_nets(recipe: Recipe, try_code: bool) -> None:
    """
    Args:
        try_code: import the user's own nets, too.

    Raises:
        SettingsError: the nets cannot make faces of [prep]'s size or channels; known before hours of preparing them.
    """
    from facegan.nets import find_pair
    from facegan.training.trainer import spec_of

    prep = recipe.settings(PrepConfig)
    with recipe.located("train"):
        config = recipe.train()
        if try_code or not is_import_path(config.nets):
            find_pair(spec_of(config, prep.size, prep.channels))


def _draw(experiment: Experiment, count: int, seed: int) -> Stage:
    """``portraits:N``: drawn portraits as the source. A complete dataset no longer needs them."""
    folder, dataset = Path(experiment.source), experiment.shards / Path(DATASET_FILE)

    def run(console: Console, command: list[str]) -> dict[str, Any]:
        from facegan.demo import write_portraits

        write_portraits(folder, count, seed)
        return {"portraits": count}

    return Stage(
        "draw",
        folder,
        inputs=lambda: {"portraits": count, "seed": seed},
        outputs=lambda: [] if dataset.is_file() else [folder / f"{count:06d}.jpg"],
        plan=lambda: f"draws {count:,} portraits",
        run=run,
        summary=lambda result: f"{result['portraits']:,} portraits",
    )


def _prep(experiment: Experiment) -> Stage:
    """``[prep]``: photographs to faces."""
    source, out, portraits = experiment.source, Path(experiment.shards), experiment.portraits
    recipe = experiment.recipe
    paths, photos = recipe.settings(RecipePaths), recipe.settings(PhotosConfig)
    config = recipe.settings(PrepConfig)
    if portraits:  # the folder may have more of them, of an earlier run
        photos = photos.model_copy(update={"limit": min(portraits[0], photos.limit or portraits[0])})
    side = f"{config.size}×{config.size}"

    def inputs() -> dict[str, Any]:
        found: dict[str, Any] = {"source": paths.source, "limit": photos.limit}
        found["photographs"] = paths.source if portraits else fingerprint(source, leave_out=out)
        return (
            found | _fingerprints(photos.model_dump(include={"model", "attributes"})) | config.model_dump(mode="json")
        )

    def plan() -> str:
        if portraits and not Path(source).is_dir():
            return f"makes faces of {side} from the portraits"
        if photos.download and source.startswith("torchvision:"):
            return f"downloads {source.split(':')[1]} if needed, and makes faces of {side}"
        from facegan.prep.prepare import plan_prepare

        plan = plan_prepare(request())
        return (
            f"{plan.photos:,} photographs, {plan.new:,} of them new: about {human_seconds(plan.about_seconds)}, "
            f"about {human_bytes(plan.about_bytes)}"
        )

    def run(console: Console, command: list[str]) -> dict[str, Any]:
        from facegan.prep.prepare import run_prepare

        return run_prepare(request(), console).to_json()

    def request() -> PrepareRequest:
        from facegan.prep.request import PrepareRequest

        return PrepareRequest(source, out, config, photos)

    def summary(result: dict[str, Any]) -> str:
        kept, count, faces = result["kept"], result["photos"], result["faces"]
        return f"{kept:,} of {count:,} photographs kept, {faces:,} faces, {human_bytes(result['bytes'])}"

    return Stage("prep", out, inputs, lambda: [out / DATASET_FILE], plan, run, summary)


def _train(experiment: Experiment) -> Stage:
    """``[train]``: faces to a generator."""
    recipe, shards, folder = experiment.recipe, experiment.shards, experiment.run
    source = recipe.settings(FacesConfig)

    def inputs() -> dict[str, Any]:
        """Without the settings of saving and logging, which change nothing of a finished training."""
        info, count = experiment.dataset(), None
        if recipe.in_epochs:
            if info is None:
                raise SettingsError(
                    f"A length in epochs needs a dataset in a folder, and {shards} is not one. Use images or steps."
                )
            count = sum(shard.samples for shard in info.split_shards(source.split))
            if not count:
                raise DatasetError(f"{shards} has no split '{source.split}', only {', '.join(info.splits)}.")
        config = recipe.train(count)
        settings = config.model_dump(mode="json", exclude=set(config.free_on_resume - {"images"}))
        code = source_digests({"nets": config.nets, "loss": config.loss})
        return {
            **({"faces": _checksums(info, source.split)} if info else {"shards": shards, "faces": fingerprint(shards)}),
            "split": source.split,
            "init": source.init,
            **settings,
            **{f"code of {name}": digest["sha256"] for name, digest in code.items()},
        }

    def open_faces(console: Console) -> tuple[closing[Any], Any]:
        from facegan import stream

        options = stream.StreamOptions(source.cache, count_or_none(source.workers))
        return closing(stream.open_faces(shards, source.split, options, console)), options

    def plan() -> str:
        """Faces that do not exist yet are not looked at, and a command is not run."""
        exists = not is_local(shards) or (Path(shards) / DATASET_FILE).is_file()
        if exists and not shards.startswith(PIPE):
            from facegan.training import plan_train

            with open_faces(Console(quiet=True))[0] as faces:
                plan_train(recipe.train(len(faces)), faces, folder, device=source.device, init=source.init or None)
        config = recipe.train()
        length = recipe.values["train"].get("images") if "images" in recipe.in_epochs else f"{config.images:,} images"
        return f"{config.method}, {length}, batch {config.batch}"

    def run(console: Console, command: list[str]) -> dict[str, Any]:
        from facegan.evaluate.during_training import training_measure
        from facegan.training import train

        opened, options = open_faces(console)
        with opened as faces:
            config = recipe.train(len(faces))
            return train(
                config,
                faces,
                folder,
                device=source.device,
                init=source.init or None,
                console=console,
                dataset=shards,
                command=command,
                measure=training_measure(config, faces, shards, options),
                trust_code=experiment.trust_code,
            ).to_json()

    def summary(result: dict[str, Any]) -> str:
        losses, best = f"losses D {result['loss_d']:.2f}, G {result['loss_g']:.2f}", result.get("best")
        found = f"{result['images']:,} images, {losses}, {result['images_per_second']:,.0f} images/s"
        return found + (f", best {best['metric']} {best['value']:.3g} at {best['images']:,}" if best else "")

    return Stage("train", folder, inputs, lambda: [folder / GENERATOR], plan, run, summary)


def _sample(experiment: Experiment) -> Stage:
    """A grid of samples."""
    picture, device = experiment.to / "samples.png", experiment.recipe.settings(FacesConfig).device

    def run(console: Console, command: list[str]) -> dict[str, Any]:
        from facegan.sample import write_grid

        generator, trust = experiment.generator, experiment.trust_generator
        write_grid(generator, picture, SampleConfig(n=SAMPLES), device=device, trust_code=trust)
        return {"samples": SAMPLES}

    return Stage(
        "sample",
        picture,
        inputs=lambda: {"generator": experiment.generator_fingerprint(), "samples": SAMPLES, "seed": 0},
        outputs=lambda: [picture],
        plan=lambda: f"draws {SAMPLES} samples",
        run=run,
        summary=lambda result: f"{result['samples']} samples",
    )


def _eval(experiment: Experiment) -> Stage:
    """``[eval]``: the generator against real faces, into the run's folder."""
    file, shards = experiment.run / EVALUATION, experiment.shards
    config, resources = experiment.recipe.settings(EvalConfig), experiment.recipe.settings(EvalResources)

    def inputs() -> dict[str, Any]:
        info = experiment.dataset() if (Path(shards) / DATASET_FILE).is_file() else None
        found = {"generator": experiment.generator_fingerprint(), "faces": _checksums(info) if info else shards}
        return found | _fingerprints(resources.model_dump(exclude={"device"})) | config.model_dump(mode="json")

    def run(console: Console, command: list[str]) -> dict[str, Any]:
        from facegan.evaluate.run import evaluate_run

        out, trust = experiment.run, experiment.trust_generator
        return evaluate_run(
            experiment.generator, shards, config, resources, console=console, out=out, trust_code=trust
        )[0]

    def summary(result: dict[str, Any]) -> str:
        metrics, floors = result["metrics"], result["floors"]
        names = [name for name in config.asked if name in metrics][:_METRICS_SHOWN]
        real = {name: f" (real {floors[name]:.3g})" if name in floors else "" for name in names}
        return ", ".join(f"{name} {metrics[name]:.3g}{real[name]}" for name in names)

    return Stage(
        "eval",
        file,
        inputs,
        outputs=lambda: [file, *([experiment.run / NEIGHBOURS] if config.neighbours else [])],
        plan=lambda: f"{config.n:,} samples against real faces: {', '.join(config.asked)}",
        run=run,
        summary=summary,
    )


def _export(experiment: Experiment) -> Stage:
    """``[export]``: the generator, with its card, which shows the metrics."""
    folder, config = experiment.to / "export", experiment.recipe.settings(ExportConfig)

    def inputs() -> dict[str, Any]:
        found = {
            "generator": experiment.generator_fingerprint(),
            "figures": fingerprint(str(experiment.run / EVALUATION)),
        }
        return found | config.model_dump(mode="json")

    def plan() -> str:
        if config.with_onnx:
            from facegan.export.onnx import require_onnx

            require_onnx()
        return "writes the generator for other programs, with a model card"

    def run(console: Console, command: list[str]) -> dict[str, Any]:
        from facegan.export.write import export_generator

        generator, trust = experiment.generator, experiment.trust_generator
        return export_generator(generator, folder, config, console=console, trust_code=trust).to_json()

    def summary(result: dict[str, Any]) -> str:
        return f"{len(result['files'])} files, {human_bytes(sum(result['files'].values()))}"

    return Stage("export", folder, inputs, lambda: [folder / "config.json"], plan, run, summary)


def _report(experiment: Experiment) -> Stage:
    """``[report]``: one HTML file, or a folder with a latent explorer."""
    recipe, explore = experiment.recipe, experiment.recipe.settings(ReportConfig).explore
    path = report_path(experiment.to, explore)
    page = path / "index.html" if explore else path

    def inputs() -> dict[str, Any]:
        files = {name: experiment.run / name for name in _ON_THE_PAGE}
        return {"explore": explore} | {name: fingerprint(str(file)) for name, file in files.items() if file.exists()}

    def run(console: Console, command: list[str]) -> dict[str, Any]:
        from facegan.recipes.baseline import recipe_baseline
        from facegan.report.runs import read_run
        from facegan.report.write import write_report

        trained = read_run(experiment.run)
        written = read_recipe(recipe.name if recipe.is_packaged else str(recipe.file))  # --set is a difference
        baseline = recipe_baseline(written, trained.record["dataset"]["faces"])
        if explore:
            from facegan.report.explorer import write_explorer

            write_explorer(trained, path, baseline, trust_code=experiment.trust_generator)
        else:
            write_report(trained, page, baseline)
        return {"bytes": page.stat().st_size}

    return Stage(
        "report",
        page,
        inputs,
        outputs=lambda: [page],
        plan=lambda: "makes a page with a latent explorer" if explore else "makes a page",
        run=run,
        summary=lambda result: f"a page of {human_bytes(result['bytes'])}",
    )


def _checksums(info: DatasetInfo, split: str | None = None) -> str:
    shards = info.split_shards(split) if split else info.shards
    return hashlib.sha256("".join(shard.sha256 for shard in shards).encode()).hexdigest()


def _fingerprints(paths: dict[str, str]) -> dict[str, str]:
    return {name: f"{path} ({fingerprint(path)})" if path else "" for name, path in paths.items()}

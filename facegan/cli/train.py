"""``facegan train``: dataset → generator."""

from __future__ import annotations

import re
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facegan.cli.options import DryRun, Json, Overrides, Quiet, RecipeFile, TrustCode, options, resolved, warn_not_tried
from facegan.config import TrainConfig
from facegan.config.base import not_available
from facegan.config.resources import FacesConfig, count_or_none
from facegan.console import Console, print_json, print_result
from facegan.errors import SettingsError
from facegan.plugins import PIPE, runs_code
from facegan.remote import is_url, without_query

if TYPE_CHECKING:
    from facegan.stream import StreamOptions

RESUME = ("auto", "never")


@options(FacesConfig, TrainConfig)
def train(
    overrides: Overrides,
    run: Annotated[
        Path | None, typer.Option("--run", help="The run's folder. \\[default: runs/METHOD-DATASET]")
    ] = None,
    resume: Annotated[
        str, typer.Option("--resume", help="auto: resume an existing run; never: move it aside and start from scratch.")
    ] = "auto",
    verify_shards: Annotated[
        bool, typer.Option("--verify-shards", help="Check the checksum of every shard first.")
    ] = False,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Skip shards and images that are missing or damaged.")
    ] = False,
    trust_code: TrustCode = False,
    recipe: RecipeFile = None,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Train a GAN on a dataset: samples, curves and checkpoints go into the run's folder.

    After Ctrl-C or a crash the same command resumes, to the same weights as an uninterrupted run.
    """
    if resume not in RESUME:
        raise SettingsError(not_available("--resume", resume, RESUME))
    from facegan.stream import StreamOptions, open_faces

    with resolved("train", overrides, recipe, trust_code or dry_run) as values:
        source = FacesConfig.pop_from(values)
        if not source.shards:
            raise SettingsError("facegan train needs faces. Name a dataset of facegan prep with --shards OUT.")
        stream = StreamOptions(source.cache, count_or_none(source.workers), skip_broken, verify_shards)
        not_run = dry_run and source.shards.startswith(PIPE)
        in_epochs = TrainConfig.lengths_in_epochs(values)
        config = TrainConfig.resolve(values, _count_faces(source, stream, not_run) if in_epochs else None)
    run = run or Path("runs") / f"{config.method}-{_name(source.shards)}"
    if not_run:
        code = list(filter(runs_code, (source.shards, config.nets, config.loss)))
        plan = {"run": str(run), "from_images": 0, **config.model_dump(), "not_tried": code}
        _print_plan(plan, json, f"Would train {config.method} in {run}: {config.images:,} images.")
        return
    from facegan.evaluate.during_training import training_measure
    from facegan.training import plan_train
    from facegan.training import train as train_on
    from facegan.training.distributed import is_main_process
    from facegan.training.run import sentence_of

    console = Console(quiet=quiet or not is_main_process())
    with closing(open_faces(source.shards, source.split, stream, console)) as faces:
        if dry_run:
            plan = plan_train(config, faces, run, device=source.device, resume=resume, init=source.init or None)
            sentence, advice = ("", "") if json else sentence_of(plan, config, faces)
            _print_plan(plan, json, sentence, advice)
            return
        result = train_on(
            config,
            faces,
            run,
            device=source.device,
            resume=resume,
            init=source.init or None,
            console=console,
            dataset=source.shards,
            command=["facegan", *sys.argv[1:]],
            measure=training_measure(config, faces, source.shards, replace(stream, verify=False)),
            trust_code=trust_code,
        )
    if not is_main_process():
        return
    if json:
        print_json(result.to_json())
        return
    print_result(
        f"{result.images:,} images, {result.images_per_second:,.0f} images/s",
        f"{result.run}  (look at {result.run}/samples and {result.run}/losses.png, "
        f"then: facegan sample {result.run} --out grid.png)",
    )


def _count_faces(source: FacesConfig, stream: StreamOptions, not_run: bool) -> int:
    if not_run:
        raise SettingsError(
            f"--dry-run does not run {source.shards}, so the length of an epoch is unknown. Use images instead."
        )
    from facegan.stream import open_faces

    with closing(open_faces(source.shards, source.split, replace(stream, verify=False))) as faces:
        return len(faces)


def _print_plan(plan: dict[str, Any], json: bool, sentence: str, advice: str = "") -> None:
    warn_not_tried(plan["not_tried"])
    if json:
        print_json(plan)
        return
    print_result(sentence)
    if advice:
        Console().note(advice)


def _name(shards: str) -> str:
    """The last part of a path or URL, as the name of a run's folder."""
    if shards.startswith(PIPE):
        return "pipe"
    last = without_query(shards).rstrip("/").rpartition("/")[2] if is_url(shards) else Path(shards).resolve().name
    return re.sub(r"[^\w.-]+", "_", last.removesuffix(".tar")).strip("_") or "faces"

"""``facegan train``: dataset → generator."""

from __future__ import annotations

import re
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from facegan.cli.options import Flags, Overrides, options, warn_not_tried
from facegan.config import TrainConfig
from facegan.config.resources import FacesConfig, count_or_none
from facegan.console import Console
from facegan.errors import SettingsError
from facegan.plugins import PIPE, runs_code
from facegan.remote import is_url, without_query


@options(FacesConfig, TrainConfig, flags="trust_code recipe sets json dry_run quiet")
def train(
    flags: Flags,
    overrides: Overrides,
    run: Annotated[Path | None, typer.Option("--run", help="The run's folder. [default: runs/METHOD-DATASET]")] = None,
    resume: Annotated[
        Literal["auto", "never"],
        typer.Option("--resume", help="auto: resume an existing run; never: move it aside and start from scratch."),
    ] = "auto",
    verify_shards: Annotated[
        bool, typer.Option("--verify-shards", help="Check the checksum of every shard first.")
    ] = False,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Skip shards and images that are missing or damaged.")
    ] = False,
) -> None:
    """Train a GAN on a dataset: samples, curves and checkpoints go into the run's folder.

    After Ctrl-C or a crash the same command resumes, to the same weights as an uninterrupted run.

    Example: facegan train --shards out/ --method wgan-gp --images 1M --eval-every 50k
    """
    from facegan.stream import StreamOptions, open_faces

    with flags.resolved("train", overrides) as values:
        source = FacesConfig.pop_from(values)
        if not source.shards:
            raise SettingsError("facegan train needs faces. Name a dataset of facegan prep with --shards OUT.")
        stream = StreamOptions(source.cache, count_or_none(source.workers), skip_broken, verify_shards)
        not_run = flags.dry_run and source.shards.startswith(PIPE)
        count = None
        if TrainConfig.lengths_in_epochs(values):
            if not_run:
                why = f"--dry-run does not run {source.shards}, so the length of an epoch is unknown."
                raise SettingsError(f"{why} Use images instead.")
            with closing(open_faces(source.shards, source.split, replace(stream, verify=False))) as faces:
                count = len(faces)
        config = TrainConfig.of(values, faces=count)
    run = run or Path("runs") / f"{config.method}-{_name(source.shards)}"
    if not_run:
        code = list(filter(runs_code, (source.shards, config.nets, config.loss)))
        plan = {"run": str(run), "from_images": 0, **config.model_dump(), **config.unmeasured, "not_tried": code}
        _print_plan(flags, plan, f"Would train {config.method} in {run}: {config.length}.")
        return
    from facegan.evaluate.during_training import training_measure
    from facegan.training import plan_train
    from facegan.training import train as train_on
    from facegan.training.distributed import is_main_process
    from facegan.training.run import sentence_of

    console = Console(quiet=flags.quiet or not is_main_process())
    with closing(open_faces(source.shards, source.split, stream, console)) as faces:
        options: dict[str, Any] = {"device": source.device, "init": source.init or None, "log": source.log}
        if flags.dry_run:
            plan = plan_train(config, faces, run, resume=resume, **options)
            sentence, advice = ("", "") if flags.json else sentence_of(plan, config, faces)
            _print_plan(flags, plan, sentence, advice)
            return
        result = train_on(
            config,
            faces,
            run,
            **options,
            resume=resume,
            console=console,
            dataset=source.shards,
            command=["facegan", *sys.argv[1:]],
            measure=training_measure(config, faces, source.shards, replace(stream, verify=False)),
            trust_code=flags.trust_code,
        )
    if is_main_process():
        flags.output(
            result.to_json(),
            f"{result.images:,} images, {result.images_per_second:,.0f} images/s",
            f"{result.run}  (look at {result.run}/samples and {result.run}/losses.png, "
            f"then: facegan sample {result.run} --out grid.png)",
        )


def _print_plan(flags: Flags, plan: dict[str, Any], sentence: str, advice: str = "") -> None:
    warn_not_tried(plan["not_tried"])
    flags.output(plan, sentence)
    if advice:
        Console().note(advice)


def _name(shards: str) -> str:
    """The last part of a path or URL, as the name of a run's folder."""
    if shards.startswith(PIPE):
        return "pipe"
    last = without_query(shards).rstrip("/").rpartition("/")[2] if is_url(shards) else Path(shards).resolve().name
    return re.sub(r"[^\w.-]+", "_", last.removesuffix(".tar")).strip("_") or "faces"

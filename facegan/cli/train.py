"""``facegan train``: dataset → generator."""

from __future__ import annotations

import re
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from facegan.cli.options import (
    Debug,
    Device,
    DryRun,
    Json,
    Quiet,
    RecipeFile,
    Set,
    TrustCode,
    explicit_options,
    make_console,
    merge_overrides,
    say_not_tried,
    setting,
    whole_number,
)
from facegan.config import TrainConfig
from facegan.console import Console, print_json, print_result
from facegan.errors import SettingsError, one_of, suggest
from facegan.plugins import PIPE, runs_code
from facegan.remote import is_url, without_query

RESUME = ("auto", "never")


def train(
    context: typer.Context,
    shards: Annotated[
        str,
        typer.Option(
            "--shards",
            show_default=False,
            help="A dataset that facegan prep wrote: its folder or URL. Or tar files, or pipe:COMMAND.",
        ),
    ] = "",
    split: Annotated[str, typer.Option("--split", help="Which part of the dataset.")] = "train",
    run: Annotated[
        Path | None, typer.Option("--run", help="The run's folder. \\[default: runs/METHOD-DATASET]")
    ] = None,
    method: Annotated[str, setting(TrainConfig, "method")] = TrainConfig.default("method"),
    images: Annotated[str, setting(TrainConfig, "images")] = str(TrainConfig.default("images")),
    batch: Annotated[int | None, setting(TrainConfig, "batch", by_method=True)] = None,
    precision: Annotated[str, setting(TrainConfig, "precision")] = TrainConfig.default("precision"),
    device: Device = "auto",
    seed: Annotated[int, setting(TrainConfig, "seed")] = TrainConfig.default("seed"),
    resume: Annotated[
        str,
        typer.Option("--resume", help="auto: go on with a run that exists; never: begin anew, the old one set aside."),
    ] = "auto",
    init: Annotated[
        Path | None,
        typer.Option("--init", help="Start a new run from trained weights: a generator's file, a checkpoint or a run."),
    ] = None,
    save_every: Annotated[str, setting(TrainConfig, "save_every")] = str(TrainConfig.default("save_every")),
    sample_every: Annotated[str, setting(TrainConfig, "sample_every")] = str(TrainConfig.default("sample_every")),
    log_every: Annotated[str, setting(TrainConfig, "log_every")] = str(TrainConfig.default("log_every")),
    eval_every: Annotated[str, setting(TrainConfig, "eval_every")] = str(TrainConfig.default("eval_every")),
    keep: Annotated[int, setting(TrainConfig, "keep")] = TrainConfig.default("keep"),
    cache: Annotated[
        str,
        typer.Option("--cache", help="Where decoded faces stay: auto, gpu, ram, disk or off. It changes no result."),
    ] = "auto",
    workers: Annotated[
        str, typer.Option("--workers", help="Threads that decode: auto (all CPUs) or a number.")
    ] = "auto",
    verify_shards: Annotated[
        bool, typer.Option("--verify-shards", help="Compare the checksum of every shard first.")
    ] = False,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Go on without shards and images that can't be had or read.")
    ] = False,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help=TrainConfig.describe("deterministic"))
    ] = TrainConfig.default("deterministic"),
    no_graphs: Annotated[bool, typer.Option("--no-graphs", help="Never record rounds as CUDA graphs.")] = False,
    trust_code: TrustCode = False,
    recipe: RecipeFile = None,
    sets: Set = None,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a GAN on a dataset: samples, curves and checkpoints go into the run's folder.

    Stopped (Ctrl-C, a crash), the same command goes on, to the same weights as if it had never stopped.
    """
    from facegan.config.resources import names_of
    from facegan.recipes.resolve import train_settings

    options = explicit_options(context, names_of("train")) | ({"graphs": False} if no_graphs else {})
    means, read = train_settings(options, merge_overrides(TrainConfig, sets), recipe, trust_code=trust_code or dry_run)
    shards = means.shards
    if not shards:
        raise SettingsError("facegan train needs faces: name a dataset of facegan prep with --shards OUT.")
    threads = whole_number(means.workers, "--workers")
    from facegan.stream import StreamOptions, open_faces

    stream = StreamOptions(means.cache, threads, skip_broken, verify_shards)
    count = None
    not_run = dry_run and shards.startswith(PIPE)
    if read.in_epochs and not_run:
        raise SettingsError(f"--dry-run does not run {shards}, and a length in epochs counts its faces: use images.")
    if read.in_epochs:
        with closing(open_faces(shards, means.split, replace(stream, verify=False))) as faces:
            count = len(faces)
    config = read.train(count)
    if resume not in RESUME:
        raise SettingsError(f"--resume {resume} is not offered: choose {one_of(RESUME)}.{suggest(resume, RESUME)}")
    run = run or Path("runs") / f"{config.method}-{_name(shards)}"
    if not_run:
        code = list(filter(runs_code, (shards, config.nets, config.loss)))
        plan = {"run": str(run), "from_images": 0, **config.model_dump(), "not_tried": code}
        _print_plan(plan, json, f"Would train {config.method} in {run}: {config.images:,} images.")
        return
    from facegan.evaluate.during_training import training_measure
    from facegan.training import plan_train
    from facegan.training import train as train_on
    from facegan.training.distributed import is_main_process
    from facegan.training.run import sentence_of

    console = make_console(quiet or not is_main_process())
    with closing(open_faces(shards, means.split, stream, console)) as faces:
        if dry_run:
            plan = plan_train(config, faces, run, device=means.device, resume=resume, init=means.init or None)
            sentence, advice = ("", "") if json else sentence_of(plan, config, faces)
            _print_plan(plan, json, sentence, advice)
            return
        command = ["facegan", *sys.argv[1:]]
        result = train_on(
            config,
            faces,
            run,
            device=means.device,
            resume=resume,
            init=means.init or None,
            console=console,
            dataset=shards,
            command=command,
            measure=training_measure(config, faces, shards, replace(stream, verify=False)),
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


def _print_plan(plan: dict[str, Any], json: bool, sentence: str, advice: str = "") -> None:
    say_not_tried(plan["not_tried"])
    if json:
        print_json(plan)
    else:
        print_result(sentence)
        if advice:
            Console().note(advice)


def _name(shards: str) -> str:
    """The last part of a path or URL, as the name of a run's folder."""
    if shards.startswith(PIPE):
        return "pipe"
    last = without_query(shards).rstrip("/").rpartition("/")[2] if is_url(shards) else Path(shards).resolve().name
    return re.sub(r"[^\w.-]+", "_", last.removesuffix(".tar")).strip("_") or "faces"

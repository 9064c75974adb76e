"""``facegan train``: dataset → generator."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from facegan.cli.options import Debug, Device, DryRun, Json, Quiet, Set, console_of, given, setting
from facegan.config import TrainConfig
from facegan.console import print_json, print_result
from facegan.errors import SettingsError, one_of, suggest
from facegan.lengths import in_epochs

RESUME = ("auto", "never")


def train(
    shards: Annotated[Path, typer.Option("--shards", help="A dataset: a folder that facegan prep wrote.")],
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
    keep: Annotated[int, setting(TrainConfig, "keep")] = TrainConfig.default("keep"),
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help=TrainConfig.describe("deterministic"))
    ] = TrainConfig.default("deterministic"),
    no_graphs: Annotated[bool, typer.Option("--no-graphs", help="Never record rounds as CUDA graphs.")] = False,
    sets: Set = None,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a GAN on a dataset: samples, curves and checkpoints go into the run's folder.

    Stopped (Ctrl-C, a crash), the same command goes on, to the same weights as if it had never stopped.
    """
    values = given(
        TrainConfig,
        sets,
        images=images,
        batch=batch,
        precision=precision,
        seed=seed,
        save_every=save_every,
        sample_every=sample_every,
        log_every=log_every,
        keep=keep,
        deterministic=deterministic or None,
        graphs=False if no_graphs else None,
    )
    method = values.pop("method", method)
    count = None
    if any(map(in_epochs, values.values())):
        from facegan.stream import FaceShards

        count = len(FaceShards(shards, split))
    config = TrainConfig.for_method(method, faces=count, **values)
    if resume not in RESUME:
        raise SettingsError(f"--resume {resume} is not offered: choose {one_of(RESUME)}.{suggest(resume, RESUME)}")
    run = run or Path("runs") / f"{config.method}-{shards.resolve().name}"
    from facegan.stream import FaceShards
    from facegan.train import plan_train
    from facegan.train import train as train_on
    from facegan.train.ranks import first_of_processes

    faces = FaceShards(shards, split)
    console = console_of(quiet)
    if dry_run:
        plan = plan_train(config, faces, run, device=device, resume=resume, init=init)
        if json:
            print_json(plan)
        else:
            print_result("\n".join(f"{name} = {value}" for name, value in plan.items()))
        return
    command = ["facegan", *sys.argv[1:]]
    result = train_on(
        config,
        faces,
        run,
        device=device,
        resume=resume,
        init=init,
        console=console,
        dataset=str(shards),
        command=command,
    )
    if not first_of_processes():
        return
    if json:
        print_json(result.to_json())
        return
    print_result(
        f"{result.images:,} images, {result.images_per_second:,.0f} images/s\n"
        f"{result.run}  (look at {result.run}/samples and {result.run}/losses.png, "
        f"then: facegan sample {result.run} --out grid.png)"
    )

"""``facegan eval``: a generator, or any folder of images, against real faces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facegan.cli.options import (
    Best,
    DryRun,
    Json,
    Overrides,
    Quiet,
    RecipeFile,
    TrustCode,
    options,
    resolved,
    warn_not_tried,
)
from facegan.config import EvalConfig
from facegan.config.resources import EvalResources
from facegan.console import Console, print_json, print_result, print_table
from facegan.errors import SettingsError
from facegan.run_dir import EVALUATION


@options(EvalConfig, EvalResources)
def eval(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|FOLDER|GENERATOR",
            help="A run, a checkpoint, a generator.safetensors, or a folder of images from any program.",
            show_default=False,
        ),
    ],
    overrides: Overrides,
    shards: Annotated[
        str, typer.Option("--shards", show_default=False, help="Real faces: a dataset that facegan prep wrote.")
    ] = "",
    best: Best = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="A folder for eval.json and neighbours.png. \\[default: the run's]")
    ] = None,
    trust_code: TrustCode = False,
    recipe: RecipeFile = None,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Measure how close a generator's samples, or a folder's images, are to real faces.

    Every value comes with that of real faces against real faces. An unavailable metric is skipped, with the reason.
    For a run the result is saved as eval.json, with the samples' nearest faces as neighbours.png.
    """
    with resolved("eval", overrides, recipe, trust_code or dry_run) as values:
        resources, config = EvalResources.pop_from(values), EvalConfig.pop_from(values)
    if not shards:
        raise SettingsError("facegan eval needs real faces. Name a dataset of facegan prep with --shards OUT.")
    from facegan.evaluate.run import evaluate_run, plan

    if best:
        if target.is_file():
            raise SettingsError(f"--best needs a run, and {target} is a file. Leave --best out.")
        if target.is_dir():  # a missing one is an error below
            from facegan.sample import best_of

            target, out = best_of(target), out or target
    if dry_run:
        planned = plan(target, shards, config)
        warn_not_tried(planned["not_tried"])
        if json:
            print_json(planned)
        else:
            print_result(*(f"{name} = {value}" for name, value in planned.items()))
        return
    record, found = evaluate_run(
        target, shards, config, resources, console=Console(quiet=quiet), out=out, trust_code=trust_code
    )
    if json:
        print_json(record)
        return
    print_table(["metric", "value", "better", "real faces", "beside them", "what it is"], found.rows())
    if "neighbours" in record:
        print_result(f"{Path(record['neighbours']).with_name(EVALUATION)}  (and look at {record['neighbours']})")

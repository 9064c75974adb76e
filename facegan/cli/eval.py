"""``facegan eval``: a generator, or any folder of images, against real faces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
)
from facegan.config import EvalConfig
from facegan.console import print_json, print_result, print_table
from facegan.errors import SettingsError


def eval(
    context: typer.Context,
    target: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|FOLDER|GENERATOR",
            help="A run, a checkpoint, a generator.safetensors, or a folder of images that any program made.",
            show_default=False,
        ),
    ],
    shards: Annotated[
        str, typer.Option("--shards", show_default=False, help="Real faces: a dataset that facegan prep wrote.")
    ] = "",
    split: Annotated[str, setting(EvalConfig, "split")] = EvalConfig.default("split"),
    n: Annotated[int, setting(EvalConfig, "n")] = EvalConfig.default("n"),
    metrics: Annotated[str, setting(EvalConfig, "metrics")] = EvalConfig.default("metrics"),
    inception_weights: Annotated[
        Path | None,
        typer.Option(
            "--inception-weights",
            help="Weights for fid, kid, inception_score, precision and recall: torch-fidelity's file, or a "
            ".safetensors of its tensors. \\[default: looked for, and fetched once]",
        ),
    ] = None,
    clip_weights: Annotated[
        Path | None,
        typer.Option(
            "--clip-weights",
            help="Weights for fid_clip and kid_clip: a .safetensors as OpenCLIP publishes OpenAI's. \\[default: looked "
            "for, and fetched once (605 MB) where --metrics names them]",
        ),
    ] = None,
    statistics: Annotated[
        Path | None, typer.Option("--statistics", help="An .npz with mu and sigma of others, that the FID is to.")
    ] = None,
    seed: Annotated[int, setting(EvalConfig, "seed")] = EvalConfig.default("seed"),
    best: Annotated[
        bool, typer.Option("--best", help="The best checkpoint of a run that was measured on the way.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="A folder for eval.json and neighbours.png. \\[default: of a run its own]"),
    ] = None,
    device: Device = "auto",
    trust_code: TrustCode = False,
    recipe: RecipeFile = None,
    sets: Set = None,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure how near a generator's samples, or a folder's images, come to real faces.

    Beside every value stands what real faces come to among themselves. A metric that can't be had is left out, with
    the reason. Of a run the result is kept as eval.json, with the samples' nearest faces as neighbours.png.
    """
    from facegan.config.resources import names_of
    from facegan.evaluate.run import evaluate_run, plan
    from facegan.recipes.resolve import eval_settings
    from facegan.run_dir import EVALUATION

    resources, config = eval_settings(
        explicit_options(context, names_of("eval")), merge_overrides(EvalConfig, sets), recipe
    )
    if not shards:
        raise SettingsError("facegan eval needs real faces: name a dataset of facegan prep with --shards OUT.")
    if best:
        if target.is_file():
            raise SettingsError(f"--best is of a run, and {target} is a file: leave it out.")
        if target.is_dir():  # else it is told below that there is none
            from facegan.sample import best_of

            target, out = best_of(target), out or target
    if dry_run:
        told = plan(target, shards, config)
        say_not_tried(told["not_tried"])
        if json:
            print_json(told)
        else:
            print_result(*(f"{name} = {value}" for name, value in told.items()))
        return
    told, found = evaluate_run(
        target, shards, config, resources, console=make_console(quiet), out=out, trust_code=trust_code
    )
    if json:
        print_json(told)
        return
    print_table(["metric", "value", "better", "real faces", "beside them", "what it is"], found.rows())
    if "neighbours" in told:
        print_result(f"{Path(told['neighbours']).with_name(EVALUATION)}  (and look at {told['neighbours']})")

"""``facegan export``: a generator for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facegan.cli.options import (
    Debug,
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
from facegan.config import ExportConfig
from facegan.console import print_json, print_result, print_table
from facegan.errors import SettingsError


def export(
    context: typer.Context,
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run's folder, one of its checkpoints, or a generator.safetensors.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write.")],
    onnx: Annotated[bool, setting(ExportConfig, "onnx")] = False,
    fp16: Annotated[bool, setting(ExportConfig, "fp16")] = False,
    int8: Annotated[bool, setting(ExportConfig, "int8")] = False,
    best: Annotated[
        bool, typer.Option("--best", help="The best checkpoint of a run that was measured on the way.")
    ] = False,
    push: Annotated[
        str | None,
        typer.Option(
            "--push",
            metavar="NAMESPACE/NAME",
            help="Upload it to the Hugging Face Hub, with your own login; a new repository is private.",
        ),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="A new repository of --push is public.")] = False,
    trust_code: TrustCode = False,
    recipe: RecipeFile = None,
    sets: Set = None,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a generator for other programs: weights, graphs, samples, and a model card.

    The card tells how to draw without facegan, what it was trained on and under which terms, and what was measured.
    """
    from facegan.recipes.resolve import export_settings

    config = export_settings(
        explicit_options(context, ExportConfig.model_fields), merge_overrides(ExportConfig, sets), recipe
    )
    if public and not push:
        raise SettingsError("--public is for --push NAMESPACE/NAME: nothing is published without it.")
    if best:
        from facegan.sample import best_of

        run = best_of(run)
    from facegan.export.write import export_generator, plan_export

    names = plan_export(run, folder, config)
    if dry_run:
        from facegan.nets.weights import read_generator

        code = say_not_tried([read_generator(run)[2].name])
        what = f"{', '.join(names)} of {run} would be written into {folder}"
        plan = {"run": str(run), "out": str(folder), "files": names, "push": push, "not_tried": code}
        print_json(plan) if json else print_result(what + (f", and uploaded to {push}" if push else ""))
        return
    from facegan.export import hub

    push = hub.check_login(push) if push is not None else None
    exported = export_generator(run, folder, config, console=make_console(quiet), trust_code=trust_code)
    told = exported.to_json()
    if push:
        told["pushed"] = hub.push(folder, push, public=public)
    if json:
        print_json(told)
        return
    print_table(["file", "size", "difference from PyTorch"], exported.rows())
    print_result(f"{folder}  (look at {folder / 'README.md'})")
    if push:
        print_result(str(told["pushed"]))

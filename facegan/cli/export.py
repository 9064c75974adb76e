"""``facegan export``: a generator for other programs."""

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
from facegan.config import ExportConfig
from facegan.console import Console, print_json, print_result, print_table
from facegan.errors import SettingsError


@options(ExportConfig)
def export(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run's folder, one of its checkpoints, or a generator.safetensors.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The output folder.")],
    overrides: Overrides,
    best: Best = False,
    push: Annotated[
        str | None,
        typer.Option(
            "--push",
            metavar="NAMESPACE/NAME",
            help="Upload it to the Hugging Face Hub with your login; a new repository is private.",
        ),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository of --push public.")] = False,
    trust_code: TrustCode = False,
    recipe: RecipeFile = None,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Write a generator for other programs: weights, graphs, samples, and a model card.

    The card says how to draw without facegan, names the training data and its terms, and lists the metrics.
    """
    with resolved("export", overrides, recipe, trust_code) as values:
        config = ExportConfig.of(values)
    if public and not push:
        raise SettingsError("--public needs --push NAMESPACE/NAME. Nothing is published without it.")
    if best:
        from facegan.sample import best_of

        run = best_of(run)
    from facegan.export.write import export_generator, plan_export

    names = plan_export(run, folder, config)
    if dry_run:
        from facegan.nets.weights import read_generator

        code = warn_not_tried([read_generator(run)[2].name])
        what = f"{', '.join(names)} of {run} would be written to {folder}"
        plan = {"run": str(run), "out": str(folder), "files": names, "push": push, "not_tried": code}
        print_json(plan) if json else print_result(what + (f", and uploaded to {push}" if push else ""))
        return
    from facegan.export import hub

    push = hub.check_login(push) if push is not None else None
    exported = export_generator(run, folder, config, console=Console(quiet=quiet), trust_code=trust_code)
    found = exported.to_json()
    if push:
        found["pushed"] = hub.push(folder, push, public=public)
    if json:
        print_json(found)
        return
    print_table(["file", "size", "difference from PyTorch"], exported.rows())
    print_result(f"{folder}  (look at {folder / 'README.md'})")
    if push:
        print_result(str(found["pushed"]))

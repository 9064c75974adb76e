"""``facegan run``: a whole experiment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from facegan.cli.options import (
    Debug,
    DryRun,
    Json,
    Quiet,
    Set,
    TrustCode,
    make_console,
    parse_set_options,
    say_not_tried,
)
from facegan.cli.recipes import Recipe
from facegan.console import print_json, print_table


def run(
    recipe: Recipe,
    sets: Set = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="The folder of all that is made. \\[default: runs/RECIPE]")
    ] = None,
    trust_code: TrustCode = False,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run the stages of a recipe that are not up to date: photographs → faces → a trained generator → samples.

    Stopped (Ctrl-C, a crash), the same command goes on; where nothing has changed it does nothing.
    """
    from facegan.recipes.recipe import read_recipe
    from facegan.recipes.run import default_folder, plan_recipe, run_recipe

    read = read_recipe(recipe, parse_set_options(sets))
    folder = to or default_folder(read)
    told: dict[str, Any] = {"recipe": read.name, "to": str(folder)}
    if dry_run:
        rows = plan_recipe(read, folder)
        told["not_tried"] = say_not_tried(read.code.values())
    else:
        command = ["facegan", *sys.argv[1:]]
        rows = run_recipe(read, folder, console=make_console(quiet), command=command, trust_code=trust_code)
    if json:
        told["seconds"] = round(sum(row.seconds for row in rows), 1)
        print_json({**told, "stages": [row.to_json() for row in rows]})
    elif dry_run:
        table = [[row.stage, row.state, row.why, row.told, row.where] for row in rows]
        print_table(["stage", "", "because", "what", "where"], table)
    else:
        table = [[row.stage, row.state, row.told, f"{row.seconds:,.1f}", row.where] for row in rows]
        print_table(["stage", "", "what came of it", "seconds", "where"], table)

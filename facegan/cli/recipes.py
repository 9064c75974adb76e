"""``facegan recipes``, ``run`` and ``demo``: whole experiments as TOML files."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from facegan.cli.options import (
    DryRun,
    Json,
    Quiet,
    Set,
    TrustCode,
    by_section,
    completion,
    options,
    recipe_names,
    warn_not_tried,
)
from facegan.console import Console, human_seconds, print_json, print_result, print_table, print_wrapped

recipes = typer.Typer(help="List, show, check and copy recipes: whole experiments as TOML files.", no_args_is_help=True)

Recipe = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A name of facegan recipes list, or a .toml file.",
        autocompletion=completion(recipe_names),
    ),
]


@recipes.command("list")
@options()
def list_recipes(json: Json = False) -> None:
    """List the recipes that come with facegan."""
    from facegan.recipes.recipe import packaged_recipes, read_recipe

    found = [(name, read_recipe(name).heading.partition("\n")[0]) for name in packaged_recipes()]
    if json:
        print_json({"recipes": [{"name": name, "what": what} for name, what in found]})
    else:
        print_table(["name", "what"], [list(pair) for pair in found])


@recipes.command("show")
@options()
def show(recipe: Recipe, json: Json = False) -> None:
    """Show a recipe, and every setting with its value, default, unit and meaning."""
    from facegan.recipes.recipe import read_recipe, settings_table

    read = read_recipe(recipe)
    settings, code = settings_table(read), warn_not_tried(read.code.values())
    if json:
        about = {"name": read.name, "file": str(read.file), "heading": read.heading}
        print_json({**about, "settings": [vars(setting) for setting in settings], "not_tried": code})
        return
    print_wrapped(*(read.heading or read.name).split("\n"), "", "A setting has its default if none is named.")
    for section in dict.fromkeys(setting.section for setting in settings):
        print_result("", f"[{section}]")
        print_wrapped(*(f"  {setting}" for setting in settings if setting.section == section), hanging=4)


@recipes.command("check")
@options()
def check(
    recipes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE]...",
            help="By default all that come with facegan.",
            autocompletion=completion(recipe_names),
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Validate recipes without running them. Print a line for each; the exit code is 1 if one is invalid.

    Modules and commands that a recipe names are not run.
    """
    from facegan.recipes.recipe import packaged_recipes
    from facegan.recipes.run import check_recipe

    found = {name: check_recipe(name) for name in recipes or packaged_recipes()}
    ok = not any(problem for problem, _ in found.values())
    warn_not_tried(name for _, code in found.values() for name in code)
    if json:
        rows = [
            {"recipe": name, "problem": problem, "not_tried": code, "ok": not problem}
            for name, (problem, code) in found.items()
        ]
        print_json({"ok": ok, "recipes": rows})
    else:
        for name, (problem, _) in found.items():
            first, *further = (problem or "ok").split("\n")
            print_result(f"{name}: {first}", *(f"  {line}" for line in further))
    if not ok:
        raise typer.Exit(1)


@recipes.command("copy")
@options()
def copy(
    recipe: Recipe,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The copy, a new file that ends in .toml.")],
    json: Json = False,
) -> None:
    """Copy a recipe to edit it: facegan recipes copy NAME mine.toml, then facegan run mine.toml."""
    from facegan.recipes.recipe import copy_recipe

    copy_recipe(recipe, file)
    if json:
        print_json({"recipe": recipe, "file": str(file)})
    else:
        print_result(str(file))


@options()
def run(
    recipe: Recipe,
    sets: Set = None,
    to: Annotated[Path | None, typer.Option("--to", help="The output folder. \\[default: runs/RECIPE]")] = None,
    trust_code: TrustCode = False,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Run the stages of a recipe that are not up to date: photographs → faces → a trained generator → samples.

    After Ctrl-C or a crash the same command continues; if nothing has changed, it does nothing.
    """
    from facegan.recipes.recipe import read_recipe
    from facegan.recipes.run import plan_recipe, run_recipe

    read = read_recipe(recipe, by_section(sets))
    folder = to or Path("runs") / read.name
    found: dict[str, Any] = {"recipe": read.name, "to": str(folder)}
    if dry_run:
        rows = plan_recipe(read, folder)
        found["not_tried"] = warn_not_tried(read.code.values())
    else:
        command = ["facegan", *sys.argv[1:]]
        rows = run_recipe(read, folder, console=Console(quiet=quiet), command=command, trust_code=trust_code)
    if json:
        found["seconds"] = round(sum(row.seconds for row in rows), 1)
        print_json({**found, "stages": [vars(row) for row in rows]})
    elif dry_run:
        table = [[row.stage, row.state, row.why, row.summary, row.where] for row in rows]
        print_table(["stage", "", "because", "what", "where"], table)
    else:
        table = [[row.stage, row.state, row.summary, f"{row.seconds:,.1f}", row.where] for row in rows]
        print_table(["stage", "", "result", "seconds", "where"], table)


@options()
def demo(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="The output folder.")] = Path("facegan-demo"),
    sets: Set = None,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Draw portraits, prepare them with the real detector, train a small DCGAN, sample and report: under three minutes.

    The same command continues an interrupted demo. It runs the recipe smoke: facegan run smoke --to DIR.
    """
    start = time.monotonic()
    from facegan.recipes.recipe import read_recipe
    from facegan.recipes.run import plan_recipe, run_recipe

    recipe = read_recipe("smoke", by_section(sets))
    if dry_run:
        plan = plan_recipe(recipe, folder)
        if json:
            print_json({"folder": str(folder), "stages": [vars(row) for row in plan]})
        else:
            print_table(
                ["stage", "", "what", "where"], [[row.stage, row.state, row.summary, row.where] for row in plan]
            )
        return
    rows = {row.stage: row for row in run_recipe(recipe, folder, console=Console(quiet=quiet))}
    prepared, trained = rows["prep"].result, rows["train"].result
    seconds = time.monotonic() - start
    preview, losses = f"{rows['prep'].where}/preview.png", f"{rows['train'].where}/losses.png"
    grid, page = rows["sample"].where, rows["report"].where
    if json:
        found = {"folder": str(folder), "kept": prepared["kept"], "photos": prepared["photos"]}
        found |= {"images": trained["images"], "seconds": round(seconds, 1), "pictures": [preview, grid, losses]}
        print_json(found | {"report": page})
        return
    print_result(
        f"{prepared['kept']} of {prepared['photos']} portraits kept, {trained['images']:,} images trained, "
        f"{human_seconds(seconds)}. Everything is in {folder}. Open:",
        f"  {preview}   the detector's crops",
        f"  {grid}   faces drawn by the generator",
        f"  {losses}   the training's losses",
        f"  {page}   all of it, as a page",
        "Next, with your own photographs:",
        *(f"  {line}" for line in next_commands()),
    )


def next_commands() -> list[str]:
    """The commands to type next, as they work in the shell that started this program."""
    started, scripts = Path(sys.argv[0]), Path(sys.executable).parent
    program = started if started.name == "facegan" else scripts / "facegan"  # python -m facegan
    found, activate = shutil.which("facegan"), scripts / "activate"
    name, first = "facegan", []
    if not (found and program.exists() and program.samefile(found)):
        if activate.exists():
            first = [f"source {_typed(activate)}"]
        else:
            name = _typed(program) if program.exists() else f"{_typed(Path(sys.executable))} -m facegan"
    return [
        *first,
        f"{name} prep PHOTOS faces     # PHOTOS: your folder of them",
        f"{name} train --shards faces --images 100k     # half an hour on two CPU cores",
    ]


def _typed(path: Path) -> str:
    """The path as a user types it in the current folder."""
    path, here = path.absolute(), Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))

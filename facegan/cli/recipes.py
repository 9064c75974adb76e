"""``facegan recipes``, ``run`` and ``demo``: whole experiments as TOML files."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facegan.cli.options import Flags, Group, by_section, completion, options, recipe_names, warn_not_tried
from facegan.console import human_seconds, print_json, print_result, print_wrapped
from facegan.run_dir import DATASET_PAGE

if TYPE_CHECKING:
    from facegan.recipes.run import Row

Recipe = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A name of facegan recipes list, or a .toml file.",
        autocompletion=completion(recipe_names),
    ),
]


@options()
def list_recipes(flags: Flags) -> None:
    """List the recipes that come with facegan."""
    from facegan.recipes.recipe import packaged_recipes, read_recipe

    rows = [{"name": name, "what": read_recipe(name).heading.partition("\n")[0]} for name in packaged_recipes()]
    flags.output({"recipes": rows}, table=(["name", "what"], [list(row.values()) for row in rows]))


@options()
def show(flags: Flags, recipe: Recipe) -> None:
    """Show a recipe, and every setting with its value, default, unit and meaning."""
    from facegan.recipes.recipe import read_recipe, settings_table

    read = read_recipe(recipe)
    settings, code = settings_table(read), warn_not_tried(read.code.values())
    if flags.json:
        about = {"name": read.name, "file": str(read.file), "heading": read.heading}
        print_json({**about, "settings": [vars(setting) for setting in settings], "not_tried": code})
        return
    print_wrapped(*(read.heading or read.name).split("\n"), "", "A setting has its default if none is named.")
    for section in dict.fromkeys(setting.section for setting in settings):
        print_result("", f"[{section}]")
        print_wrapped(*(f"  {setting}" for setting in settings if setting.section == section), hanging=4)


@options()
def check(
    flags: Flags,
    recipes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECIPE", help="By default all that come with facegan.", autocompletion=completion(recipe_names)
        ),
    ] = None,
) -> None:
    """Validate recipes without running them. Print a line for each; the exit code is 1 if one is invalid.

    Code that a recipe names is not run.
    """
    from facegan.recipes.recipe import packaged_recipes
    from facegan.recipes.run import check_recipe

    found = {name: check_recipe(name) for name in recipes or packaged_recipes()}
    ok = not any(problem for problem, _ in found.values())
    warn_not_tried(name for _, code in found.values() for name in code)
    rows, lines = [], []
    for name, (problem, code) in found.items():
        rows.append({"recipe": name, "problem": problem, "not_tried": code, "ok": not problem})
        first, *further = (problem or "ok").split("\n")
        lines += [f"{name}: {first}", *(f"  {line}" for line in further)]
    flags.output({"ok": ok, "recipes": rows}, *lines)
    if not ok:
        raise typer.Exit(1)


@options()
def copy(
    flags: Flags,
    recipe: Recipe,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The copy, a new file that ends in .toml.")],
) -> None:
    """Copy a recipe to edit it: facegan recipes copy NAME mine.toml, then facegan run mine.toml."""
    from facegan.recipes.recipe import copy_recipe

    copy_recipe(recipe, file)
    flags.output({"recipe": recipe, "file": str(file)}, file)


recipes: Group = {"list": list_recipes, "show": show, "check": check, "copy": copy}


@options(flags="trust_code sets json dry_run quiet")
def run(
    flags: Flags,
    recipe: Recipe,
    to: Annotated[Path | None, typer.Option("--to", help="The output folder. [default: runs/RECIPE]")] = None,
) -> None:
    """Run the stages of a recipe that are out of date: photographs → faces → generator → samples.

    After Ctrl-C or a crash the same command continues; if nothing has changed, it does nothing.

    Example: facegan run celeba-dcgan-64 --set prep.source=img_align_celeba --to runs/mine
    """
    from facegan.recipes.recipe import read_recipe
    from facegan.recipes.run import plan_recipe, run_recipe

    read = read_recipe(recipe, by_section(flags.sets))
    folder = to or Path("runs") / read.name
    found: dict[str, Any] = {"recipe": read.name, "to": str(folder)}
    if flags.dry_run:
        rows = plan_recipe(read, folder)
        found["not_tried"] = warn_not_tried(read.code.values())
        table = _plan_table(rows)
    else:
        command = ["facegan", *sys.argv[1:]]
        rows = run_recipe(read, folder, console=flags.console, command=command, trust_code=flags.trust_code)
        cells = [[row.stage, row.state, row.summary, f"{row.seconds:,.1f}", row.where] for row in rows]
        table = ["stage", "", "result", "seconds", "where"], cells
    found |= {"seconds": round(sum(row.seconds for row in rows), 1), "stages": [vars(row) for row in rows]}
    flags.output(found, table=table)


def _plan_table(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    cells = [[row.stage, row.state, row.why, row.summary, row.where] for row in rows]
    return ["stage", "", "because", "what", "where"], cells


@options(flags="sets json dry_run quiet")
def demo(
    flags: Flags,
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="The output folder.")] = Path("facegan-demo"),
) -> None:
    """Draw portraits, prepare them, train a small DCGAN, sample and report: under three minutes.

    The same command continues an interrupted demo. It runs the recipe smoke: facegan run smoke --to DIR.

    Example: facegan demo /tmp/demo
    """
    start = time.monotonic()
    from facegan.recipes.recipe import read_recipe
    from facegan.recipes.run import plan_recipe, run_recipe

    recipe = read_recipe("smoke", by_section(flags.sets))
    if flags.dry_run:
        plan = plan_recipe(recipe, folder)
        flags.output({"folder": str(folder), "stages": [vars(row) for row in plan]}, table=_plan_table(plan))
        return
    rows = {row.stage: row for row in run_recipe(recipe, folder, console=flags.console)}
    prepared, trained = rows["prep"].result, rows["train"].result
    seconds = time.monotonic() - start
    preview, losses = f"{rows['prep'].where}/preview.png", f"{rows['train'].where}/losses.png"
    grid, page, photographs = rows["sample"].where, rows["report"].where, folder / DATASET_PAGE
    facts = {name: prepared[name] for name in ("kept", "photos")} | {"images": trained["images"]}
    pictures = {"pictures": [preview, grid, losses], "report": page, "dataset": str(photographs)}
    flags.output(
        {"folder": str(folder), **facts, "seconds": round(seconds, 1), **pictures},
        f"{prepared['kept']} of {prepared['photos']} portraits kept, {trained['images']:,} images trained, "
        f"{human_seconds(seconds)}. Everything is in {folder}.",
        f"Against real faces: {rows['eval'].summary}.",
        "Open:",
        f"  {preview}   the detector's crops",
        f"  {grid}   faces drawn by the generator",
        f"  {losses}   the training's losses",
        f"  {page}   all of it, as a page",
        f"  {photographs}   the portraits, and what other thresholds would keep",
        "Next, with your own photographs:",
        *(f"  {line}" for line in next_commands()),
    )


def next_commands() -> list[str]:
    """The commands to type next, as they work in the shell that started this program."""
    started, here = Path(sys.argv[0]), Path.cwd()
    program = (started if started.name == "facegan" else Path(sys.executable).with_name("facegan")).absolute()
    found, name = shutil.which("facegan"), "facegan"
    if not program.exists():  # python -m facegan
        name = f"{shlex.quote(sys.executable)} -m facegan"
    elif not (found and program.samefile(found)):
        name = shlex.quote(str(program.relative_to(here) if program.is_relative_to(here) else program))
    return [
        f"{name} prep PHOTOS faces     # PHOTOS: your folder of them",
        f"{name} train --shards faces --method fast --images 1h     # one hour, on any machine",
    ]

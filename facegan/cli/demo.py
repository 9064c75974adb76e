"""``facegan demo``: the whole flow on drawn portraits, which is the recipe ``smoke``."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facegan.cli.options import Debug, DryRun, Json, Quiet, Set, make_console, parse_set_options
from facegan.console import human_seconds, print_json, print_result, print_table

if TYPE_CHECKING:
    from facegan.recipes.run import Row


def demo(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where everything goes.")] = Path("facegan-demo"),
    sets: Set = None,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Draw portraits, prepare them with the real detector, train a small DCGAN, sample and report: under three minutes.

    Started again, it goes on where it stopped. It is the recipe smoke: facegan run smoke --to DIR.
    """
    start = time.monotonic()
    from facegan.recipes.recipe import read_recipe
    from facegan.recipes.run import plan_recipe, run_recipe

    recipe = read_recipe("smoke", parse_set_options(sets))
    if dry_run:
        _print_plan(plan_recipe(recipe, folder), folder, json)
        return
    rows = {row.stage: row for row in run_recipe(recipe, folder, console=make_console(quiet))}
    prepared, trained = rows["prep"].result, rows["train"].result
    seconds = time.monotonic() - start
    preview, grid, losses, page = (
        f"{rows['prep'].where}/preview.png",
        rows["sample"].where,
        f"{rows['train'].where}/losses.png",
        rows["report"].where,
    )
    found: dict[str, Any] = {
        "folder": str(folder),
        "kept": prepared["kept"],
        "photos": prepared["photos"],
        "images": trained["images"],
        "seconds": round(seconds, 1),
        "pictures": [preview, grid, losses],
        "report": page,
    }
    if json:
        print_json(found)
        return
    print_result(
        f"{prepared['kept']} of {prepared['photos']} portraits kept, {trained['images']:,} images trained, "
        f"{human_seconds(seconds)}. Everything is in {folder}. Open:",
        f"  {preview}   what the detector cropped",
        f"  {grid}   faces that the generator drew",
        f"  {losses}   how the training went",
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
    """As a user would type it in the current folder."""
    path, here = path.absolute(), Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def _print_plan(rows: list[Row], folder: Path, json: bool) -> None:
    if json:
        print_json({"folder": str(folder), "stages": [row.to_json() for row in rows]})
    else:
        print_table(["stage", "", "what", "where"], [[row.stage, row.state, row.told, row.where] for row in rows])

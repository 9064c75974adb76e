"""``facegan recipes``: whole experiments as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facegan.cli.options import Debug, Json, completion, recipe_names, say_not_tried
from facegan.console import print_json, print_result, print_table, print_wrapped

app = typer.Typer(help="List, show, check and copy recipes: whole experiments as TOML files.", no_args_is_help=True)

Recipe = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A name of facegan recipes list, or a .toml file.",
        autocompletion=completion(recipe_names),
    ),
]


@app.command("list")
def list_recipes(json: Json = False, debug: Debug = False) -> None:
    """The recipes that come with facegan, and what each is."""
    from facegan.recipes.recipe import packaged_recipes, read_recipe

    found = [(name, read_recipe(name).heading.partition("\n")[0]) for name in packaged_recipes()]
    if json:
        print_json({"recipes": [{"name": name, "what": what} for name, what in found]})
    else:
        print_table(["name", "what"], [list(pair) for pair in found])


@app.command("show")
def show(recipe: Recipe, json: Json = False, debug: Debug = False) -> None:
    """What a recipe does, and every setting with its value, default, unit and meaning."""
    from facegan.recipes.recipe import read_recipe
    from facegan.recipes.resolve import show_settings

    read = read_recipe(recipe)
    settings, code = show_settings(read), say_not_tried(read.code.values())
    if json:
        told = {"name": read.name, "file": str(read.file), "heading": read.heading}
        print_json({**told, "settings": [setting.to_json() for setting in settings], "not_tried": code})
        return
    print_wrapped(*(read.heading or read.name).split("\n"), "", "Settings have their default where none is named.")
    for section in dict.fromkeys(setting.section for setting in settings):
        print_result("", f"[{section}]")
        print_wrapped(*(f"  {setting}" for setting in settings if setting.section == section), hanging=4)


@app.command("check")
def check(
    recipes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE]...",
            help="All that come with facegan, where none is named.",
            autocompletion=completion(recipe_names),
        ),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Validate recipes without running them. Exit code 1 and a line for each where something does not hold.

    Modules and commands that a recipe names are not tried.
    """
    from facegan.recipes.recipe import packaged_recipes
    from facegan.recipes.resolve import check_recipe

    found = [check_recipe(name) for name in recipes or packaged_recipes()]
    ok = all(checked.ok for checked in found)
    say_not_tried(name for checked in found for name in checked.not_tried)
    if json:
        print_json({"ok": ok, "recipes": [checked.to_json() for checked in found]})
    else:
        for checked in found:
            first, *further = (checked.problem or "ok").split("\n")
            print_result(f"{checked.recipe}: {first}", *(f"  {line}" for line in further))
    if not ok:
        raise typer.Exit(1)


@app.command("copy")
def copy(
    recipe: Recipe,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The copy, which ends in .toml; not there yet.")],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Copy a recipe, to change it: facegan recipes copy NAME mine.toml, then facegan run mine.toml."""
    from facegan.recipes.recipe import copy_recipe

    copy_recipe(recipe, file)
    if json:
        print_json({"recipe": recipe, "file": str(file)})
    else:
        print_result(str(file))

"""What commands share: options, settings from options and ``--set``, the console."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from facegan.config import DETECTORS, Settings, choices_of
from facegan.console import Console
from facegan.errors import SettingsError
from facegan.plugins import not_tried, runs_code

S = TypeVar("S", bound=Settings)


def setting(config: type[Settings], name: str, *, by_method: bool = False) -> Any:
    """The option of a setting: its help and its default's place are the setting's own."""
    text = config.describe(name).replace("[", "\\[")  # rich reads brackets as markup
    names = DETECTORS if name == "detector" else choices_of(config.model_fields[name].annotation)
    return typer.Option(
        "--" + name.replace("_", "-"),
        help=text,
        show_default="by method" if by_method else True,
        autocompletion=completion(lambda: map(str, names)) if names else None,
    )


def completion(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """For the shell: those of the names, looked up when it asks, that begin as what is typed."""

    def beginning(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return beginning


def recipe_names() -> list[str]:
    """Recipes that come with facegan, and those in this folder."""
    from facegan.recipes.recipe import packaged_recipes

    return [*packaged_recipes(), *sorted(path.name for path in Path().glob("*.toml"))]


Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print warnings and errors only.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done; touch nothing.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.NAME=VALUE", help="Any setting by name; may be repeated.")
]
RecipeFile = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="RECIPE",
        autocompletion=completion(recipe_names),
        help="Settings of a recipe: a name of facegan recipes list, or a .toml file. Options given beside it win.",
    ),
]
TrustCode = Annotated[
    bool,
    typer.Option("--trust-code", help="Run the code (modules, commands) that files name."),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]


def make_console(quiet: bool) -> Console:
    return Console(quiet=quiet)


def say_not_tried(values: Iterable[str]) -> list[str]:
    """Warns of modules and commands among the values of settings, which a dry run leaves alone, and gives them."""
    names = list(filter(runs_code, values))
    if sentence := not_tried(names):
        Console().warn(sentence)
    return names


def merge_overrides(config: type[Settings], sets: list[str] | None, **options: Any) -> dict[str, Any]:
    """Settings by name from options (None: not given) and ``--set section.name=value``, which wins.

    Raises:
        SettingsError: a ``--set`` that is malformed or belongs to another section.
    """
    values = {name: value for name, value in options.items() if value is not None}
    for text in sets or []:
        section, key, value = _parts(text, config.section)
        if section != config.section:
            raise SettingsError(f"--set {text}: this command has the section '{config.section}', not '{section}'.")
        values[key] = value
    return values


def explicit_options(context: typer.Context, names: Iterable[str]) -> dict[str, Any]:
    """Options of these names that stand on the command line, and not those that have their default."""
    values = {name: context.params[name] for name in names if name in context.params and _is_explicit(context, name)}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def _is_explicit(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def parse_set_options(sets: list[str] | None) -> dict[str, dict[str, str]]:
    """Settings of ``--set section.name=value``, by section and name.

    Raises:
        SettingsError: one that is malformed.
    """
    values: dict[str, dict[str, str]] = {}
    for text in sets or []:
        section, key, value = _parts(text, "section")
        values.setdefault(section, {})[key] = value
    return values


def _parts(text: str, section: str) -> tuple[str, str, str]:
    """Section, name and value of ``section.name=value``; ``section`` is for the sentence."""
    name, equals, value = text.partition("=")
    found, dot, key = name.strip().partition(".")
    if not equals or not dot:
        raise SettingsError(f"--set {text}: write it as --set {section}.name=value.")
    return found, key, value.strip()


def whole_number(value: str, option: str) -> int | None:
    """``auto`` (None) or a number from 1 up.

    Raises:
        SettingsError: anything else.
    """
    if value == "auto":
        return None
    if not (value.isascii() and value.isdigit()) or int(value) < 1:
        raise SettingsError(f"{option} {value}: it has to be auto, or a whole number from 1 up.")
    return int(value)

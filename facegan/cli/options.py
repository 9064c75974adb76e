"""What commands share: options generated from settings, ``--set``, ``--recipe``, and common flags."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from facegan.config import Settings, choices_of
from facegan.config.resources import FacesConfig
from facegan.console import Console, shown
from facegan.errors import SettingsError, suggest
from facegan.plugins import not_tried, runs_code

Overrides = dict[str, Any]  # settings that the command line names, by name
Command = Callable[..., None]


def completion(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """For the shell: the names, computed when it asks, that start with the typed text."""

    def starting(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return starting


def recipe_names() -> list[str]:
    """Packaged recipes, and those in the current folder."""
    from facegan.recipes.recipe import packaged_recipes

    return [*packaged_recipes(), *sorted(path.name for path in Path().glob("*.toml"))]


Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print warnings and errors only.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done; touch nothing.")]
# `facegan.cli.app` looks for it among the arguments, for errors can precede the parsing of options.
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.NAME=VALUE", help="Any setting by name; can be repeated.")
]
RecipeFile = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="RECIPE",
        autocompletion=completion(recipe_names),
        help="Take settings from a recipe: a name of facegan recipes list, or a .toml file. Other options override it.",
    ),
]
TrustCode = Annotated[bool, typer.Option("--trust-code", help="Run the code (modules, commands) that files name.")]
Device = Annotated[str, typer.Option("--device", help=FacesConfig.describe("device"))]
Best = Annotated[bool, typer.Option("--best", help="Use the best checkpoint of a run with --eval-every.")]


def options(*configs: type[Settings], only: str = "", sets: bool = True) -> Callable[[Command], Command]:
    """Gives a command ``--debug``; with settings classes also their options and ``--set``, as its parameter
    ``overrides``: the settings that the command line names. ``--set`` overrides options.

    Args:
        only: names separated by spaces, instead of those in `Settings.options`.
        sets: whether there is ``--set``.
    """
    owners = {
        name: config
        for config in configs
        for name in (only or config.options or " ".join(config.model_fields)).split()
        if name in config.model_fields
    }
    known = [name for config in configs for name in config.model_fields]

    def decorate(function: Command) -> Command:
        parameters = [_keyword("context", typer.Context, inspect.Parameter.empty)]
        for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
            if name == "json" and configs and sets:
                parameters.append(_keyword("sets", Set, None))
            if name == "overrides":
                parameters += [_generated(config, setting) for setting, config in owners.items()]
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        parameters.append(_keyword("debug", Debug, False))

        def command(context: typer.Context, debug: bool, **values: Any) -> None:
            if configs:
                overrides = _explicit(context, {name: values.pop(name) for name in owners}, owners)
                values["overrides"] = overrides | _of_section(configs[0].section, known, values.pop("sets", None))
            function(**values)

        command.__doc__ = function.__doc__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] - typer reads the options here
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def _explicit(context: typer.Context, values: Overrides, owners: dict[str, type[Settings]]) -> Overrides:
    """Values of options on the command line, without defaults; flags as the values of their settings."""
    typed = [name for name in values if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"]
    return {
        name: not owners[name].default(name) if isinstance(values[name], bool) else str(values[name]) for name in typed
    }


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _generated(config: type[Settings], name: str) -> inspect.Parameter:
    """The option of a setting. Its value is text, which the settings class parses; a flag inverts the default."""
    field, help, option = config.model_fields[name], config.describe(name), "--" + name.replace("_", "-")
    if field.annotation is bool:
        if config.default(name):
            option, help = f"--no-{option[2:]}", f"do not {help}"
        return _keyword(name, Annotated[bool, typer.Option(option, help=_no_markup(help))], False)
    choices = choices_of(field.annotation)
    info = typer.Option(
        option,
        help=_no_markup(help),
        metavar=f"<{config.unit(name) or _type_name(field.annotation)}>",
        show_default=bool(config.default_text(name)),
        autocompletion=completion(lambda: map(str, choices)) if choices else None,
    )
    kind: Any = Path if config.unit(name) == "path" else str
    return _keyword(name, Annotated[kind | None, info], config.default_text(name) or None)


def _type_name(annotation: Any) -> str:
    return next((kind for kind in ("int", "float") if kind in str(annotation)), "str")


def _no_markup(help: str) -> str:
    return help.replace("[", "\\[")  # rich reads brackets as markup


def _of_section(section: str, known: list[str], sets: list[str] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in sets or []:
        other, name, value = _parts(text, section)
        if other != section:
            raise SettingsError(f"--set {text}: this command has the section '{section}', not '{other}'.")
        if name not in known:
            close = suggest(name, known)
            raise SettingsError(f"--set {text}: There is no setting '{shown(name)}' in [{section}].{close}")
        found[name] = value
    return found


def by_section(sets: list[str] | None) -> dict[str, dict[str, str]]:
    """Settings of ``--set section.name=value``, by section and name.

    Raises:
        SettingsError: one is malformed.
    """
    values: dict[str, dict[str, str]] = {}
    for text in sets or []:
        section, name, value = _parts(text, "section")
        values.setdefault(section, {})[name] = value
    return values


def _parts(text: str, section: str) -> tuple[str, str, str]:
    """Section, name and value of ``section.name=value``; ``section`` is for the error."""
    key, equals, value = text.partition("=")
    found, dot, name = key.strip().partition(".")
    if not equals or not dot:
        raise SettingsError(f"--set {text}: write it as --set {section}.name=value.")
    return found, name, value.strip()


@contextlib.contextmanager
def resolved(section: str, overrides: Overrides, recipe: str | None, trust_code: bool) -> Iterator[Overrides]:
    """The settings of a command by name: ``overrides``, over the section of a recipe if one is named.

    Errors raised inside name the recipe's line.

    Args:
        trust_code: the recipe may name modules and commands.

    Raises:
        SettingsError: there is no such recipe, or it has no such section, or it names code that is not trusted.
    """
    if recipe is None:
        yield dict(overrides)
        return
    from facegan.recipes.recipe import open_section

    with open_section(recipe, section, overrides, trust_code) as values:
        yield values


def warn_not_tried(values: Iterable[str]) -> list[str]:
    """Warns of modules and commands among the values, which a dry run does not run, and returns them."""
    names = list(filter(runs_code, values))
    if sentence := not_tried(names):
        Console().warn(sentence)
    return names

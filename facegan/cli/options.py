"""What commands share: common flags, and options generated from settings."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from facegan.config import Settings, choices_of
from facegan.config.base import option_of
from facegan.config.resources import FacesConfig
from facegan.console import Console, print_json, print_result, print_table, shown
from facegan.errors import SettingsError, suggest
from facegan.plugins import not_tried, runs_code

Overrides = dict[str, Any]  # settings that the command line names, by name
Command = Callable[..., None]
Group = dict[str, Command]  # commands below one name


@dataclass(frozen=True)
class Flags:
    """Options that many commands share; each command has some of them."""

    trust_code: bool = False
    recipe: str | None = None
    sets: list[str] | None = None
    json: bool = False
    dry_run: bool = False
    quiet: bool = False
    debug: bool = False  # `facegan.cli.app` looks for it among the arguments: errors can precede the parsing of options

    @property
    def console(self) -> Console:
        return Console(quiet=self.quiet)

    @contextlib.contextmanager
    def resolved(self, section: str, overrides: Overrides) -> Iterator[Overrides]:
        """The settings of a command by name: ``overrides``, over the section of a recipe if one is named.

        Errors raised inside name the recipe's line. A dry run runs no code, so it needs no trust.
        """
        if self.recipe is None:
            yield dict(overrides)
            return
        from facegan.recipes.recipe import open_section

        with open_section(self.recipe, section, overrides, self.trust_code or self.dry_run) as values:
            yield values

    def output(self, found: Any, *lines: object, table: tuple[list[str], list[list[str]]] | None = None) -> None:
        """A command's result on stdout: one JSON object; or for people a table (columns, rows), and lines."""
        if self.json:
            print_json(found)
            return
        if table:
            print_table(*table)
        if lines:
            print_result(*lines)


def completion(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """For the shell: the names, computed when it asks, that start with the typed text."""
    return lambda incomplete: [name for name in names() if name.startswith(incomplete)]


def recipe_names() -> list[str]:
    """Packaged recipes, and those in the current folder."""
    from facegan.recipes.recipe import packaged_recipes

    return [*packaged_recipes(), *sorted(path.name for path in Path().glob("*.toml"))]


Device = Annotated[str, typer.Option("--device", help=FacesConfig.describe("device"))]
Best = Annotated[bool, typer.Option("--best", help="Use the best checkpoint of a run with --eval-every.")]
_FLAGS: dict[str, Any] = {
    "trust_code": Annotated[bool, typer.Option("--trust-code", help="Run code (modules, commands) that files name.")],
    "recipe": Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="RECIPE",
            autocompletion=completion(recipe_names),
            help="Take settings from a recipe: a name of facegan recipes list, or a file. Other options override it.",
        ),
    ],
    "sets": Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.NAME=VALUE", help="Any setting by name; can be repeated."),
    ],
    "json": Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")],
    "dry_run": Annotated[bool, typer.Option("--dry-run", help="Print what would be done; touch nothing.")],
    "quiet": Annotated[bool, typer.Option("--quiet", help="Print warnings and errors only.")],
    "debug": Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")],
}


def options(*configs: type[Settings], flags: str = "json", only: str = "") -> Callable[[Command], Command]:
    """Gives a command options: those of ``flags``, as its parameter ``flags``, and those of settings classes, as
    ``overrides``: the settings that the command line names. ``--set`` overrides options.

    ``flags`` and ``only`` are names separated by spaces; ``only`` instead of those in `Settings.options`.
    """
    owners = {
        name: config
        for config in configs
        for name in (only or config.options or " ".join(config.model_fields)).split()
        if name in config.model_fields
    }
    known = [name for config in configs for name in config.model_fields]
    shared = [*flags.split(), "debug"]

    def decorate(function: Command) -> Command:
        parameters = [_keyword("context", typer.Context, inspect.Parameter.empty)]
        for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
            if name == "overrides":
                parameters += [_generated(config, setting) for setting, config in owners.items()]
            elif name != "flags":
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        parameters += [_keyword(name, _FLAGS[name], getattr(Flags, name)) for name in shared]

        def command(context: typer.Context, **values: Any) -> None:
            given = Flags(**{name: values.pop(name) for name in shared})
            if configs:
                overrides = _explicit(context, {name: values.pop(name) for name in owners}, owners)
                values["overrides"] = overrides | _of_section(configs[0].section, known, given.sets)
            function(**values, flags=given)

        command.__doc__ = (function.__doc__ or "").replace("    Example:", "    \b\n    Example:")  # click: do not wrap
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] - typer reads the options here
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def _explicit(context: typer.Context, values: Overrides, owners: dict[str, type[Settings]]) -> Overrides:
    """Values of options on the command line, without defaults; flags as the values of their settings."""
    typed = [name for name in values if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"]

    def explicit(name: str) -> str | bool:
        value, default = values[name], owners[name].default(name)
        return str(value) if not isinstance(value, bool) else value if default is None else not default

    return {name: explicit(name) for name in typed}


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _generated(config: type[Settings], name: str) -> inspect.Parameter:
    """The option of a setting. Its value is text, which the settings class parses; a flag inverts the default, and one
    without a default has both forms."""
    kind, help, option = config.model_fields[name].annotation, config.describe(name), option_of(name)
    if kind is bool:
        if config.default(name):
            option, help = f"--no-{option[2:]}", f"do not {help}"
        return _keyword(name, Annotated[bool, typer.Option(option, help=help)], False)
    if kind == bool | None:
        return _keyword(name, Annotated[bool | None, typer.Option(f"{option}/--no-{option[2:]}", help=help)], None)
    choices, default = choices_of(kind), config.default_text(name)
    info = typer.Option(
        option,
        help=help,
        metavar=f"<{config.unit(name) or next((number for number in ('int', 'float') if number in str(kind)), 'str')}>",
        show_default=bool(default),
        autocompletion=completion(lambda: map(str, choices)) if choices else None,
    )
    typed: Any = Path if config.unit(name) == "path" else str
    return _keyword(name, Annotated[typed | None, info], default or None)


def _of_section(section: str, known: list[str], sets: list[str] | None) -> dict[str, str]:
    values = by_section(sets, section)
    for text in sets or []:
        other, name = text.partition("=")[0].strip().split(".", 1)
        if other != section:
            raise SettingsError(f"--set {text}: this command has the section '{section}', not '{other}'.")
        if name not in known:
            close = suggest(name, known)
            raise SettingsError(f"--set {text}: There is no setting '{shown(name)}' in [{section}].{close}")
    return values.get(section, {})


def by_section(sets: list[str] | None, example: str = "section") -> dict[str, dict[str, str]]:
    """Settings of ``--set section.name=value``, by section and name; ``example`` is the section that errors name."""
    values: dict[str, dict[str, str]] = {}
    for text in sets or []:
        key, equals, value = text.partition("=")
        section, dot, name = key.strip().partition(".")
        if not equals or not dot:
            raise SettingsError(f"--set {text}: write it as --set {example}.name=value.")
        values.setdefault(section, {})[name] = value.strip()
    return values


def warn_not_tried(values: Iterable[str]) -> list[str]:
    """Warns of modules and commands among the values, which a dry run does not run, and returns them."""
    names = list(filter(runs_code, values))
    if sentence := not_tried(names):
        Console().warn(sentence)
    return names

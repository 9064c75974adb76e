"""``facegan``: the commands, and how errors become sentences and exit codes."""

from __future__ import annotations

import importlib
import io
import re
import signal
import sys
from typing import Annotated, Any

import typer
import typer.core
import typer.main

import facegan
from facegan.console import guarded_stderr, print_below, print_error, print_result, show_breaks, shown
from facegan.errors import FaceganError, Interrupted
from facegan.plugins import shut_current_folder
from facegan.system import configure_openmp

# The module in `facegan.cli` of each command, and what the command does, as its own help starts. A command's module is
# imported when that command is used, so that ``facegan --help`` takes no longer than the command line library.
COMMANDS: dict[str, tuple[str, str]] = {
    "prep": ("prep", "Detect and crop faces into WebDataset shards; every photograph is accounted for."),
    "inspect": ("dataset", "Show a dataset: photographs by outcome, scores, face sizes; or one photograph or sample."),
    "verify": (
        "dataset",
        "Check every checksum and count of a dataset. One line per problem; exit code 1 if there are any.",
    ),
    "select": ("dataset", "Make a dataset from selected faces of other datasets, without detecting again."),
    "forget": ("dataset", "Take photographs out of a dataset, as if prep had left them out from the start."),
    "annotate": ("dataset", "Add attributes to the photographs of a dataset, or replace them; no image changes."),
    "train": ("train", "Train a GAN on a dataset: samples, curves and checkpoints go into the run's folder."),
    "sample": ("generator", "Draw samples: a grid, single images, a dataset, or an animation."),
    "project": (
        "generator",
        "Find the latents whose faces are nearest to photographs: a picture, and latents for facegan sample.",
    ),
    "directions": (
        "generator",
        "Find directions in the latents along which faces gain an attribute, for facegan sample --move.",
    ),
    "eval": ("generator", "Measure how close a generator's samples, or a folder's images, are to real faces."),
    "export": ("generator", "Write a generator for other programs: weights, graphs, samples, and a model card."),
    "report": ("report", "Write a page about a run (samples, curves, warnings, metrics, settings) or about a dataset."),
    "compare": ("report", "Show runs side by side: the settings that differ, rates, losses, findings, metrics."),
    "run": ("recipes", "Run the stages of a recipe that are out of date: photographs → faces → generator → samples."),
    "recipes": ("recipes", "List, show, check and copy recipes: whole experiments as TOML files."),
    "demo": ("recipes", "Draw portraits, prepare them, train a small DCGAN, sample and report: under three minutes."),
    "models": ("models", "List and download the face detection models."),
    "doctor": ("models", "Show what is installed, the hardware, the detector models, and what is missing."),
    "bench": ("bench", "Compare facegan's speed with a plain loop for the same job."),
}


class Group(typer.core.TyperGroup):
    """Shows what each command does in a whole sentence."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            rows = [(name, (command.help or "").partition("\n\n")[0]) for name, command in self.commands.items()]
            formatter.write_dl(rows)


class Commands(Group):
    """Lists all commands; loads one when it is used."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = {name: typer.core.TyperCommand(name, help=line) for name, (_, line) in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] in COMMANDS:
            self.commands[args[0]] = load(args[0])
        return super().resolve_command(ctx, args)


# Help without rich's panels, whose import takes longer than everything else.
_TYPER: dict[str, Any] = {"rich_markup_mode": None, "context_settings": {"max_content_width": 120}}


def load(name: str) -> Any:
    """The command, or the group of commands, with all its options."""
    module, line = COMMANDS[name]
    found = getattr(importlib.import_module(f"facegan.cli.{module}"), name)
    one = typer.Typer(help=line, add_completion=False, no_args_is_help=isinstance(found, dict), cls=Group, **_TYPER)
    for inner, function in found.items() if isinstance(found, dict) else [(name, found)]:
        one.command(inner)(function)
    command = typer.main.get_group(one) if isinstance(found, dict) else typer.main.get_command(one)
    command.name = name
    return command


app = typer.Typer(
    name="facegan",
    cls=Commands,
    help="From a folder of photographs to a trained face generator.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Start with: facegan demo",
    **_TYPER,
)


def _print_version(requested: bool) -> None:
    if requested:
        print_result(f"facegan {facegan.__version__}")
        raise typer.Exit


@app.callback()
def _facegan(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits with its code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if sys.stderr is None:  # closed by `2>&-`
        sys.stderr = io.StringIO()
    if isinstance(sys.stdout, io.TextIOWrapper):  # paths keep their bytes, and printing never fails
        is_utf8 = sys.stdout.encoding.lower().replace("-", "") == "utf8"
        sys.stdout.reconfigure(errors="surrogateescape" if is_utf8 else "backslashreplace")
    configure_openmp()
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    with guarded_stderr(), shut_current_folder():
        code = _run(arguments)
    sys.exit(code)


def _interrupt(*_: Any) -> None:
    if isinstance(sys.exception(), Interrupted):
        return  # everything is saved, and the message is on its way
    _ignore_signals()  # a second signal must not interrupt the clean-up
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _run(arguments: list[str]) -> int:
    # Arguments are data, wherever a message repeats a part of them.
    parts = [text for argument in arguments for part in re.split("[/=]", argument) for text in (part, part.strip())]

    def say(error: BaseException, text: str, code: int) -> int:
        if "--debug" in arguments:
            import traceback

            print_below("".join(traceback.format_exception(error)).rstrip())
        text = show_breaks(text, parts)
        if code == 130:
            _ignore_signals()
            print_below(text)  # the ``^C`` that a terminal shows
        else:
            print_error(text)
        return code

    try:
        code = app(arguments, prog_name="facegan", standalone_mode=False)
        if code == 130:  # typer turned the interruption into its code, without a message
            return say(KeyboardInterrupt(), "Interrupted.", code)
        return code if isinstance(code, int) else 0
    except FaceganError as error:
        return say(error, str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort) as error:
        return say(error, "Interrupted.", 130)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return say(error, f"{where}{error.strerror or error}.", 1)
    except Exception as error:
        if message := getattr(error, "format_message", None):  # typer's usage errors, from any version of click
            if type(error).__name__ == "NoArgsIsHelpError":  # a group without a command
                print_result(*message().splitlines())
                return 2
            path = getattr(getattr(error, "ctx", None), "command_path", "facegan")
            return say(error, f"{shown(message().replace('Value error, ', ''))}\nSee: {path} --help", 2)
        text = f"This is a bug in facegan: {type(error).__name__}: {error}\nAdd --debug to the command to see where."
        return say(error, text, 1)

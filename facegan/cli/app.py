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
from facegan.console import (
    guarded_stderr,
    print_error,
    print_interruption,
    print_result,
    print_trace,
    show_breaks,
    shown,
)
from facegan.errors import FaceganError, Interrupted
from facegan.plugins import shut_current_folder
from facegan.system import configure_openmp

# The module in `facegan.cli` of each command, what the command does, as its own help starts, and an example below that
# help; groups have none. A command's module is imported when that command is used, so that ``facegan --help`` takes no
# longer than the command line library.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "prep": (
        "prep",
        "Detect and crop faces into WebDataset shards. Every photograph is accounted for in OUT/photos.parquet.",
        "facegan prep photos/ out/ --size 64 --split 0.9,0.05,0.05",
    ),
    "inspect": (
        "dataset",
        "Show a dataset: photographs by outcome, scores and face sizes; or one photograph or sample.",
        "facegan inspect out/ 000001 --plot face.png",
    ),
    "verify": (
        "dataset",
        "Check every checksum and count. Print a line for each problem; the exit code is 1 if there is any.",
        "facegan verify out/ --deep",
    ),
    "select": (
        "dataset",
        "Make a dataset of some faces of one or several others, without detecting again.",
        'facegan select out/ best/ --where "score > 0.9 and width >= 178" --limit 10000',
    ),
    "train": (
        "train",
        "Train a GAN on a dataset: samples, curves and checkpoints go into the run's folder.",
        "facegan train --shards out/ --method wgan-gp --images 1M --eval-every 50k",
    ),
    "sample": (
        "sample",
        "Draw samples: a grid, single images, a dataset, or an animation.",
        "facegan sample runs/dcgan-out --interpolate walk.mp4 --n 8 --walks 9",
    ),
    "eval": (
        "eval",
        "Measure how close a generator's samples, or a folder's images, are to real faces.",
        "facegan eval runs/dcgan-out --shards out/ --n 2000",
    ),
    "export": (
        "export",
        "Write a generator for other programs: weights, graphs, samples, and a model card.",
        "facegan export runs/dcgan-out generator/ --onnx",
    ),
    "report": (
        "report",
        "Make a page of a run: samples, dataset, curves, warnings, metrics, settings.",
        "facegan report runs/dcgan-out --explore",
    ),
    "compare": (
        "report",
        "Show runs side by side: the settings that differ, rates, losses, findings, metrics.",
        "facegan compare runs/dcgan-out runs/wgan-gp-out --out both.png",
    ),
    "run": (
        "recipes",
        "Run the stages of a recipe that are not up to date: photographs → faces → a trained generator → samples.",
        "facegan run celeba-dcgan-64 --set prep.source=img_align_celeba --to runs/mine",
    ),
    "recipes": ("recipes", "List, show, check and copy recipes: whole experiments as TOML files.", ""),
    "demo": (
        "recipes",
        "Draw portraits, prepare them with the real detector, train a small DCGAN, sample and report: "
        "under three minutes.",
        "facegan demo /tmp/demo",
    ),
    "models": ("models", "List and download the face detection models.", ""),
    "doctor": (
        "models",
        "Show what is installed, the hardware, the detector models, and what is missing, with its remedy.",
        "facegan doctor --json",
    ),
    "bench": ("bench", "Measure facegan against a hand-written loop.", ""),
}


class Commands(typer.core.TyperGroup):
    """Lists all commands; loads one when it is used."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = {name: typer.core.TyperCommand(name, help=line) for name, (_, line, _) in COMMANDS.items()}

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] in COMMANDS:
            self.commands[args[0]] = load(args[0])
        return super().resolve_command(ctx, args)


def load(name: str) -> Any:
    """The command, or the group of commands, with all its options."""
    module, _, example = COMMANDS[name]
    found = getattr(importlib.import_module(f"facegan.cli.{module}"), name)
    if isinstance(found, typer.Typer):
        command = typer.main.get_group(found)  # `get_command` would add completion options to it
    else:
        # Typer breaks lines of later paragraphs where the docstring does.
        paragraphs = (" ".join(paragraph.split()) for paragraph in (found.__doc__ or "").split("\n\n"))
        one = typer.Typer(add_completion=False, rich_markup_mode="rich")
        one.command(name, help="\n\n".join(paragraphs), epilog=f"Example: {example}")(found)
        command = typer.main.get_command(one)
    command.name = name
    for each in (command, *getattr(command, "commands", {}).values()):
        _without_types(each.get_params(typer.Context(each)))
    return command


def _without_types(parameters: list[Any]) -> list[Any]:
    """Help shows a flag as ``--json``, not as ``--json <bool>``."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters


app = typer.Typer(
    name="facegan",
    cls=Commands,
    help="From a folder of photographs to a trained face generator.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    rich_markup_mode="rich",
    epilog="Start with: facegan demo",
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
        return _say(error, show_breaks(text, parts), code, "--debug" in arguments)

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
        if hasattr(error, "format_message"):  # typer's usage errors, from any version of click
            if type(error).__name__ == "NoArgsIsHelpError":  # a group without a command printed its help
                return 2
            return say(error, _usage_sentence(error), 2)
        text = f"This is a bug in facegan: {type(error).__name__}: {error}\nAdd --debug to the command to see where."
        return say(error, text, 1)


def _usage_sentence(error: Any) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "facegan"
    return f"{shown(error.format_message())}\nSee: {path} --help"


def _say(error: BaseException, text: str, code: int, debug: bool) -> int:
    if debug:
        import traceback

        print_trace("".join(traceback.format_exception(error)))
    if code == 130:
        _ignore_signals()
        print_interruption(text)
    else:
        print_error(text)
    return code

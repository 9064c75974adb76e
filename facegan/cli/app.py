"""``facegan``: the commands, and the one place that turns errors into sentences and exit codes."""

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

# The commands by name. A command's module, with its settings and their library, is loaded when that command is meant.
#
# So ``facegan --help`` costs what the command line library costs, however many commands there are.

# Name, which is that of its module in `facegan.cli` as well: what it does, as its own help begins, and an example below
# that help. Those without an example are groups.
COMMANDS: dict[str, tuple[str, str]] = {
    "prep": (
        "Detect and crop faces into WebDataset shards. Every photograph is accounted for in OUT/photos.parquet.",
        "facegan prep photos/ out/ --size 64 --split 0.9,0.05,0.05",
    ),
    "inspect": (
        "Show what a dataset holds: photographs by outcome, scores and face sizes; or one of them.",
        "facegan inspect out/ 000001 --plot face.png",
    ),
    "verify": (
        "Check every checksum and count. Exit code 1 and a line for each problem where something does not hold.",
        "facegan verify out/ --deep",
    ),
    "select": (
        "Make a dataset of some faces of one or several others, without detecting again.",
        'facegan select out/ best/ --where "score > 0.9 and width >= 178" --limit 10000',
    ),
    "train": (
        "Train a GAN on a dataset: samples, curves and checkpoints go into the run's folder.",
        "facegan train --shards out/ --method wgan-gp --images 1M --eval-every 50k",
    ),
    "sample": (
        "Draw samples: a grid, single pictures, a dataset, or a film.",
        "facegan sample runs/dcgan-out --interpolate walk.mp4 --n 8 --walks 9",
    ),
    "eval": (
        "Measure how near a generator's samples, or a folder's images, come to real faces.",
        "facegan eval runs/dcgan-out --shards out/ --n 2000",
    ),
    "export": (
        "Write a generator for other programs: weights, graphs, samples, and a model card.",
        "facegan export runs/dcgan-out generator/ --onnx",
    ),
    "report": (
        "Make a page of a run to look at: samples, dataset, curves, warnings, metrics, settings.",
        "facegan report runs/dcgan-out --explore",
    ),
    "compare": (
        "Show runs side by side: the settings that differ, rates, losses, findings, measurements.",
        "facegan compare runs/dcgan-out runs/wgan-gp-out --out both.png",
    ),
    "run": (
        "Run the stages of a recipe that are not up to date: photographs → faces → a trained generator → samples.",
        "facegan run celeba-dcgan-64 --set prep.source=img_align_celeba --to runs/mine",
    ),
    "recipes": (
        "List, show, check and copy recipes: whole experiments as TOML files.",
        "",
    ),
    "demo": (
        "Draw portraits, prepare them with the real detector, train a small DCGAN, sample and report: "
        "under three minutes.",
        "facegan demo /tmp/demo",
    ),
    "models": (
        "List and fetch the face detection models.",
        "",
    ),
    "doctor": (
        "One table of what is installed, the hardware, the detector models, and what is missing, with its remedy.",
        "facegan doctor --json",
    ),
    "bench": (
        "Measure facegan beside the same job by hand.",
        "",
    ),
}


class Commands(typer.core.TyperGroup):
    """Knows the names and what each command does; a command itself is there once it is resolved."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = {name: typer.core.TyperCommand(name, help=line) for name, (line, _) in COMMANDS.items()}

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] in COMMANDS:
            self.commands[args[0]] = load(args[0])
        return super().resolve_command(ctx, args)


def load(name: str) -> Any:
    """The command, or the group of commands, with all its options."""
    module = importlib.import_module(f"facegan.cli.{name}")
    if hasattr(module, "app"):
        group = typer.main.get_group(module.app)  # `get_command` would give it options of its own for completion
        group.name = name
        for below in group.commands.values():
            _without_types(below.get_params(typer.Context(below)))
        _without_types(group.get_params(typer.Context(group)))
        return group
    function, (_, example) = getattr(module, name), COMMANDS[name]
    # Typer breaks lines of later paragraphs where the docstring does.
    paragraphs = (" ".join(paragraph.split()) for paragraph in (function.__doc__ or "").split("\n\n"))
    one = typer.Typer(add_completion=False, rich_markup_mode="rich")
    one.command(name, help="\n\n".join(paragraphs), epilog=f"Example: {example}")(function)
    command = typer.main.get_command(one)
    command.name = name
    _without_types(command.get_params(typer.Context(command)))
    return command


def _without_types(parameters: list[Any]) -> list[Any]:
    """Help shows a flag as it is written: ``--json``, and not ``--json <bool>``."""
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


def _version(wanted: bool) -> None:
    if wanted:
        print_result(f"facegan {facegan.__version__}")
        raise typer.Exit


@app.callback()
def _facegan(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and ends the process with its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if sys.stderr is None:  # closed by `2>&-`
        sys.stderr = io.StringIO()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path is printed as its bytes are, and nothing ends in a traceback
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
        return  # all is saved, and its sentence comes
    _ignore_signals()  # the first one is on its way: another would break into the tidying up
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _run(arguments: list[str]) -> int:
    # What came as an argument is data, wherever a message repeats a part of it.
    parts = [text for argument in arguments for part in re.split("[/=]", argument) for text in (part, part.strip())]

    def say(error: BaseException, text: str, code: int) -> int:
        return _say(error, show_breaks(text, parts), code, "--debug" in arguments)

    try:
        code = app(arguments, prog_name="facegan", standalone_mode=False)
        if code == 130:  # typer has turned the interruption into its code, and says nothing
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
        if hasattr(error, "format_message"):  # typer's usage errors, whichever click they come from
            if type(error).__name__ == "NoArgsIsHelpError":  # a group by its bare name: its help was printed
                return 2
            return say(error, _usage_sentence(error), 2)
        text = (
            f"This is a fault in facegan: {type(error).__name__}: {error}\nThe same command with --debug shows where."
        )
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

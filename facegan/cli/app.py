"""``facegan``: the commands, and the one place that turns errors into sentences and exit codes."""

from __future__ import annotations

import io
import re
import signal
import sys
from typing import Annotated, Any

import typer

import facegan
from facegan.cli.commands import Commands
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
from facegan.machine import configure_openmp
from facegan.own import shut_current_folder

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

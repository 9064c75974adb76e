"""The program inside this process, where torch is imported once; tests/cli/run.py starts it in one of its own."""

from __future__ import annotations

import contextlib
import io
import signal
from typing import NamedTuple

from facegan.cli.app import main


class Ended(NamedTuple):
    code: int
    stdout: str
    stderr: str


def facegan(*arguments: object) -> Ended:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    out, err, code = io.StringIO(), io.StringIO(), 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return Ended(code, out.getvalue(), err.getvalue())

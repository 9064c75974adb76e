"""What a command prints, read as it comes; and the end of the command and of all that it started."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
import weakref
from collections.abc import Callable
from typing import BinaryIO, cast

from facegan.own import command_environment
from facegan.remote import TIMEOUT_VARIABLE, timeout_seconds

_LOOK_MILLISECONDS = 100
_PATIENCE = 10  # times the timeout of a connection, without a byte: commands may have something to prepare
_END_SECONDS = 1.0  # to end in good order
_LEAST = 512  # bytes by which tarfile tells how a stream is packed


class Pipe:
    """The standard output of a command that the shell runs, as a file to read.

    Args:
        stop: is called now and then while nothing comes, and raises to end it.
    """

    def __init__(self, command: str, stop: Callable[[], None]) -> None:
        self._command, self._stop = command, stop
        # The user's own words, which `pipe:` promises to give to the shell; a session, to end whatever they start.
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", command], stdout=subprocess.PIPE, start_new_session=True, env=command_environment()
        )
        self._output = cast(BinaryIO, self._process.stdout)  # it was asked for
        self._kill = weakref.finalize(self, _kill, self._process)  # at the end of this process, too

    def read(self, size: int) -> bytes:
        """As many bytes as there are, of so many; fewer than a tar's block only at the end.

        Raises:
            OSError: the command failed, or has printed nothing for too long.
        """
        data = b""
        while len(data) < min(size, _LEAST):
            self._wait()
            if not (piece := os.read(self._output.fileno(), size - len(data))):
                self._check()
                break
            data += piece
        return data

    def _wait(self) -> None:
        poll, since = select.poll(), time.monotonic()
        poll.register(self._output.fileno(), select.POLLIN)
        while not poll.poll(_LOOK_MILLISECONDS):
            self._stop()
            if time.monotonic() - since > (patience := _PATIENCE * timeout_seconds()):
                raise OSError(f"it has printed nothing for {patience:g} seconds ({TIMEOUT_VARIABLE} is a tenth of it)")

    def _check(self) -> None:
        """How it ended. One that prints no more, and does not end, is ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if status := self._process.wait(_END_SECONDS):
                raise OSError(f"its exit code is {status}")

    def close(self) -> None:
        self._output.close()
        self._kill()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends a command's whole group, unless it has ended: then its number may be another's."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, kind)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)

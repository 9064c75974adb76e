"""Files that are being written, locked as long as their writer lives: so those of killed runs can be told apart."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from facegan.files import TEMPORARY, disk_errors
from facegan.remote import timeout_seconds

_LOOK_SECONDS = 0.1
_PATIENCE = 3  # times the timeout of a connection, without any progress
_numbers = itertools.count()


def is_silent(since: float) -> bool:
    """Whether nothing has gone on for too long."""
    return time.monotonic() - since > silence_seconds()


def silence_seconds() -> float:
    """After so long without a byte nobody waits any more; the libraries' own timeouts should come first."""
    return _PATIENCE * timeout_seconds()


@contextlib.contextmanager
def partial_file(target: Path) -> Iterator[Path]:
    """A new file beside ``target`` to fill and rename; it goes at the end, if it was not renamed."""
    with contextlib.ExitStack() as held:
        while True:
            path = target.with_name(f".{target.name}.{os.getpid()}-{next(_numbers)}{TEMPORARY}")
            with contextlib.suppress(BlockingIOError):
                held.enter_context(new_file(path))
                break
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """An empty file, locked, to read and write.

    Raises:
        BlockingIOError: somebody writes it already, or takes it for abandoned at this moment.
    """
    with disk_errors(path.parent):
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b")
    with file, locked(file, fcntl.LOCK_EX):
        if not is_at(file, path):
            raise BlockingIOError(f"{path} was removed")
        file.truncate()
        yield file


@contextlib.contextmanager
def locked(file: BinaryIO, how: int) -> Iterator[None]:
    """
    Raises:
        BlockingIOError: others hold it.
    """
    fcntl.flock(file, how | fcntl.LOCK_NB)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)  # closing alone would leave it to processes that were forked meanwhile


def is_at(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is the one that ``path`` names."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def remove_abandoned(folder: Path) -> None:
    """Deletes half-written files whose writer is gone."""
    for path in folder.glob(f".*{TEMPORARY}"):
        with contextlib.suppress(OSError), path.open("rb") as file, locked(file, fcntl.LOCK_EX):
            path.unlink()


@contextlib.contextmanager
def turn(lock: Path, progress: Callable[[], object], stop: Callable[[], None]) -> Iterator[bool]:
    """Waits for whoever holds ``lock``, as long as what ``progress`` gives changes now and then.

    Yields:
        whether it is ours now; else the others hold it, and get no further.
    """
    with disk_errors(lock.parent):
        file = lock.open("ab")
    with file, contextlib.ExitStack() as held:
        seen, since, ours = progress(), time.monotonic(), False
        while not ours and not is_silent(since):
            try:
                held.enter_context(locked(file, fcntl.LOCK_EX))
                ours = True
            except BlockingIOError:
                stop()
                time.sleep(_LOOK_SECONDS)
                if (now := progress()) != seen:
                    seen, since = now, time.monotonic()
        yield ours

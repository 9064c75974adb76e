"""The lock of a dataset at a URL: a file that one run puts there, by a conditional put, and takes away at its end."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from facegan.errors import DamagedFile, FaceganError
from facegan.files import parse_json
from facegan.prep.out.store import Store
from facegan.shards.layout import STATE_FOLDER

LOCK = f"{STATE_FOLDER}/lock"


class RemoteLock:
    """Says who writes. It does not end with its process, as a lock of this machine's does.

    That of a process of this machine which is no more is taken over; that of another machine only with ``force``.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        self._told = {**_us(), "since": since, "token": os.urandom(8).hex()}
        self._mine = json.dumps(self._told).encode()

    @contextlib.contextmanager
    def held(self, force: bool) -> Iterator[None]:
        """
        Raises:
            FaceganError: another run holds it.
        """
        while not self._store.create(LOCK, self._mine):
            holder = self._store.read(LOCK)
            if holder is not None and not force and not _is_dead(holder):
                where = self._store.where
                raise FaceganError(
                    f"Another facegan prep is writing into {where} ({_shown(holder)}). Wait for it, or stop it.\n"
                    f"If it is dead: --force takes over (what is unfinished goes on, a dataset that stands is made "
                    f"anew), or delete {where}/{LOCK} and start again."
                )
            self._store.remove([LOCK])
        try:
            yield
        finally:
            with contextlib.suppress(Exception):  # it is stale then, and the next run says so
                if self._store.read(LOCK) == self._mine:
                    self._store.remove([LOCK])

    def require(self) -> None:
        """
        Raises:
            FaceganError: another run has taken it over.
        """
        holder = self._store.read(LOCK)
        if holder != self._mine:
            by = f"by {_shown(holder)}" if holder else "or deleted"
            raise FaceganError(f"The lock of {self._store.where} was taken over {by}: this run stops.")


def _us() -> dict[str, Any]:
    """This process. Its number means something on this machine, since it was started, in this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        machine = f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - no path, but a name for a namespace
    except OSError:
        machine = ""
    return {"process": os.getpid(), "host": socket.gethostname(), "machine": machine}


def _is_dead(holder: bytes) -> bool:
    """Whether we know that the process is no more; of another machine's we don't."""
    try:
        told, us = parse_json(holder, LOCK), _us()
        if not us["machine"] or (told["host"], told["machine"]) != (us["host"], us["machine"]):
            return False
        os.kill(int(told["process"]), 0)
    except ProcessLookupError:
        return True
    except (DamagedFile, ValueError, KeyError, TypeError, OSError, OverflowError):
        return False
    return False


def _shown(holder: bytes) -> str:
    try:
        told = parse_json(holder, LOCK)
        return f"process {told['process']!s:.20} on {told['host']!s:.60}, since {told['since']!s:.40}"
    except (DamagedFile, KeyError, TypeError):
        return "somebody"

"""Photographs that kill: a folder whose reader ends its own process at some of them, as a fault in a decoder would."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from facegan.prep.sources.base import Entry
from facegan.prep.sources.folder import Folder, FolderReader
from facegan.remote import RemoteUnavailable


@dataclass(frozen=True)
class Deadly:
    """A folder. Photographs named in ``killers`` kill whoever reads them; so does the next one read, and then no more,
    while the file ``once`` is there. Those in ``away`` can't be reached while the file ``offline`` is there."""

    path: Path
    killers: frozenset[bytes] = frozenset()
    once: Path = field(default=Path("/nonexistent"))
    away: frozenset[bytes] = frozenset()
    offline: Path = field(default=Path("/nonexistent"))

    @property
    def where(self) -> str:
        return str(self.path)

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        return Folder(self.path).photos(ignored)

    def marks(self) -> tuple[str, ...]:
        return ()

    def unpacked(self, folder: Path) -> Deadly:
        return self

    def reader(self) -> DeadlyReader:
        return DeadlyReader(self)


class DeadlyReader:
    def __init__(self, source: Deadly) -> None:
        self._source = source
        self._reader: FolderReader = Folder(source.path).reader()

    def read(self, entry: Entry) -> bytes:
        source = self._source
        if source.once.exists():
            source.once.unlink()
            os.kill(os.getpid(), signal.SIGSEGV)
        if entry.name in source.killers:
            os.kill(os.getpid(), signal.SIGKILL)
        if entry.name in source.away and source.offline.exists():
            raise RemoteUnavailable("offline")
        return self._reader.read(entry)

    def close(self) -> None:
        self._reader.close()

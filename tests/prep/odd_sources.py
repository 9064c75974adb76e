"""A folder of photographs that kill the process which reads them, and a source of any number of photographs."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from facegan.config import PrepConfig
from facegan.prep import plan as module
from facegan.prep.prepare import PrepResult, prepare
from facegan.prep.sources.base import Entry, Source
from facegan.prep.sources.folder import Folder
from facegan.remote import RemoteUnavailable


@dataclass(frozen=True)
class CrashingSource(Source):
    """A folder with faults."""

    fatal: frozenset[bytes] = frozenset()  # names of photographs that kill their reader
    once: Path = Path("/nonexistent")  # while it exists, the next read deletes it and kills the reader
    offline: frozenset[bytes] = frozenset()  # names that cannot be read while `is_offline` exists
    is_offline: Path = Path("/nonexistent")

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        return Folder(self.where).photos(ignored)

    def reader(self) -> CrashingReader:
        return CrashingReader(self)


class CrashingReader:
    def __init__(self, source: CrashingSource) -> None:
        self._source = source
        self._reader = Folder(source.where).reader()

    def read(self, entry: Entry) -> bytes:
        source = self._source
        if source.once.exists():
            source.once.unlink()
            os.kill(os.getpid(), signal.SIGSEGV)
        if entry.name in source.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        if entry.name in source.offline and source.is_offline.exists():
            raise RemoteUnavailable("offline")
        return self._reader.read(entry)

    def close(self) -> None:
        self._reader.close()


def prepare_crashing(
    monkeypatch: pytest.MonkeyPatch, source: CrashingSource, out: Path, config: PrepConfig, **options
) -> PrepResult:
    with monkeypatch.context() as patch:
        patch.setattr(module, "open_source", lambda *_: source)
        return prepare(source.where, out, config, **options)


@dataclass(frozen=True)
class SyntheticSource(Source):
    """``count`` unsorted names of a few portraits. Creates ``signs/listed`` after the last, ``signs/read`` at the first
    read."""

    count: int
    signs: Path

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        entries = list(Folder(self.where).photos(ignored))
        for i in range(self.count):
            name = b"%08d.jpg" % (i * 7919 % self.count)
            yield entries[i % len(entries)]._replace(name=name, locator=(i % len(entries),))
        (self.signs / "listed").touch()

    def reader(self) -> SyntheticReader:
        return SyntheticReader(self)


class SyntheticReader:
    """Takes 10 ms per photograph."""

    def __init__(self, source: SyntheticSource) -> None:
        self._signs = source.signs
        self._entries = list(Folder(source.where).photos(Counter()))
        self._reader = Folder(source.where).reader()

    def read(self, entry: Entry) -> bytes:
        time.sleep(0.01)
        (self._signs / "read").touch()
        return self._reader.read(self._entries[entry.locator[0]])

    def close(self) -> None:
        self._reader.close()

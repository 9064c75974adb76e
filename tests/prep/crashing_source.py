"""A folder of photographs that kill the process which reads them, as a crash in a decoder would."""

from __future__ import annotations

import os
import signal
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
    """A folder with faults.

    Attributes:
        fatal: names of photographs that kill their reader.
        once: a file; while it exists the next read deletes it and kills the reader.
        offline: names of photographs that cannot be read while the file ``is_offline`` exists.
    """

    where: str
    fatal: frozenset[bytes] = frozenset()
    once: Path = Path("/nonexistent")
    offline: frozenset[bytes] = frozenset()
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

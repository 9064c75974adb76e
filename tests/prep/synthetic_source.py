"""A source of any number of photographs: names without files, each with the bytes of one of a few portraits."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from facegan.prep.sources.base import Entry, Source
from facegan.prep.sources.folder import Folder


@dataclass(frozen=True)
class SyntheticSource(Source):
    """``count`` unsorted names. Creates ``signs/listed`` after the last name, ``signs/read`` at the first read."""

    where: str
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

"""A source of more photographs than anybody has: names without end, and under each of them one of a few portraits."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from facegan.prep.sources.base import Entry
from facegan.prep.sources.folder import Folder, FolderReader


@dataclass(frozen=True)
class Many:
    """``count`` names in no order. Touches ``told/listed`` when all are told, ``told/read`` when one was read."""

    photographs: Path
    count: int
    told: Path

    @property
    def where(self) -> str:
        return str(self.photographs)

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        entries = list(Folder(self.photographs).photos(ignored))
        for i in range(self.count):
            name = b"%08d.jpg" % (i * 7919 % self.count)
            yield entries[i % len(entries)]._replace(name=name, place=(i % len(entries),))
        (self.told / "listed").touch()

    def marks(self) -> tuple[str, ...]:
        return ()

    def unpacked(self, folder: Path) -> Many:
        return self

    def reader(self) -> ManyReader:
        return ManyReader(self)


class ManyReader:
    """Takes its time over each."""

    def __init__(self, source: Many) -> None:
        self._told = source.told
        self._entries = list(Folder(source.photographs).photos(Counter()))
        self._reader: FolderReader = Folder(source.photographs).reader()

    def read(self, entry: Entry) -> bytes:
        time.sleep(0.01)
        (self._told / "read").touch()
        return self._reader.read(self._entries[entry.place[0]])

    def close(self) -> None:
        self._reader.close()

"""Several archives of one kind as one source: ``laion/{00000..00099}.tar``, ``photos/*.zip``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from facegan.prep.sources.base import Entry, Reader, Source


@dataclass(frozen=True)
class Archives:
    """The photographs of several archives under their names there. A name may stand in one of them only."""

    where: str
    members: tuple[Source, ...]

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        for number, source in enumerate(self.members):
            for entry in source.photos(ignored):
                yield entry._replace(place=(number, *entry.place))

    def unpacked(self, folder: Path) -> Archives:
        unpacked = []
        for number, source in enumerate(self.members):
            below = folder / f"{number:05d}"
            below.mkdir(parents=True, exist_ok=True)
            unpacked.append(source.unpacked(below))
        return Archives(self.where, tuple(unpacked))

    def reader(self) -> ArchivesReader:
        return ArchivesReader(self.members)


class ArchivesReader:
    """Opens each archive when it is first read from, and keeps a few open."""

    _most_open = 16

    def __init__(self, members: tuple[Source, ...]) -> None:
        self._members = members
        self._open: dict[int, Reader] = {}

    def read(self, entry: Entry) -> bytes:
        number, *place = entry.place
        if number not in self._open:
            if len(self._open) == self._most_open:
                self._open.pop(next(iter(self._open))).close()
            self._open[number] = self._members[number].reader()
        return self._open[number].read(entry._replace(place=tuple(place)))

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

"""Several archives of one kind as one source: ``laion/{00000..00099}.tar``, ``photos/*.zip``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from facegan.errors import SourceError
from facegan.prep.sources.base import Entry, Fetching, Readable, Reader, Request, Source
from facegan.remote import Unreachable, is_url


@dataclass(frozen=True)
class Archives:
    """The photographs of several archives under their names there. A name may stand in one of them only."""

    where: str
    members: tuple[Source, ...]

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        for number, source in enumerate(self.members):
            for entry in source.photos(ignored):
                yield entry._replace(place=(number, *entry.place))

    def marks(self) -> tuple[str, ...]:
        return tuple(mark for source in self.members for mark in source.marks())

    def unpacked(self, folder: Path) -> UnpackedArchives:
        unpacked = []
        for number, source in enumerate(self.members):
            below = folder / f"{number:05d}"
            below.mkdir(parents=True, exist_ok=True)
            unpacked.append(source.unpacked(below))
        return UnpackedArchives(self.where, tuple(unpacked))


@dataclass(frozen=True)
class UnpackedArchives:
    """Archives whose photographs can be read in any order."""

    where: str
    members: tuple[Readable, ...]

    def reader(self) -> ArchivesReader:
        some_are_remote = any(is_url(member.where) for member in self.members)
        return (RemoteArchivesReader if some_are_remote else ArchivesReader)(self.members)


class ArchivesReader:
    """Opens each archive when it is first read from, and keeps a few open."""

    _most_open = 16

    def __init__(self, members: tuple[Readable, ...]) -> None:
        self._members = members
        self._open: dict[int, Reader] = {}

    def read(self, entry: Entry) -> bytes:
        number, *place = entry.place
        return self._member(number).read(entry._replace(place=tuple(place)))

    def _member(self, number: int) -> Reader:
        if number not in self._open:
            if len(self._open) == self._most_open:
                self._open.pop(next(iter(self._open))).close()
            try:
                self._open[number] = self._members[number].reader()
            except (OSError, SourceError) as error:  # it was there when it was listed
                raise Unreachable(str(error)) from error
        return self._open[number]

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()


class RemoteArchivesReader(ArchivesReader):
    """Of archives behind URLs, or some of them."""

    def request(self, entry: Entry) -> Request | None:
        number, *place = entry.place
        if not is_url(self._members[number].where):  # it is opened when it is read
            return None
        reader = self._member(number)
        return reader.request(entry._replace(place=tuple(place))) if isinstance(reader, Fetching) else None

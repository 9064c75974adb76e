"""What every source of photographs has in common: entries, what counts as a photograph, where bytes lie."""

from __future__ import annotations

import contextlib
import lzma
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from facegan.errors import DamagedFile, DamagedSourceError, SourceError
from facegan.files import parsing
from facegan.remote import RemoteUnavailable, as_source_error, is_url
from facegan.shards.format import has_photo_suffix, readable_path
from facegan.unpack import MAX_PHOTO_BYTES

MAX_BYTES = MAX_PHOTO_BYTES


class Entry(NamedTuple):
    """A photograph in a source.

    Attributes:
        name: its path there.
        size: bytes of its file; 0 where that is not known before it is read.
        place: how its source finds it again.
        label: its class, 0 where the source has none.
        part: the source's own split (train, val, test); empty where it has none.
    """

    name: bytes
    size: int
    place: tuple[int, ...] = ()
    label: int = 0
    part: str = ""


class Source(Protocol):
    """Photographs with stable names."""

    @property
    def where(self) -> str:
        """As the user knows it."""
        ...

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        """Every photograph, in any order; of a name that comes twice the later one counts.

        Args:
            ignored: counts what is no photograph, by suffix.
        """
        ...

    def marks(self) -> tuple[str, ...]:
        """Digests of the files behind it, where neither names nor sizes tell one of its photographs from another
        source's; else none."""
        ...

    def unpacked(self, folder: Path) -> Readable:
        """The same entries, to be read in any order: itself, or what it had to unpack in ``folder``."""
        ...


class Readable(Protocol):
    """What `Source.unpacked` gives. Small and picklable: each worker opens its own reader."""

    @property
    def where(self) -> str: ...

    def reader(self) -> Reader: ...


class Reader(Protocol):
    """Reads photographs of one source inside one process.

    Raises:
        Unreachable, OSError: the bytes can't be had now; another time they may be.
        TooLarge: there are more of them than a photograph may have.
        Exception: one of `DAMAGED`: they are there, and damaged.
    """

    def read(self, entry: Entry) -> bytes: ...

    def close(self) -> None: ...


# Hears how many bytes a photograph has or has sent, and raises `TooLarge` if those are too many.
Room = Callable[[int], None]
# Fetches a photograph as `Reader.read` would, in any thread.
Request = Callable[[Room], bytes]


@runtime_checkable
class Fetching(Reader, Protocol):
    """A reader whose photographs, some of them at least, come one by one from elsewhere."""

    def request(self, entry: Entry) -> Request | None:
        """How to fetch it; None where it is to be read. Raises what `read` would."""
        ...


# What reading raises for a file that is damaged, or a zip's member that is encrypted or packed in an unknown way.
DAMAGED = (EOFError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)


class Ignored(Counter[str]):
    """Counts of what is no photograph, by suffix or kind, and the first names of some kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, list[str]] = {}


def ignore(ignored: Counter[str], kind: str, name: bytes) -> None:
    """Counts a file that is no photograph and that users want named."""
    ignored[kind] += 1
    if isinstance(ignored, Ignored):
        names = ignored.names.setdefault(kind, [])
        names[:] = sorted([*names, repr(readable_path(name))[1:-1]])[:_NAMES_KEPT]  # without control characters


_NAMES_KEPT = 3


def is_photo(name: bytes) -> bool:
    # macOS puts a file ._NAME with its attributes beside every NAME it archives.
    return has_photo_suffix(name) and not (b"._" in name and name.rpartition(b"/")[2].startswith(b"._"))


def suffix(name: bytes) -> str:
    """By what a file that is no photograph is counted."""
    file = name.rpartition(b"/")[2]
    if file.startswith(b"._"):
        return "._"
    stem, dot, last = file.rpartition(b".")
    return "." + last.decode("utf-8", "backslashreplace").lower() if dot and stem else "(none)"


def archive_name(name: str) -> bytes:
    """A member's name as a path below the archive: no leading ``/`` or ``./``."""
    return below_archive(name.encode("utf-8", "surrogateescape"))


def below_archive(raw: bytes) -> bytes:
    while raw.startswith((b"/", b"./")):
        raw = raw.removeprefix(b".").removeprefix(b"/")
    return raw


def common_folder(first: bytes, last: bytes) -> bytes:
    """The deepest folder that holds all names between two sorted ones, with its final slash; empty at the top."""
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[: first.rfind(b"/", 0, same) + 1]


@contextlib.contextmanager
def sound(where: str) -> Iterator[None]:
    """
    Raises:
        SourceError: the source can't be reached.
        DamagedSourceError: it is damaged: in place of whatever its parser raises.
    """
    try:
        with parsing(where, "Take an undamaged copy, or name another source."), as_source_error(where):
            yield
    except DamagedFile as error:
        raise DamagedSourceError(str(error)) from None


def listed(source: Source, ignored: Counter[str]) -> Iterator[Entry]:
    """`Source.photos`; raises as `sound`."""
    with sound(source.where):
        yield from source.photos(ignored)


# Several archives of one kind as one source: ``laion/{00000..00099}.tar``, ``photos/*.zip``.


@dataclass(frozen=True)
class MultiSource:
    """The photographs of several archives under their names there. A name may stand in one of them only."""

    where: str
    members: tuple[Source, ...]

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        for number, source in enumerate(self.members):
            for entry in source.photos(ignored):
                yield entry._replace(place=(number, *entry.place))

    def marks(self) -> tuple[str, ...]:
        return tuple(mark for source in self.members for mark in source.marks())

    def unpacked(self, folder: Path) -> UnpackedMultiSource:
        unpacked = []
        for number, source in enumerate(self.members):
            below = folder / f"{number:05d}"
            below.mkdir(parents=True, exist_ok=True)
            unpacked.append(source.unpacked(below))
        return UnpackedMultiSource(self.where, tuple(unpacked))


@dataclass(frozen=True)
class UnpackedMultiSource:
    """Archives whose photographs can be read in any order."""

    where: str
    members: tuple[Readable, ...]

    def reader(self) -> MultiReader:
        some_are_remote = any(is_url(member.where) for member in self.members)
        return (RemoteMultiReader if some_are_remote else MultiReader)(self.members)


class MultiReader:
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
                raise RemoteUnavailable(str(error)) from error
        return self._open[number]

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()


class RemoteMultiReader(MultiReader):
    """Of archives behind URLs, or some of them."""

    def request(self, entry: Entry) -> Request | None:
        number, *place = entry.place
        if not is_url(self._members[number].where):  # it is opened when it is read
            return None
        reader = self._member(number)
        return reader.request(entry._replace(place=tuple(place))) if isinstance(reader, Fetching) else None

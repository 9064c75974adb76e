"""What all sources of photographs share: entries, protocols, which files are photographs, several archives as one."""

from __future__ import annotations

import contextlib
import functools
import json
import lzma
import re
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from facegan.errors import DamagedFile, DamagedSourceError, SourceError
from facegan.files import human_bytes, parsing
from facegan.remote import as_source_error, is_url
from facegan.shards.format import SPLITS, has_photo_suffix, readable_path
from facegan.unpack import MAX_PHOTO_BYTES

MAX_BYTES = MAX_PHOTO_BYTES
LABELS_FILE = "dataset.json"
_MAX_LABELS_BYTES = 64 << 20  # two million photographs
_LABELS_START = re.compile(rb'"labels"\s*:\s*\[')
_LABEL = re.compile(rb'\s*\[\s*"((?:[^"\\]|\\.)*)"\s*,\s*(-?\d{1,18})\s*\]\s*([,\]])')
_NAMES_KEPT = 3
# CelebA's attributes and split, as Kaggle and torchvision have them.
ATTRIBUTES_FILES = b"list_attr_celeba.csv", b"list_attr_celeba.txt"
SPLIT_FILES = b"list_eval_partition.csv", b"list_eval_partition.txt"

# What reading raises for a damaged file, and for an encrypted zip member or one with an unknown compression.
DAMAGED = (EOFError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)


class Entry(NamedTuple):
    """A photograph in a source."""

    name: bytes  # its path in the source
    size: int  # of its file in bytes; 0 if unknown before it is read
    locator: tuple[int, ...] = ()  # where its source finds it
    label: int = 0  # its class; 0 if the source has none
    part: str = ""  # the source's split (train, val, test); empty if it has none


@dataclass(frozen=True)
class Source(ABC):
    """Photographs with stable names; small and picklable. ``where`` is the user's name for it."""

    where: str

    @abstractmethod
    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        """Every photograph, unsorted and unopened; of a repeated name the last entry counts. Other files are counted
        by suffix."""

    def digests(self) -> tuple[str, ...]:
        """Digests of its files if neither names nor sizes tell its photographs from another source's; else none."""
        return ()

    def unpacked(self, folder: Path) -> Source:
        """The same entries for random access: itself, or what had to be unpacked into ``folder``."""
        return self

    @abstractmethod
    def reader(self) -> Reader:
        """A reader for one process, of a source that is `unpacked`."""


class Reader(Protocol):
    """Reads photographs of one source in one process. Raises RemoteUnavailable or OSError if the bytes are unavailable
    now, perhaps not later; TooLarge above `MAX_BYTES`; one of `DAMAGED` if they are damaged."""

    def read(self, entry: Entry) -> bytes: ...

    def close(self) -> None:
        return


# Called with the bytes that a photograph has or has sent so far; raises `TooLarge` to stop.
OnBytes = Callable[[int], None]
# Fetches a photograph as `Reader.read` would, in any thread.
Request = Callable[[OnBytes | None], bytes]


@runtime_checkable
class RemoteReader(Reader, Protocol):
    """A reader that fetches some photographs one by one from servers."""

    def request(self, entry: Entry) -> Request | None:
        """How to fetch it; None if only `read` can. Raises what `read` would."""


class Ignored(Counter[str]):
    """Counts of files that are not photographs, by suffix or kind; the first names of some kinds; CelebA's lists."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, list[str]] = {}
        self.lists: dict[bytes, Entry] = {}  # by name


def ignore(ignored: Counter[str], kind: str, name: bytes) -> None:
    """Count a file that is not a photograph and keep its name for messages."""
    ignored[kind] += 1
    if isinstance(ignored, Ignored):
        names = ignored.names.setdefault(kind, [])
        names[:] = sorted([*names, repr(readable_path(name))[1:-1]])[:_NAMES_KEPT]  # without control characters


def skip(ignored: Counter[str], entry: Entry) -> None:
    """Count a file that is not a photograph by its suffix; keep a list of CelebA's."""
    ignored[suffix(entry.name)] += 1
    if isinstance(ignored, Ignored) and entry.name.rpartition(b"/")[2] in ATTRIBUTES_FILES + SPLIT_FILES:
        ignored.lists[entry.name] = entry


def is_photo(name: bytes) -> bool:
    # macOS adds a file ._NAME with attributes for every NAME that it archives.
    return has_photo_suffix(name) and not (b"._" in name and name.rpartition(b"/")[2].startswith(b"._"))


def suffix(name: bytes) -> str:
    """The suffix under which an ignored file is counted."""
    file = name.rpartition(b"/")[2]
    if file.startswith(b"._"):
        return "._"
    stem, dot, last = file.rpartition(b".")
    return "." + last.decode("utf-8", "backslashreplace").lower() if dot and stem else "(none)"


def archive_path(name: bytes) -> bytes:
    """A member's name as a path below the archive: without leading ``/`` and ``./``."""
    while name.startswith((b"/", b"./")):
        name = name.removeprefix(b".").removeprefix(b"/")
    return name


def common_folder(first: bytes, last: bytes) -> bytes:
    """The deepest folder of all names between two sorted ones, with its final slash; empty at the top."""
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[: first.rfind(b"/", 0, same) + 1]


def read_labels(file: Any, where: str) -> dict[bytes, int]:
    """Name → label from StyleGAN's ``{"labels": [["00000/img00000000.png", 6], …]}`` (NVlabs, dataset_tool.py); empty
    if the file is something else, or its labels are null or vectors. Raises SourceError if it is too large.

    Pairs are matched one by one: parsed as a whole, those of a million photographs would take 200 MB more.
    """
    data = file.read(_MAX_LABELS_BYTES + 1)
    if len(data) > _MAX_LABELS_BYTES:
        raise SourceError(
            f"{LABELS_FILE} in {where} has more than {human_bytes(_MAX_LABELS_BYTES)}, the limit for labels.\n"
            "Remove or rename it to prepare the photographs without labels."
        )
    labels: dict[bytes, int] = {}
    number = functools.lru_cache(100_000)(int)  # photographs of a class share its number in memory
    found = _LABELS_START.search(data)
    while found and (found := _LABEL.match(data, found.end())):
        name, label, after = found.groups()
        labels[json.loads(b'"%s"' % name).encode("utf-8", "surrogateescape") if b"\\" in name else name] = number(label)
        if after == b"]":
            return labels
    return {}


def read_split(lines: Iterable[bytes], where: str) -> Iterator[tuple[bytes, str]]:
    """File name and split from CelebA's list_eval_partition: ``000001.jpg 0``, or with a comma and a first line of
    names. Raises SourceError for other lines."""
    for number, line in enumerate(lines, 1):
        name, _, part = line.strip().replace(b",", b" ").rpartition(b" ")
        if name and part in (b"0", b"1", b"2"):
            yield name.strip(), SPLITS[int(part)]
        elif number > 1 and (name or part):
            raise SourceError(f"Line {number} of {where} must have a file name and 0, 1 or 2 (train, val, test).")


@contextlib.contextmanager
def source_errors(where: str) -> Iterator[None]:
    """Raises SourceError if the source is unavailable, DamagedSourceError if its parser raised anything else."""
    try:
        with parsing(where, "Take an undamaged copy, or name another source."), as_source_error(where):
            yield
    except DamagedFile as error:
        raise DamagedSourceError(str(error)) from None


def listed(source: Source, ignored: Counter[str]) -> Iterator[Entry]:
    """`Source.photos`; raises as `source_errors`."""
    with source_errors(source.where):
        yield from source.photos(ignored)


@dataclass(frozen=True)
class MultiSource(Source):
    """Several archives as one source (``laion/{00000..00099}.tar``). Names must differ between archives."""

    members: tuple[Source, ...]

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        for number, source in enumerate(self.members):
            for entry in listed(source, ignored):
                yield entry._replace(locator=(number, *entry.locator))

    def digests(self) -> tuple[str, ...]:
        return tuple(digest for source in self.members for digest in source.digests())

    def unpacked(self, folder: Path) -> MultiSource:
        unpacked = []
        for number, source in enumerate(self.members):
            below = folder / f"{number:05d}"
            below.mkdir(parents=True, exist_ok=True)
            with source_errors(source.where):
                unpacked.append(source.unpacked(below))
        return MultiSource(self.where, tuple(unpacked))

    def reader(self) -> MultiReader:
        some_are_remote = any(is_url(member.where) for member in self.members)
        return (RemoteMultiReader if some_are_remote else MultiReader)(self.members)


class MultiReader(Reader):
    """Opens each archive at its first read and keeps a few open."""

    _max_open = 16

    def __init__(self, members: tuple[Source, ...]) -> None:
        self._members = members
        self._open: dict[int, Reader] = {}

    def read(self, entry: Entry) -> bytes:
        reader, inner = self._find(entry)
        return reader.read(inner)

    def _find(self, entry: Entry) -> tuple[Reader, Entry]:
        number, *locator = entry.locator
        if number not in self._open:
            if len(self._open) == self._max_open:
                self._open.pop(next(iter(self._open))).close()
            self._open[number] = self._members[number].reader()
        return self._open[number], entry._replace(locator=tuple(locator))

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()


class RemoteMultiReader(MultiReader):
    """Some of the archives are behind URLs."""

    def request(self, entry: Entry) -> Request | None:
        reader, inner = self._find(entry)
        return reader.request(inner) if isinstance(reader, RemoteReader) else None

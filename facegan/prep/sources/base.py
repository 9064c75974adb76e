"""What every source of photographs has in common: entries, what counts as a photograph, where bytes lie."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeVar

from facegan.errors import SourceError
from facegan.shards.layout import has_photo_suffix

MAX_BYTES = 1 << 29  # of one photograph's file; a larger one is too_large without being read
_WAITS_SECONDS = (0.2, 1.0, 4.0)  # before each further try at something remote

T = TypeVar("T")


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
    """Photographs with stable names. Sources are small and picklable: each worker opens its own reader."""

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

    def unpacked(self, folder: Path) -> Source:
        """A source of the same entries that reads in any order: itself, or what it had to unpack in ``folder``."""
        ...

    def reader(self) -> Reader: ...


class Reader(Protocol):
    """Reads photographs of one source inside one process.

    Raises:
        Unreachable: the bytes can't be had now; another time they may be.
        OSError, ValueError, zipfile.BadZipFile, …: they are there, and damaged.
    """

    def read(self, entry: Entry) -> bytes: ...

    def close(self) -> None: ...


class Unreachable(Exception):
    """A photograph's bytes can't be had now."""


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
    raw = name.encode("utf-8", "surrogateescape")
    while raw.startswith((b"/", b"./")):
        raw = raw.removeprefix(b".").removeprefix(b"/")
    return raw


def is_url(text: str) -> bool:
    return "://" in text


@dataclass(frozen=True)
class Blob:
    """A file on this machine or behind an fsspec URL."""

    where: str

    @property
    def name(self) -> str:
        return self.where.rstrip("/").rpartition("/")[2]

    def open(self) -> BinaryIO:
        """Seekable.

        Raises:
            SourceError: it is remote, and can't be had.
        """
        if not is_url(self.where):
            return Path(self.where).open("rb")
        try:
            return patiently(lambda: _remote(self.where))
        except Unreachable as error:
            raise SourceError(f"{self.where} can't be reached: {error}") from None


def _remote(url: str) -> Any:
    fs, path = filesystem(url)
    return fs.open(path, "rb")


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path in it.

    Raises:
        SourceError: a protocol that fsspec does not know, or whose package is not installed.
    """
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        extra = url.partition("://")[0].replace("https", "http")
        raise SourceError(
            f"{url} needs a package that is not installed ({error}): pip install 'facegan[{extra}]'"
        ) from None
    except ValueError as error:
        raise SourceError(f"{url}: {error}") from None


def patiently(read: Callable[[], T]) -> T:
    """What ``read`` gives, tried several times with longer and longer waits.

    Raises:
        Unreachable: it is not there, may not be read, or failed every time.
    """
    for wait in (*_WAITS_SECONDS, None):
        try:
            return read()
        except (FileNotFoundError, PermissionError) as error:
            raise Unreachable(_told(error)) from error
        except Exception as error:  # every protocol's library has errors of its own, few of them OSErrors
            if wait is None:
                raise Unreachable(_told(error)) from error
            time.sleep(wait)
    raise AssertionError("unreachable code")


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def common_folder(first: bytes, last: bytes) -> bytes:
    """The deepest folder that holds all names between two sorted ones, with its final slash; empty at the top."""
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[: first.rfind(b"/", 0, same) + 1]

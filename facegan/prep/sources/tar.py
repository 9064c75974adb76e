"""Tars, plain and packed. Members are read where they lie; nothing is extracted."""

from __future__ import annotations

import functools
import gzip
import os
import posixpath
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from facegan.errors import DamagedSourceError
from facegan.files import atomic_write
from facegan.prep.sources.base import MAX_BYTES, Entry, Request, Room, archive_name, is_photo, suffix
from facegan.prep.sources.remote import SourceFile, any_number, read_range
from facegan.prep.temp_database import TempDatabase
from facegan.remote import RemoteUnavailable, filesystem, is_url
from facegan.unpack import BoundedFile, Bounds, Unpacking

# What tarfile raises for sizes beyond the file's end, and for chains of headers, beside errors of its own.
_BROKEN = (tarfile.TarError, EOFError, RecursionError, OSError, ValueError, MemoryError, zlib.error)

# A tar of hard links has as many links as photographs.
_LINKS = "CREATE TABLE links (name BLOB PRIMARY KEY, target BLOB, size INTEGER, offset INTEGER)"
_CACHE_KB = 8_000


@dataclass(frozen=True)
class Tar:
    """Files of an uncompressed tar, links inside it resolved. Of a name that stands twice the later one counts."""

    blob: SourceFile

    @property
    def where(self) -> str:
        return self.blob.where

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        with self.blob.open() as file:
            bounds = self.blob.bounds(file)
            yield from _photos(BoundedFile(file, lambda at: None), bounds, ignored)

    def marks(self) -> tuple[str, ...]:
        return ()

    def unpacked(self, folder: Path) -> Tar:
        return Tar(self.blob.in_parts(folder))

    def reader(self) -> TarReader | RemoteTarReader:
        return RemoteTarReader(self.where) if is_url(self.where) else TarReader(Path(self.where))


@dataclass(frozen=True)
class PackedTar:
    """A ``.tar.gz``. It can't be read in any order, so it is unpacked to a plain tar before photographs are read."""

    blob: SourceFile

    @property
    def where(self) -> str:
        return self.blob.where

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        with self.blob.open() as file, gzip.open(file) as plain:
            bounds = self.blob.bounds(file)
            yield from _photos(BoundedFile(plain, bounds.check_bytes), bounds, ignored)

    def marks(self) -> tuple[str, ...]:
        return ()

    def unpacked(self, folder: Path) -> Tar:
        path = folder / f"{self.blob.name}.tar"
        try:
            blob = self.blob.in_parts(folder)
            with blob.open() as file, gzip.open(file) as plain, atomic_write(path) as out:
                Unpacking(replace(blob.bounds(file), where=self.where), folder).copy(plain, out)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DamagedSourceError(f"{self.where} is no whole tar archive ({error}).") from None
        return Tar(SourceFile(str(path)))


def _photos(file: BoundedFile, bounds: Bounds, ignored: Counter[str]) -> Iterator[Entry]:
    total = 0
    for count, entry in enumerate(_found(file, bounds.where, ignored), 1):
        if entry.size <= MAX_BYTES:  # a file has as many hard links as somebody likes, and is read for each
            total += entry.size
        bounds.check_bytes(total)
        bounds.check_photos(count)
        yield entry


def _found(file: BoundedFile, where: str, ignored: Counter[str]) -> Iterator[Entry]:
    files = 0
    links = TempDatabase(_LINKS, _CACHE_KB)
    try:
        for name, size, offset, link in _members(file, ignored):
            files += 1
            if link is not None:
                links.run("INSERT OR REPLACE INTO links (name, target) VALUES (?, ?)", name, link)
            elif is_photo(name):
                yield Entry(name, size, (offset,))
            else:
                ignored[suffix(name)] += 1
        if links.number("SELECT count(*) FROM links"):
            file.seek(0)  # what they lead to may stand anywhere
            yield from _linked(file, links, ignored)
    except _BROKEN as error:
        raise DamagedSourceError(
            f"{where} is no whole tar archive ({error}); {files:,} files stand before that."
        ) from None
    finally:
        links.close()


def _linked(file: BoundedFile, links: TempDatabase, ignored: Counter[str]) -> Iterator[Entry]:
    """Links as the files that they lead to."""
    links.run("CREATE INDEX by_target ON links (target)")
    for name, size, offset, link in _members(file, Counter()):
        if link is None:
            links.run("UPDATE links SET size = ?, offset = ? WHERE target = ?", size, offset, name)
    for name, size, offset in links.rows("SELECT name, size, offset FROM links"):
        if offset is None:
            ignored["link"] += 1
        elif is_photo(name):
            yield Entry(name, size, (offset,))
        else:
            ignored[suffix(name)] += 1


def _members(file: Any, ignored: Counter[str]) -> Iterator[tuple[bytes, int, int, bytes | None]]:
    """Name, size, offset of the bytes, and for links the name they lead to."""
    with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as opened:
        archive: Any = opened  # its list of members has no public type
        before = -1
        for member in archive:
            if member.size < 0 or member.offset <= before:  # tarfile would go round in circles
                raise tarfile.ReadError(f"a member of {member.size} bytes")
            before = member.offset
            name = archive_name(member.name)
            if member.isreg() and not member.issparse():
                yield name, member.size, member.offset_data, None
            elif member.islnk() or member.issym():
                target = member.linkname.encode("utf-8", "surrogateescape")
                folder = name[: name.rfind(b"/") + 1]
                inside = archive_name(member.linkname) if member.islnk() else posixpath.join(folder, target)
                yield name, 0, 0, posixpath.normpath(inside)
            elif not member.isdir():
                ignored["special"] += 1
            archive.members = []  # else tarfile keeps them all
        _check_end(file, archive.offset)


def _check_end(file: BoundedFile, offset: int) -> None:
    """Where tarfile stopped there has to be the end: it stops at a damaged header without a word."""
    file.seek(offset)
    if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"a damaged header at byte {offset:,}")


class TarReader:
    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")

    def read(self, entry: Entry) -> bytes:
        try:
            return os.pread(self._file.fileno(), min(entry.size, MAX_BYTES + 1), entry.place[0])
        except OSError as error:
            raise RemoteUnavailable(str(error)) from error

    def close(self) -> None:
        self._file.close()


class RemoteTarReader:
    """Members by ranges of a tar behind a URL."""

    def __init__(self, where: str) -> None:
        self._where = where
        filesystem(where)

    def read(self, entry: Entry) -> bytes:
        return self._fetched(entry, any_number)

    def request(self, entry: Entry) -> Request:
        return functools.partial(self._fetched, entry)

    def _fetched(self, entry: Entry, room: Room) -> bytes:
        fs, path = filesystem(self._where)  # this thread's own, where its protocol's library needs that
        start, size = entry.place[0], min(entry.size, MAX_BYTES + 1)
        room(size)
        return read_range(fs, path, start, start + size)

    def close(self) -> None:
        pass

"""Tar archives, plain and gzipped. Members are read in place; nothing is extracted."""

from __future__ import annotations

import gzip
import posixpath
import tarfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from facegan.errors import DamagedSourceError
from facegan.files import atomic_write
from facegan.prep.sources.base import MAX_BYTES, Entry, OnBytes, archive_path, is_photo, suffix
from facegan.prep.sources.remote import SourceFile, UrlReader, read_range
from facegan.remote import RemoteUnavailable, filesystem, is_url
from facegan.unpack import BoundedFile, Bounds, Unpacking

# What tarfile raises for sizes beyond the file's end and for chains of headers, in addition to its own errors.
_BROKEN = (tarfile.TarError, EOFError, RecursionError, OSError, ValueError, MemoryError, zlib.error)


@dataclass(frozen=True)
class Tar:
    """Files of a tar, with links inside it resolved. Of a repeated name the last member counts.

    Attributes:
        is_gzipped: it has no random access, so it is unpacked to a plain tar before photographs are read.
    """

    file: SourceFile
    is_gzipped: bool = False

    @property
    def where(self) -> str:
        return self.file.where

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        with self.file.open() as file:
            bounds = self.file.bounds(file)
            if self.is_gzipped:
                with gzip.open(file) as plain:
                    yield from _photos(BoundedFile(plain, bounds.check_bytes), bounds, ignored)
            else:
                yield from _photos(BoundedFile(file, lambda at: None), bounds, ignored)

    def digests(self) -> tuple[str, ...]:
        return ()

    def unpacked(self, folder: Path) -> Tar:
        source = self.file.shareable(folder)
        if not self.is_gzipped:
            return Tar(source)
        path = folder / f"{self.file.name}.tar"
        try:
            with source.open() as file, gzip.open(file) as plain, atomic_write(path) as out:
                Unpacking(replace(source.bounds(file), where=self.where), folder).copy(plain, out)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DamagedSourceError(f"{self.where} is not a complete tar archive ({error}).") from None
        return Tar(SourceFile(str(path)))

    def reader(self) -> TarReader | UrlReader:
        return UrlReader(self.where, _fetch_member) if is_url(self.where) else TarReader(Path(self.where))


def _photos(file: BoundedFile, bounds: Bounds, ignored: Counter[str]) -> Iterator[Entry]:
    total = 0
    for count, entry in enumerate(_entries(file, bounds.where, ignored), 1):
        if entry.size <= MAX_BYTES:  # a file may have any number of hard links and is read for each
            total += entry.size
        bounds.check_bytes(total)
        bounds.check_photos(count)
        yield entry


def _entries(file: BoundedFile, where: str, ignored: Counter[str]) -> Iterator[Entry]:
    files, links, targets = 0, dict[bytes, bytes](), dict[bytes, bytes]()
    try:
        for name, size, offset, target in _members(file, ignored):
            files += 1
            if target is not None:
                links[name] = targets.setdefault(target, target)  # links to one file share its name in memory
            elif is_photo(name):
                yield Entry(name, size, (offset,))
            else:
                ignored[suffix(name)] += 1
        if links:
            file.seek(0)  # their targets may be anywhere
            yield from _linked_entries(file, links, targets, ignored)
    except _BROKEN as error:
        raise DamagedSourceError(
            f"{where} is not a complete tar archive ({error}); {files:,} files come before that."
        ) from None


def _linked_entries(
    file: BoundedFile, links: dict[bytes, bytes], targets: Collection[bytes], ignored: Counter[str]
) -> Iterator[Entry]:
    """Links as the files that they lead to."""
    found: dict[bytes, tuple[int, int]] = {}
    for name, size, offset, target in _members(file, Counter()):
        if target is None and name in targets:
            found[name] = size, offset
    for name, target in links.items():
        if target not in found:
            ignored["link"] += 1
        elif is_photo(name):
            size, offset = found[target]
            yield Entry(name, size, (offset,))
        else:
            ignored[suffix(name)] += 1


def _members(file: Any, ignored: Counter[str]) -> Iterator[tuple[bytes, int, int, bytes | None]]:
    """Name, size, offset of the bytes, and the target's name for links."""
    with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as opened:
        archive: Any = opened  # its list of members has no public type
        before = -1
        for member in archive:
            if member.size < 0 or member.offset <= before:  # tarfile would loop forever
                raise tarfile.ReadError(f"a member of {member.size} bytes")
            before = member.offset
            name = archive_path(member.name.encode("utf-8", "surrogateescape"))
            if member.isreg() and not member.issparse():
                yield name, member.size, member.offset_data, None
            elif member.islnk() or member.issym():
                link = member.linkname.encode("utf-8", "surrogateescape")
                inside = archive_path(link) if member.islnk() else posixpath.join(name[: name.rfind(b"/") + 1], link)
                yield name, 0, 0, posixpath.normpath(inside)
            elif not member.isdir():
                ignored["special"] += 1
            archive.members = []  # else tarfile keeps them all
        _check_end(file, archive.offset)


def _check_end(file: BoundedFile, offset: int) -> None:
    """tarfile stops silently at a damaged header; this makes sure that it stopped at the end."""
    file.seek(offset)
    if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"a damaged header at byte {offset:,}")


class TarReader:
    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)

    def read(self, entry: Entry) -> bytes:
        try:
            self._file.seek(entry.locator[0])
            return self._file.read(min(entry.size, MAX_BYTES + 1))
        except OSError as error:
            raise RemoteUnavailable(str(error)) from error

    def close(self) -> None:
        self._file.close()


def _fetch_member(where: str, entry: Entry, on_bytes: OnBytes | None) -> bytes:
    """A member of a tar behind a URL, by its range."""
    fs, path = filesystem(where)  # per thread, if its protocol's library needs that
    start, size = entry.locator[0], min(entry.size, MAX_BYTES + 1)
    if on_bytes:
        on_bytes(size)
    return read_range(fs, path, start, start + size)

"""Tar archives, plain and gzipped. Members are read in place; nothing is extracted."""

from __future__ import annotations

import contextlib
import gzip
import posixpath
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from facegan.files import atomic_write
from facegan.prep.sources.base import MAX_BYTES, Entry, Source, archive_path, is_photo, skip
from facegan.prep.sources.remote import ObjectReader, SourceFile
from facegan.remote import is_url
from facegan.unpack import BoundedFile, Unpacking


@dataclass(frozen=True)
class Tar(Source):
    """Files of a tar, with links inside it resolved. Of a repeated name the last member counts."""

    file: SourceFile
    is_gzipped: bool = False  # it has no random access, so it is unpacked to a plain tar before photographs are read

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        with self.file.open() as file, gzip.open(file) if self.is_gzipped else contextlib.nullcontext(file) as plain:
            bounds, total = self.file.bounds(file), 0
            for count, entry in enumerate(_photos(BoundedFile(plain, bounds.check_bytes), ignored), 1):
                if entry.size <= MAX_BYTES:  # a file may have any number of hard links and is read for each
                    total += entry.size
                bounds.check_bytes(total)
                bounds.check_photos(count)
                yield entry

    def unpacked(self, folder: Path) -> Tar:
        source = self.file.shareable(folder)
        if self.is_gzipped:
            path = folder / f"{self.file.name}.tar"
            with source.open() as file, gzip.open(file) as plain, atomic_write(path) as out:
                Unpacking(replace(source.bounds(file), where=self.where), folder).copy(plain, out)
            source = SourceFile(str(path))
        return Tar(self.where, source)

    def reader(self) -> TarReader | ObjectReader:
        return ObjectReader(self.file.where) if is_url(self.file.where) else TarReader(Path(self.file.where))


def _photos(file: BoundedFile, ignored: Counter[str]) -> Iterator[Entry]:
    links, targets = dict[bytes, bytes](), dict[bytes, bytes]()
    for name, size, offset, target in _members(file, ignored):
        if target is not None:
            links[name] = targets.setdefault(target, target)  # links to one file share its name in memory
        elif is_photo(name):
            yield Entry(name, size, (offset,))
        else:
            skip(ignored, Entry(name, size, (offset,)))
    if not links:
        return
    found: dict[bytes, tuple[int, int]] = {}
    file.seek(0)  # targets may be anywhere
    for name, size, offset, target in _members(file, Counter()):
        if target is None and name in targets:
            found[name] = size, offset
    for name, target in links.items():
        if target not in found:
            ignored["link"] += 1
            continue
        size, offset = found[target]
        if is_photo(name):
            yield Entry(name, size, (offset,))
        else:
            skip(ignored, Entry(name, size, (offset,)))


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
        file.seek(archive.offset)  # tarfile stops silently at a damaged header
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"a damaged header at byte {archive.offset:,}")


class TarReader:
    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)

    def read(self, entry: Entry) -> bytes:
        self._file.seek(entry.locator[0])
        return self._file.read(min(entry.size, MAX_BYTES + 1))

    def close(self) -> None:
        self._file.close()

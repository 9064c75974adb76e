"""Where photographs come from: a folder, a tar or a zip. Listing opens no photograph; each is opened by its place."""

from __future__ import annotations

import os
import posixpath
import stat
import struct
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from facegan.errors import SourceError, suggest
from facegan.shards.layout import DATASET_FILE, PHOTOS_FILE, has_photo_suffix

MAX_BYTES = 1 << 29  # of one photograph's file; a larger one is too_large without being read


class Entry(NamedTuple):
    """A photograph in a source: its name there, its size in bytes, and how its source finds it again."""

    name: bytes
    size: int
    place: tuple[int, ...] = ()


@dataclass
class Listing:
    """All photographs of a source, sorted by name, and how many other files there are, by suffix."""

    entries: list[Entry]
    ignored: Counter[str] = field(default_factory=Counter)

    def add(self, name: bytes, size: int, place: tuple[int, ...] = ()) -> None:
        if _is_photo(name):
            self.entries.append(Entry(name, size, place))
        else:
            self.ignored[_suffix(name)] += 1


class Source(Protocol):
    """Photographs with stable names. Sources are small and picklable: each worker opens its own reader."""

    @property
    def path(self) -> Path: ...

    def list(self) -> Listing: ...

    def reader(self) -> Reader: ...


class Reader(Protocol):
    """Reads photographs of one source inside one process."""

    def read(self, entry: Entry) -> bytes: ...

    def close(self) -> None: ...


def open_source(path: Path, leave_out: Path | None = None) -> Source:
    """The source behind a path.

    Args:
        leave_out: a folder inside the source that holds no photographs (the dataset being written).

    Raises:
        SourceError: there is nothing, or nothing that facegan reads.
    """
    if path.is_dir():
        return Folder(path, leave_out)
    if not path.exists():
        near = suggest(path.name, [beside.name for beside in path.parent.iterdir()]) if path.parent.is_dir() else ""
        raise SourceError(f"There is no {path}.{near} Name a folder, a .tar or a .zip of photographs.")
    if path.suffix.lower() == ".tar":
        return Tar(path)
    if path.suffix.lower() == ".zip":
        return Zip(path)
    raise SourceError(f"{path} is no source that facegan reads. Name a folder, a .tar or a .zip of photographs.")


@dataclass(frozen=True)
class Folder:
    """All files below a folder. Links to folders, and links that lead out of it, are not followed."""

    path: Path
    leave_out: Path | None = None

    def list(self) -> Listing:
        listing = Listing([])
        top = os.fsencode(self.path)
        inside = os.path.realpath(top) + b"/"
        avoid = self.leave_out.stat().st_ino if self.leave_out and self.leave_out.exists() else None
        for name, entry in _walk(top, avoid):
            if entry.is_symlink() and not os.path.realpath(entry.path).startswith(inside):
                listing.ignored["link"] += 1
                continue
            try:
                is_file, size = entry.is_file(), entry.stat().st_size
            except OSError:  # a link that leads nowhere or in a circle, or a file that was deleted just now
                is_file, size = False, 0
            if is_file:
                listing.add(name, size)
            else:
                listing.ignored["link" if entry.is_symlink() else "special"] += 1
        listing.entries.sort()
        return listing

    def reader(self) -> Reader:
        return FolderReader(os.fsencode(self.path))


def _walk(top: bytes, avoid: int | None) -> Iterator[tuple[bytes, os.DirEntry[bytes]]]:
    """Files below ``top``, in no order, with their names; datasets that facegan wrote there are left out."""
    waiting = [(top, b"")]
    while waiting:
        folder, prefix = waiting.pop()
        try:
            with os.scandir(folder) as found:
                entries = list(found)
        except PermissionError:
            raise SourceError(f"The folder {os.fsdecode(folder)} may not be read by this user.") from None
        if prefix and {DATASET_FILE, PHOTOS_FILE} <= {os.fsdecode(entry.name) for entry in entries}:
            continue
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                yield prefix + entry.name, entry
            elif entry.inode() != avoid:
                waiting.append((entry.path, prefix + entry.name + b"/"))


class FolderReader:
    def __init__(self, top: bytes) -> None:
        self._top = top

    def read(self, entry: Entry) -> bytes:
        file = os.open(os.path.join(self._top, entry.name), os.O_RDONLY)  # noqa: PTH118 - names are bytes
        try:
            data = os.read(file, min(entry.size, MAX_BYTES) + 1)
            if len(data) == entry.size:
                return data
            while len(data) <= MAX_BYTES and (more := os.read(file, 1 << 20)):  # the file grew, or a read was short
                data += more
            return data
        finally:
            os.close(file)

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Tar:
    """Files of an uncompressed tar, links inside it resolved. Of a name that stands twice the later one counts."""

    path: Path

    def list(self) -> Listing:
        listing = Listing([])
        files: dict[bytes, tuple[int, int]] = {}
        links: dict[bytes, bytes] = {}
        try:
            with tarfile.open(self.path, "r:", errors="surrogateescape") as opened:
                archive: Any = opened  # its list of members has no public type
                before = -1
                for member in archive:
                    if member.size < 0 or member.offset <= before:  # tarfile would go round in circles
                        raise tarfile.ReadError(f"a member of {member.size} bytes")
                    before = member.offset
                    name = _archive_name(member.name)
                    if member.isreg() and not member.issparse():
                        files[name] = member.size, member.offset_data
                    elif member.islnk() or member.issym():
                        folder = b"" if member.islnk() else name[: name.rfind(b"/") + 1]
                        links[name] = posixpath.normpath(folder + os.fsencode(member.linkname))
                    elif not member.isdir():
                        listing.ignored["special"] += 1
                    archive.members = []  # else tarfile keeps them all
                _check_end(self.path, archive.offset)
        except _BROKEN_TAR as error:
            count = f"{len(files):,} files stand before that"
            raise SourceError(f"{self.path} is no whole tar archive ({error}); {count}.") from None
        for name, target in links.items():
            if target in files:
                files[name] = files[target]
            else:
                listing.ignored["link"] += 1
        for name, (size, offset) in files.items():
            listing.add(name, size, (offset,))
        listing.entries.sort()
        return listing

    def reader(self) -> Reader:
        return TarReader(self.path)


# What tarfile raises for sizes beyond the file's end, and for chains of headers, beside errors of its own.
_BROKEN_TAR = (tarfile.TarError, EOFError, RecursionError, OSError, ValueError, MemoryError)


def _check_end(path: Path, offset: int) -> None:
    """Where tarfile stopped there has to be the end: it stops at a damaged header without a word."""
    with path.open("rb") as file:
        file.seek(offset)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"a damaged header at byte {offset:,}")


class TarReader:
    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")

    def read(self, entry: Entry) -> bytes:
        return os.pread(self._file.fileno(), min(entry.size, MAX_BYTES + 1), entry.place[0])

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class Zip:
    """Files of a zip. Of a name that stands twice the later one counts, as when unpacking."""

    path: Path

    def list(self) -> Listing:
        listing = Listing([])
        try:
            with zipfile.ZipFile(self.path) as archive:
                last = {_zip_name(info): info for info in archive.infolist() if not info.is_dir()}
        except (zipfile.BadZipFile, NotImplementedError, ValueError, IndexError, OSError) as error:  # names, offsets
            raise SourceError(f"{self.path} is no whole zip archive ({error}).") from None
        for name, info in last.items():
            if info.create_system == 3 and stat.S_ISLNK(info.external_attr >> 16):  # 3: Unix; its data is the target
                listing.ignored["link"] += 1
                continue
            place = (info.header_offset, info.compress_size, info.CRC, info.compress_type, info.flag_bits)
            listing.add(name, info.file_size, place)
        listing.entries.sort()
        return listing

    def reader(self) -> Reader:
        return ZipReader(self.path)


def _zip_name(info: zipfile.ZipInfo) -> bytes:
    """The name's own bytes: where the flag for UTF-8 is not set, zipfile has read them as code page 437."""
    if info.flag_bits & 0x800:
        return _archive_name(info.filename)
    return _archive_name(os.fsdecode(info.filename.encode("cp437")))


class ZipReader:
    """Reads members by what the listing knows of them, so that no process but the lister holds the directory."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")

    def read(self, entry: Entry) -> bytes:
        info = zipfile.ZipInfo()
        offset, info.compress_size, info.CRC, info.compress_type, info.flag_bits = entry.place
        info.file_size = entry.size
        if info.flag_bits & 0x1:
            raise ValueError("an encrypted member")
        self._file.seek(offset)
        header = self._file.read(30)  # PKWARE's APPNOTE, 4.3.7: lengths of name and extra field at 26 and 28
        if header[:4] != b"PK\3\4" or len(header) < 30:
            raise zipfile.BadZipFile("no local header")
        self._file.seek(sum(struct.unpack("<HH", header[26:30])), os.SEEK_CUR)
        with zipfile.ZipExtFile(self._file, "r", info) as file:
            return file.read(MAX_BYTES + 1)

    def close(self) -> None:
        self._file.close()


def _archive_name(name: str) -> bytes:
    """A member's name as a path below the archive: no leading ``/`` or ``./``."""
    raw = name.encode("utf-8", "surrogateescape")
    while raw.startswith((b"/", b"./")):
        raw = raw.removeprefix(b".").removeprefix(b"/")
    return raw


def _is_photo(name: bytes) -> bool:
    # macOS puts a file ._NAME with its attributes beside every NAME it archives.
    return has_photo_suffix(name) and not name.rpartition(b"/")[2].startswith(b"._")


def _suffix(name: bytes) -> str:
    file = name.rpartition(b"/")[2]
    if file.startswith(b"._"):
        return "._"
    stem, dot, suffix = file.rpartition(b".")
    return "." + suffix.decode("utf-8", "backslashreplace").lower() if dot and stem else "(none)"


def common_folder(names: list[bytes]) -> bytes:
    """The deepest folder that holds all names (sorted), with its final slash; empty at the top."""
    first, last = names[0], names[-1]
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[: first.rfind(b"/", 0, same) + 1]

"""Where photographs come from: a folder, a tar or a zip. Listing opens no photograph; each is opened by its place."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from facegan.errors import SourceError, suggest
from facegan.shards.layout import has_photo_suffix

MAX_BYTES = 1 << 29  # of one photograph's file; a larger one is too_large without being read


class Entry(NamedTuple):
    """A photograph in a source: its name there, its size in bytes, and where a source finds it again."""

    name: bytes
    size: int
    place: int = 0


@dataclass
class Listing:
    """All photographs of a source, sorted by name, and how many other files there are, by suffix."""

    entries: list[Entry]
    ignored: Counter[str] = field(default_factory=Counter)

    def add(self, name: bytes, size: int, place: int = 0) -> None:
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
        avoid = os.path.realpath(os.fsencode(self.leave_out)) if self.leave_out else None
        for name, entry in _walk(top, b"", avoid):
            if entry.is_symlink() and not os.path.realpath(entry.path).startswith(inside):
                listing.ignored["link"] += 1
            elif entry.is_file():
                listing.add(name, entry.stat().st_size)
            else:
                listing.ignored["link" if entry.is_symlink() else "special"] += 1
        listing.entries.sort()
        return listing

    def reader(self) -> Reader:
        return FolderReader(os.fsencode(self.path))


def _walk(folder: bytes, prefix: bytes, avoid: bytes | None) -> Iterator[tuple[bytes, os.DirEntry[bytes]]]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except PermissionError:
        raise SourceError(f"The folder {os.fsdecode(folder)} may not be read by this user.") from None
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if avoid is None or os.path.realpath(entry.path) != avoid:
                yield from _walk(entry.path, prefix + entry.name + b"/", avoid)
        else:
            yield prefix + entry.name, entry


class FolderReader:
    def __init__(self, top: bytes) -> None:
        self._top = top

    def read(self, entry: Entry) -> bytes:
        with open(os.path.join(self._top, entry.name), "rb") as file:  # noqa: PTH118, PTH123 - names are bytes
            return file.read(MAX_BYTES + 1)

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Tar:
    """Regular files of an uncompressed tar. Where a name stands twice the later one counts, as when unpacking."""

    path: Path

    def list(self) -> Listing:
        last: dict[bytes, tuple[int, int]] = {}
        listing = Listing([])
        try:
            with tarfile.open(self.path, "r:", errors="surrogateescape") as archive:
                for member in archive:
                    if member.isreg() and not member.issparse():
                        last[_archive_name(member.name)] = member.size, member.offset_data
                    elif not member.isdir():
                        listing.ignored["link" if member.islnk() or member.issym() else "special"] += 1
        except (tarfile.TarError, EOFError) as error:
            raise SourceError(
                f"{self.path} is no whole tar archive ({error}); {len(last):,} files stand before that."
            ) from None
        for name, (size, offset) in last.items():
            listing.add(name, size, offset)
        listing.entries.sort()
        return listing

    def reader(self) -> Reader:
        return TarReader(self.path)


class TarReader:
    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")

    def read(self, entry: Entry) -> bytes:
        return os.pread(self._file.fileno(), min(entry.size, MAX_BYTES + 1), entry.place)

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class Zip:
    """Files of a zip. Where a name stands twice the later one counts, as when unpacking."""

    path: Path

    def list(self) -> Listing:
        listing = Listing([])
        try:
            with zipfile.ZipFile(self.path) as archive:
                last = {_archive_name(info.filename): info for info in archive.infolist() if not info.is_dir()}
        except zipfile.BadZipFile as error:
            raise SourceError(f"{self.path} is no whole zip archive ({error}).") from None
        for name, info in last.items():
            listing.add(name, info.file_size, info.header_offset)
        listing.entries.sort()
        return listing

    def reader(self) -> Reader:
        return ZipReader(self.path)


class ZipReader:
    def __init__(self, path: Path) -> None:
        self._archive = zipfile.ZipFile(path)
        self._infos = {info.header_offset: info for info in self._archive.infolist()}

    def read(self, entry: Entry) -> bytes:
        with self._archive.open(self._infos[entry.place]) as file:
            return file.read(MAX_BYTES + 1)

    def close(self) -> None:
        self._archive.close()


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

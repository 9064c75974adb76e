"""Folders of photographs on this machine."""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from facegan.console import shown
from facegan.errors import SourceError
from facegan.prep.sources.base import MAX_BYTES, Entry, is_photo, suffix
from facegan.prep.sources.labels import LABELS_FILE, Labels
from facegan.remote import Unreachable
from facegan.shards.layout import DATASET_FILE, PHOTOS_FILE


@dataclass(frozen=True)
class Folder:
    """All files below a folder. Links to folders, and links that lead out of it, are not followed."""

    path: Path
    leave_out: Path | None = None  # a folder inside that holds no photographs: the dataset being written

    @property
    def where(self) -> str:
        return str(self.path)

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        top = os.fsencode(self.path)
        inside = os.path.realpath(top) + b"/"
        avoid = os.path.realpath(self.leave_out) if self.leave_out else None
        with contextlib.closing(self._labels()) as labels:
            for name, entry in _walk(top, avoid):  # a million times: no call without need
                if entry.is_symlink() and not os.path.realpath(entry.path).startswith(inside):
                    ignored["link"] += 1
                    continue
                if not is_photo(name):
                    ignored[suffix(name)] += 1
                    continue
                try:
                    told = entry.stat()
                    is_file, size = stat.S_ISREG(told.st_mode), told.st_size
                except OSError:  # a link that leads nowhere or in a circle, or a file that was deleted just now
                    is_file, size = False, 0
                if is_file:  # an Entry, by a third of the time that its own constructor takes
                    yield tuple.__new__(Entry, (name, size, (), labels.of(name) if labels.told else 0, ""))
                else:
                    ignored["link" if entry.is_symlink() else "special"] += 1

    def _labels(self) -> Labels:
        path = self.path / LABELS_FILE
        if not path.is_file():
            return Labels(None)
        with path.open("rb") as file:
            return Labels(file)

    def marks(self) -> tuple[str, ...]:
        return ()

    def unpacked(self, folder: Path) -> Folder:
        return self

    def reader(self) -> FolderReader:
        return FolderReader(os.fsencode(self.path))


def _walk(top: bytes, avoid: str | None) -> Iterator[tuple[bytes, os.DirEntry[bytes]]]:
    """Files below ``top``, in no order, with their names; datasets that facegan wrote there are left out."""
    waiting = [(top, b"")]
    while waiting:
        folder, prefix = waiting.pop()
        if prefix and all((Path(os.fsdecode(folder)) / name).exists() for name in (DATASET_FILE, PHOTOS_FILE)):
            continue
        try:
            with os.scandir(folder) as entries:  # never all at once: a folder may hold millions
                for entry in entries:
                    if not entry.is_dir(follow_symlinks=False):
                        yield prefix + entry.name, entry
                    elif avoid is None or os.path.realpath(entry.path) != os.fsencode(avoid):
                        waiting.append((entry.path, prefix + entry.name + b"/"))
        except PermissionError:
            raise SourceError(f"The folder {shown(os.fsdecode(folder))} may not be read by this user.") from None


class FolderReader:
    def __init__(self, top: bytes) -> None:
        self._top = top

    def read(self, entry: Entry) -> bytes:
        try:
            file = os.open(os.path.join(self._top, entry.name), os.O_RDONLY)  # noqa: PTH118 - names are bytes
        except OSError as error:
            raise Unreachable(str(error)) from error
        try:
            data = os.read(file, min(entry.size, MAX_BYTES) + 1)
            if len(data) == entry.size:
                return data
            while len(data) <= MAX_BYTES and (more := os.read(file, 1 << 20)):  # the file grew, or a read was short
                data += more
            return data
        except OSError as error:
            raise Unreachable(str(error)) from error
        finally:
            os.close(file)

    def close(self) -> None:
        pass

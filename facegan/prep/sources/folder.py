"""Folders of photographs on this machine."""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from facegan.errors import SourceError
from facegan.files import files_below
from facegan.prep.sources.base import MAX_BYTES, Entry, ignore, is_photo, suffix
from facegan.prep.sources.stylegan_labels import LABELS_FILE, StyleGANLabels
from facegan.remote import RemoteUnavailable
from facegan.shards.format import DATASET_FILE, PHOTOS_FILE

BROKEN_LINK = "broken link"


@dataclass(frozen=True)
class Folder:
    """All files below a folder, links followed. A link has the name and suffix that it has there, and the bytes, the
    size and the time of its target."""

    path: Path
    leave_out: Path | None = None  # a folder inside that holds no photographs: the dataset being written
    follow_links: bool = True

    @property
    def where(self) -> str:
        return str(self.path)

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        with contextlib.closing(self._labels()) as labels:
            for name, entry in self._files():  # a million times: no call without need
                if not self.follow_links and entry.is_symlink():
                    ignored["link"] += 1
                    continue
                try:
                    if not is_photo(name) and not entry.is_symlink():
                        ignored[suffix(name)] += 1
                        continue
                    told = entry.stat()
                    mode, size = told.st_mode, told.st_size
                except OSError:  # its target is missing or is itself; or the file was deleted just now
                    ignore(ignored, BROKEN_LINK if entry.is_symlink() else "special", name)
                    continue
                if stat.S_ISDIR(mode):
                    ignored["looping link"] += 1
                elif not is_photo(name):
                    ignored[suffix(name)] += 1
                elif not stat.S_ISREG(mode):
                    ignored["special"] += 1
                else:  # an Entry, by a third of the time that its own constructor takes
                    yield tuple.__new__(Entry, (name, size, (), labels.of(name) if labels.told else 0, ""))

    def _files(self) -> Iterator[tuple[bytes, os.DirEntry[bytes]]]:
        try:
            yield from files_below(os.fsencode(self.path), self._enters, self.follow_links)
        except PermissionError as error:
            raise SourceError(f"The folder {os.fsdecode(error.filename)} may not be read by this user.") from None

    def _enters(self, folder: bytes, name: bytes) -> bool:
        """Datasets that facegan wrote are left out."""
        path = Path(os.fsdecode(folder))
        is_dataset = name and all((path / file).exists() for file in (DATASET_FILE, PHOTOS_FILE))
        return not is_dataset and not (name and self.leave_out and _is_same(path, self.leave_out))

    def _labels(self) -> StyleGANLabels:
        path = self.path / LABELS_FILE
        if not path.is_file():
            return StyleGANLabels(None)
        with path.open("rb") as file:
            return StyleGANLabels(file)

    def marks(self) -> tuple[str, ...]:
        return ()

    def unpacked(self, folder: Path) -> Folder:
        return self

    def reader(self) -> FolderReader:
        return FolderReader(os.fsencode(self.path))


def _is_same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


class FolderReader:
    def __init__(self, top: bytes) -> None:
        self._top = top

    def read(self, entry: Entry) -> bytes:
        try:
            file = os.open(os.path.join(self._top, entry.name), os.O_RDONLY)  # noqa: PTH118 - names are bytes
        except OSError as error:
            raise RemoteUnavailable(str(error)) from error
        try:
            data = os.read(file, min(entry.size, MAX_BYTES) + 1)
            if len(data) == entry.size:
                return data
            while len(data) <= MAX_BYTES and (more := os.read(file, 1 << 20)):  # the file grew, or a read was short
                data += more
            return data
        except OSError as error:
            raise RemoteUnavailable(str(error)) from error
        finally:
            os.close(file)

    def close(self) -> None:
        pass

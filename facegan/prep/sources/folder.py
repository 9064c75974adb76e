"""Local folders of photographs."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from facegan.errors import SourceError
from facegan.files import files_below
from facegan.prep.sources.base import LABELS_FILE, MAX_BYTES, Entry, ignore, is_photo, read_labels, suffix
from facegan.remote import RemoteUnavailable
from facegan.shards.format import DATASET_FILE, PHOTOS_FILE

BROKEN_LINK = "broken link"
_READ_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0)  # Windows would convert line ends


@dataclass(frozen=True)
class Folder:
    """All files below a folder, links followed. A link has its own name and suffix, and its target's bytes and size.

    Attributes:
        leave_out: a folder inside that holds no photographs: the dataset being written.
    """

    path: Path
    leave_out: Path | None = None
    follow_links: bool = True

    @property
    def where(self) -> str:
        return str(self.path)

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        labels = self._labels()
        for name, entry in self._files():  # a million times: no unnecessary call
            if not self.follow_links and entry.is_symlink():
                ignored["link"] += 1
                continue
            try:
                if not is_photo(name) and not entry.is_symlink():
                    ignored[suffix(name)] += 1
                    continue
                status = entry.stat()
                mode, size = status.st_mode, status.st_size
            except OSError:  # a missing or looping target, or a file deleted meanwhile
                ignore(ignored, BROKEN_LINK if entry.is_symlink() else "special", name)
                continue
            if stat.S_ISDIR(mode):
                ignored["looping link"] += 1
            elif not is_photo(name):
                ignored[suffix(name)] += 1
            elif not stat.S_ISREG(mode):
                ignored["special"] += 1
            else:  # an Entry, in a third of the time that its constructor takes
                yield tuple.__new__(Entry, (name, size, (), labels.get(name, 0) if labels else 0, ""))

    def _files(self) -> Iterator[tuple[bytes, os.DirEntry[bytes]]]:
        try:
            yield from files_below(os.fsencode(self.path), self._enters, self.follow_links)
        except PermissionError as error:
            raise SourceError(f"This user may not read the folder {os.fsdecode(error.filename)}.") from None

    def _enters(self, folder: bytes, name: bytes) -> bool:
        """False for datasets that facegan wrote."""
        path = Path(os.fsdecode(folder))
        is_dataset = name and all((path / file).exists() for file in (DATASET_FILE, PHOTOS_FILE))
        is_left_out = name and self.leave_out and os.path.realpath(path) == os.path.realpath(self.leave_out)
        return not is_dataset and not is_left_out

    def _labels(self) -> dict[bytes, int]:
        path = self.path / LABELS_FILE
        if not path.is_file():
            return {}
        with path.open("rb") as file:
            return read_labels(file, self.where)

    def digests(self) -> tuple[str, ...]:
        return ()

    def unpacked(self, folder: Path) -> Folder:
        return self

    def reader(self) -> FolderReader:
        return FolderReader(os.fsencode(self.path))


class FolderReader:
    def __init__(self, top: bytes) -> None:
        self._top = top

    def read(self, entry: Entry) -> bytes:
        try:
            file = os.open(os.path.join(self._top, entry.name), _READ_FLAGS)  # noqa: PTH118 - names are bytes
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

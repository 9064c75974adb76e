"""Writing one shard: a tar whose bytes follow from its samples alone."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from facegan.files import disk_errors, sync_folder


@dataclass(frozen=True)
class ShardSum:
    """What a finished shard holds, as far as others need to know."""

    samples: int
    bytes: int
    sha256: str


class ShardWriter:
    """Writes samples into ``path`` under a temporary name; `commit` flushes and renames. Left uncommitted, it vanishes.

    Headers are ustar with mtime 0, uid and gid 0, no names and mode 0644 (names over 100 bytes need a pax header,
    POSIX.1-2001, before theirs).
    """

    def __init__(self, path: Path, temporary: Path) -> None:
        self._path, self._temporary = path, temporary
        self._samples = 0
        self._file = temporary.open("wb")
        self._sums = _Summing(self._file)
        sums: Any = self._sums  # tarfile only writes to it, and asks where it stands
        self._tar = tarfile.TarFile(fileobj=sums, mode="w", format=tarfile.PAX_FORMAT)

    def add(self, key: str, image_format: str, image: bytes, meta: bytes) -> None:
        self._member(f"{key}.{image_format}", image)
        self._member(f"{key}.json", meta)
        self._samples += 1

    def _member(self, name: str, data: bytes) -> None:
        header = tarfile.TarInfo(name)  # its defaults: mtime 0, uid and gid 0, no names, mode 0644
        header.size = len(data)
        self._tar.addfile(header, io.BytesIO(data))

    def commit(self) -> ShardSum | None:
        """The shard under its name, or None where no sample was added: an empty tar breaks other readers."""
        self._tar.close()
        if self._samples == 0:
            return None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self._path)
        sync_folder(self._path.parent)
        return ShardSum(self._samples, self._sums.count, self._sums.sha256.hexdigest())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with disk_errors(self._path.parent):
            self._file.close()
            self._temporary.unlink(missing_ok=True)


class _Summing:
    """Counts and hashes what passes on its way to a file."""

    def __init__(self, file: io.BufferedWriter) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.count = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.count += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self.count

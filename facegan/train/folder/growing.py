"""Files that only grow, by whole pieces, on a disk that may be full."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from facegan.files import disk_errors


class GrowingFile:
    """A file whose every piece is there whole or not at all. What the disk refuses waits in memory."""

    def __init__(self, path: Path, length: int | None = None) -> None:
        """Cuts back to ``length`` bytes, where it is longer; None keeps all."""
        self.path = path
        self._waiting: list[bytes] = []
        with disk_errors(path.parent):
            path.touch()
        self.cut(length)

    def cut(self, length: int | None) -> None:
        self._waiting.clear()
        self.length = self.path.stat().st_size
        if length is not None and length < self.length:
            with disk_errors(self.path.parent):
                os.truncate(self.path, length)
            self.length = length

    def add(self, piece: bytes) -> None:
        """
        Raises:
            DiskError: it can't be written; it waits.
        """
        self._waiting.append(piece)
        self.catch_up()

    def catch_up(self) -> None:
        """Writes what waits.

        Raises:
            DiskError: it still can't be written.
        """
        if not self._waiting:
            return
        data = b"".join(self._waiting)
        with disk_errors(self.path.parent, need_bytes=len(data)):
            try:
                with self.path.open("ab") as file:
                    file.write(data)
            except OSError:
                with contextlib.suppress(OSError):
                    os.truncate(self.path, self.length)  # half a piece
                raise
        self._waiting.clear()
        self.length += len(data)

    def sync(self) -> None:
        """Writes what waits, and flushes to the disk; raises as `catch_up`."""
        self.catch_up()
        with disk_errors(self.path.parent), self.path.open("rb") as file:
            os.fsync(file.fileno())

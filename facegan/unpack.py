"""Unpacking with an end: a file of a megabyte may unpack to terabytes, and the sizes that it declares may be lies."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from facegan.errors import DamagedSourceError, DiskError
from facegan.files import human_bytes

# Measured with gzip -9: photographs as JPEG 1.2 times, as PNG without compression 2.3, as BMP 1.5, raw 1.4, in two
# levels 12. Only drawn pictures without compression go beyond: strokes of 28×28 122, flat line art 166, masks 241.
# Deflate ends at 1,030; zeros in xz reach 6,700, in bzip2 680,000.
MAX_RATIO = 100
MAX_PHOTO_BYTES = 1 << 29  # of one photograph's file; a larger one is too_large without being read
_ANY_PHOTOS = 100_000
_LARGEST_READ = 1 << 26  # tarfile reads a header of names at once, however long it says it is
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Bounds:
    """What a file may hold: so many times its own size, and always as much as one photograph.

    Attributes:
        where: the file, as messages name it.
        packed_bytes: its size.
    """

    where: str
    packed_bytes: int
    max_ratio: int = MAX_RATIO
    remedy: str = "If you trust it, raise the limit: --set prep.max_unpacked_ratio=N"

    @property
    def max_bytes(self) -> int:
        return max(MAX_PHOTO_BYTES, self.max_ratio * self.packed_bytes)

    def check_bytes(self, unpacked: int) -> None:
        """
        Raises:
            DamagedSourceError: it unpacks to more than it may.
        """
        if unpacked > self.max_bytes:
            raise DamagedSourceError(
                f"{self.where} ({human_bytes(self.packed_bytes)}) unpacks to {human_bytes(unpacked)} or more: over "
                f"{self.max_ratio:,} times its size,\nand photographs reach 3 times. {self.remedy}"
            )

    def check_photos(self, count: int) -> None:
        """
        Raises:
            DamagedSourceError: there is not even a byte for each photograph.
        """
        if count > max(_ANY_PHOTOS, self.packed_bytes):
            raise DamagedSourceError(f"{self.where} claims {count:,} photographs in {self.packed_bytes:,} bytes.")

    def check_parts(self, parts_bytes: int, what: str) -> None:
        """
        Args:
            parts_bytes: of all parts of the file, as they are in it.
            what: the parts, as messages name them.

        Raises:
            DamagedSourceError: some overlap, for the file is smaller than all of them.
        """
        if parts_bytes > self.packed_bytes:
            raise DamagedSourceError(
                f"{self.where} has {what} that overlap: {human_bytes(parts_bytes)} or more in "
                f"{human_bytes(self.packed_bytes)}, which would be\nread many times over. Make it again from the "
                "photographs."
            )


class Unpacking:
    """Counts what is unpacked into a folder, and stops before it is too much for its file or for the disk."""

    def __init__(self, bounds: Bounds, folder: Path) -> None:
        self._bounds, self._done = bounds, 0
        self._room = shutil.disk_usage(folder).free * 9 // 10

    def add(self, count: int) -> None:
        """
        Raises:
            DamagedSourceError: more than the file may hold.
            DiskError: more than nine tenths of what was free.
        """
        self._done += count
        self._bounds.check_bytes(self._done)
        if self._done > self._room:
            raise DiskError(
                f"{self._bounds.where} unpacks to more than there is room for. Make room, then start the same command "
                "again.",
                errno.ENOSPC,
                self._done,
            )

    def copy(self, plain: Any, out: BinaryIO) -> None:
        """Copies all of an open file; raises as `add` does."""
        while piece := plain.read(_PIECE_BYTES):
            self.add(len(piece))
            out.write(piece)


class BoundedFile:
    """A file to read, such as one that is unpacked on the way.

    Args:
        check: is called with each place in the file that was reached, and raises to end it.
    """

    def __init__(self, file: Any, check: Callable[[int], None]) -> None:
        self._file, self._check = file, check

    def read(self, size: int) -> bytes:
        if size > _LARGEST_READ:
            raise ValueError(f"{size:,} bytes to be read at once")
        data = self._file.read(size)
        self._check(self._file.tell())
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 0:
            self._check(offset)
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

"""Bounds on unpacking: a megabyte may unpack to terabytes, and declared sizes may be false."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from facegan.errors import DamagedSourceError, DiskError
from facegan.files import human_bytes

# Measured with gzip -9: photographs as JPEG shrink 1.2 times, as uncompressed PNG 2.3, as BMP 1.5, raw 1.4, in two
# levels 12. Only uncompressed drawings shrink more: strokes of 28×28 122, flat line art 166, masks 241.
# Deflate reaches 1,030 at most; zeros reach 6,700 in xz and 680,000 in bzip2.
MAX_RATIO = 100
MAX_PHOTO_BYTES = 1 << 29  # of one photograph; a larger one is too_large without being read
_ANY_PHOTOS = 100_000
_LARGEST_READ = 1 << 26  # tarfile reads a header of names at once, whatever length it declares
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Bounds:
    """What a file may unpack to: ``max_ratio`` times its size, and always at least one photograph.

    Every check raises `DamagedSourceError`.
    """

    where: str  # the file's name in messages
    packed_bytes: int
    max_ratio: int = MAX_RATIO
    remedy: str = "If you trust it, raise the limit: --set prep.max_unpacked_ratio=N"

    @property
    def max_bytes(self) -> int:
        return max(MAX_PHOTO_BYTES, self.max_ratio * self.packed_bytes)

    def check_bytes(self, unpacked: int) -> None:
        """Refuse more unpacked bytes than `max_bytes`."""
        if unpacked > self.max_bytes:
            much = f"{human_bytes(unpacked)} or more: over {self.max_ratio:,} times its size"
            what = f"{self.where} ({human_bytes(self.packed_bytes)}) unpacks to {much}"
            raise DamagedSourceError(f"{what},\nwhile photographs reach 3 times. {self.remedy}")

    def check_photos(self, count: int) -> None:
        """Refuse more photographs than bytes."""
        if count > max(_ANY_PHOTOS, self.packed_bytes):
            raise DamagedSourceError(f"{self.where} claims {count:,} photographs in {self.packed_bytes:,} bytes.")

    def check_parts(self, parts_bytes: int, what: str) -> None:
        """Refuse overlapping parts (``what`` in messages): together they are larger than the file."""
        if parts_bytes > self.packed_bytes:
            sizes = f"{human_bytes(parts_bytes)} or more in {human_bytes(self.packed_bytes)}"
            why = f"{self.where} has {what} that overlap: {sizes}, so the same bytes would be\nread many times."
            raise DamagedSourceError(f"{why} Create it again from the photographs.")


class Unpacking:
    """Counts the bytes unpacked into a folder and stops before they exceed the file's bounds or the disk."""

    def __init__(self, bounds: Bounds, folder: Path) -> None:
        self._bounds, self._done = bounds, 0
        self._free_bytes = shutil.disk_usage(folder).free * 9 // 10

    def add(self, count: int) -> None:
        """Raises DamagedSourceError beyond the file's bounds, DiskError beyond nine tenths of the free space."""
        self._done += count
        self._bounds.check_bytes(self._done)
        if self._done > self._free_bytes:
            text = f"{self._bounds.where} does not fit on the disk when unpacked. Free some space, then run"
            raise DiskError(f"{text} the same command again.", errno.ENOSPC, self._done)

    def copy(self, plain: Any, out: BinaryIO) -> None:
        """Copy an open file to its end; raises as `add` does."""
        while piece := plain.read(_PIECE_BYTES):
            self.add(len(piece))
            out.write(piece)


class BoundedFile:
    """A readable file, possibly decompressed while it is read; ``check(offset)`` may raise to stop at any offset."""

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

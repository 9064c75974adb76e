"""Writing one shard: a tar whose bytes follow from its samples alone."""

from __future__ import annotations

import hashlib
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from facegan.files import disk_errors, fsync


@dataclass(frozen=True)
class ShardStats:
    """What a finished shard holds, as far as others need to know."""

    samples: int
    bytes: int
    sha256: str
    md5: str  # for wids, which knows no other sum


class ShardWriter:
    """Writes samples into ``path`` under a temporary name; `commit` flushes and renames. Left uncommitted, it vanishes.

    Headers are ustar with mtime 0, uid and gid 0, no names and mode 0644; the last record is filled up with zeros.
    """

    def __init__(self, path: Path, temporary: Path) -> None:
        self._path, self._temporary = path, temporary
        self._samples = self._bytes = 0
        self._sha256, self._md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        self._file = temporary.open("wb")

    def add(self, key: str, image_format: str, image: bytes, meta: bytes) -> None:
        parts = (tar_header(f"{key}.{image_format}", len(image)), image, _padding(len(image), tarfile.BLOCKSIZE),
                 tar_header(f"{key}.json", len(meta)), meta, _padding(len(meta), tarfile.BLOCKSIZE))  # fmt: skip
        self._write(b"".join(parts))
        self._samples += 1

    def _write(self, data: bytes) -> None:
        self._sha256.update(data)
        self._md5.update(data)
        self._bytes += len(data)
        self._file.write(data)

    def commit(self, flushed: bool = True) -> ShardStats | None:
        """The shard under its name, or None where no sample was added: an empty tar breaks other readers.

        Args:
            flushed: it shall outlive a power cut from now on.
        """
        if self._samples == 0:
            return None
        end = bytes(2 * tarfile.BLOCKSIZE)
        self._write(end + _padding(self._bytes + len(end), tarfile.RECORDSIZE))
        self._file.flush()
        if flushed:
            os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self._path)
        if flushed:
            fsync(self._path.parent)
        return ShardStats(self._samples, self._bytes, self._sha256.hexdigest(), self._md5.hexdigest())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with disk_errors(self._path.parent):
            self._file.close()
            self._temporary.unlink(missing_ok=True)


def _padding(size: int, block: int) -> bytes:
    return bytes(-size % block)


def tar_header(name: str, size: int) -> bytes:
    """The header that tarfile makes of ``TarInfo(name)``, whose defaults are those we want, in a tenth of its time."""
    raw = name.encode()
    if (
        len(raw) > tarfile.LENGTH_NAME or not name.isascii()
    ):  # such names need a pax header (POSIX.1-2001) before theirs
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf(tarfile.PAX_FORMAT)
    before = raw.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % size + b"00000000000\0"
    # The checksum counts its own field as eight spaces; the rest of the header is the same for every member.
    return before + b"%06o\0 " % (sum(before) + 8 * 0x20 + _AFTER_SUM) + _AFTER


# Type of a regular file, no link, ustar and its version, no owners, no device, no prefix (POSIX.1-1988).
_AFTER = b"0" + bytes(100) + b"ustar\x0000" + bytes(247)
_AFTER_SUM = sum(_AFTER)

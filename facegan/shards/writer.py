"""Write one shard: a tar whose bytes depend on its samples alone."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from facegan.files import TEMPORARY, disk_errors, fsync
from facegan.shards.format import Attributes, with_attributes
from facegan.shards.reader import Shard

# The end of every header: regular file, no link, ustar and its version, no owners, device or prefix (POSIX.1-1988).
_TAIL = b"0" + bytes(100) + b"ustar\x0000" + bytes(247)
_TAIL_SUM = sum(_TAIL)


@dataclass(frozen=True)
class ShardStats:
    """A finished shard."""

    samples: int
    bytes: int
    sha256: str
    md5: str  # for wids, which reads no other checksum


class ShardWriter:
    """Writes samples to ``temporary``; `commit` flushes it and renames it to ``path``. Without a commit it is deleted.

    Headers are ustar with mtime 0, uid and gid 0, no names and mode 0644; the last record is padded with zeros.
    """

    def __init__(self, path: Path, temporary: Path) -> None:
        self._path, self._temporary = path, temporary
        self._samples = self._bytes = 0
        self._sha256, self._md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        self._file = temporary.open("wb")

    def add(self, key: str, image_format: str, image: bytes, meta: bytes) -> None:
        for suffix, data in ((image_format, image), ("json", meta)):
            self._write(tar_header(f"{key}.{suffix}", len(data)) + data + bytes(-len(data) % tarfile.BLOCKSIZE))
        self._samples += 1

    def commit(self, flushed: bool = True) -> ShardStats | None:
        """Finish the shard; None if it has no samples. Once ``flushed``, it survives a power cut."""
        if self._samples == 0:  # other readers fail on an empty tar
            return None
        end = 2 * tarfile.BLOCKSIZE
        self._write(bytes(end + -(self._bytes + end) % tarfile.RECORDSIZE))
        self._file.flush()
        if flushed:
            os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self._path)
        if flushed:
            fsync(self._path.parent)
        return ShardStats(self._samples, self._bytes, self._sha256.hexdigest(), self._md5.hexdigest())

    def _write(self, data: bytes) -> None:
        self._sha256.update(data)
        self._md5.update(data)
        self._bytes += len(data)
        self._file.write(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with disk_errors(self._path.parent):
            self._file.close()
            self._temporary.unlink(missing_ok=True)


def copy_shard(
    file: Path, new: Path, is_wanted: Callable[[str], bool], attributes: Mapping[str, Attributes] | None = None
) -> tuple[ShardStats | None, dict[str, bytes]]:
    """Copies the samples whose keys are wanted into a new shard, if there are any, perhaps with other attributes by
    key; returns the others' images, too."""
    others: dict[str, bytes] = {}
    with contextlib.closing(Shard(file)) as shard, ShardWriter(new, new.with_name(f".{new.name}{TEMPORARY}")) as writer:
        for sample in shard.samples:
            image, suffix = bytes(shard.read(sample.image)), sample.image.name.rpartition(".")[2]
            if sample.meta and is_wanted(sample.key):
                meta = bytes(shard.read(sample.meta))
                writer.add(
                    sample.key, suffix, image, with_attributes(meta, attributes[sample.key]) if attributes else meta
                )
            else:
                others[sample.key] = image
        return writer.commit(), others


def tar_header(name: str, size: int) -> bytes:
    """The header that tarfile writes for ``TarInfo(name)``, in a tenth of its time."""
    raw = name.encode()
    if len(raw) > tarfile.LENGTH_NAME or not name.isascii():  # needs a pax header first (POSIX.1-2001)
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf(tarfile.PAX_FORMAT)
    head = raw.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % size + b"00000000000\0"
    # The checksum counts its own field as eight spaces.
    return head + b"%06o\0 " % (sum(head) + 8 * 0x20 + _TAIL_SUM) + _TAIL

"""Read shards: one pass over the tar headers of a memory-mapped file, then any sample by its offset."""

from __future__ import annotations

import itertools
import mmap
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from facegan.errors import DatasetError
from facegan.shards.format import IMAGE_FORMATS

_BLOCK = tarfile.BLOCKSIZE
_PAX, _REGULAR = ord("x"), (ord("0"), 0)  # types of members
_MAX_PAX_BYTES = 1 << 20
_IMAGE_SUFFIXES = frozenset({*IMAGE_FORMATS, "jpeg"})


class Member(NamedTuple):
    """A file inside a tar; offset and size in bytes."""

    name: str
    offset: int
    size: int


class Sample(NamedTuple):
    """One sample of a shard; ``meta`` is its JSON, if it has one."""

    key: str
    image: Member
    meta: Member | None


class Shard:
    """A local shard, memory-mapped. ``samples`` are in the order of the tar.

    Raises DatasetError if the file is missing, damaged, cut short or not a tar.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise DatasetError(f"The shard {path} is missing.") from None
        except ValueError:
            raise DatasetError(f"The shard {path} is empty.") from None
        self.samples = _pair(self.members())

    def __len__(self) -> int:
        return len(self.samples)

    def members(self) -> list[Member]:
        """All regular files of the tar, in its order."""
        headers: dict[int, bytes] = {}
        try:
            return _walk(self._map, self.path, headers)
        finally:
            _check_headers(self.path, headers)  # a damaged header is the cause of any other error

    def read(self, member: Member) -> memoryview:
        """A member's bytes, without a copy. Release all views before you close the shard."""
        return memoryview(self._map)[member.offset : member.offset + member.size]

    def close(self) -> None:
        self._map.close()


def _walk(data: mmap.mmap, path: Path, headers: dict[int, bytes]) -> list[Member]:
    """The regular files; fills ``headers`` by offset."""
    members: list[Member] = []
    at, long_name = 0, None
    while True:
        header = data[at : at + _BLOCK]
        if len(header) < _BLOCK:
            raise DatasetError(f"The shard {path} is cut short: it has no end mark.")
        if header[0] == 0 and header.count(0) == _BLOCK:
            return members  # the end is two blocks of zeros, of which one is enough (POSIX.1-1988, ustar)
        headers[at] = header
        digits = header[124:136].strip(b" \0")
        if not digits.isdigit() or b"8" in digits or b"9" in digits:
            raise _damaged(path, at)
        size, offset, kind = int(digits, 8), at + _BLOCK, header[156]
        if offset + size > len(data):
            raise DatasetError(f"The shard {path} is cut short: it ends inside the member at byte {at}.")
        if kind == _PAX and size <= _MAX_PAX_BYTES:
            long_name = _pax_path(data[offset : offset + size])
        elif kind in _REGULAR:
            members.append(Member(long_name or _name(header), offset, size))
            long_name = None
        at = offset + -(-size // _BLOCK) * _BLOCK


def _check_headers(path: Path, headers: dict[int, bytes]) -> None:
    """Check each header's checksum, the sum of its bytes with its own eight as spaces (POSIX.1-1988, ustar).

    All headers at once: one by one would take longer than all the rest.
    """
    blocks = np.frombuffer(b"".join(headers.values()), np.uint8).reshape(-1, _BLOCK)
    sums = blocks.sum(axis=1, dtype=np.int64) - blocks[:, 148:156].sum(axis=1, dtype=np.int64) + 8 * ord(" ")
    for (at, header), total in zip(headers.items(), sums.tolist(), strict=True):
        if header[148:156].strip(b" \0").lstrip(b"0") != b"%o" % total:
            raise _damaged(path, at)


def _damaged(path: Path, at: int) -> DatasetError:
    return DatasetError(f"The shard {path} is damaged: no tar header at byte {at}.")


def _name(header: bytes) -> str:
    name = header[: header.find(0, 0, 100)] if 0 in header[:100] else header[:100]
    if header[345] and header[257:262] == b"ustar":
        name = header[345:500].split(b"\0", 1)[0] + b"/" + name
    return name.decode("utf-8", "surrogateescape")


def _pax_path(records: bytes) -> str | None:
    """The ``path`` in a pax extended header: records of ``"LENGTH NAME=VALUE\\n"`` (POSIX.1-2001, pax)."""
    while records:
        length, _, _ = records.partition(b" ")
        if not length.isdigit() or len(length) > 8 or not 0 < int(length) <= len(records):
            return None
        name, _, value = records[len(length) + 1 : int(length) - 1].partition(b"=")
        if name == b"path":
            return value.decode("utf-8", "surrogateescape")
        records = records[int(length) :]
    return None


def _pair(members: list[Member]) -> list[Sample]:
    """Consecutive members whose names agree up to the first dot are one sample (webdataset's rule)."""
    samples: list[Sample] = []
    for key, group in itertools.groupby(members, lambda member: _key(member.name)):
        files = {member.name[len(key) + 1 :].lower(): member for member in group}
        if images := [member for suffix, member in files.items() if suffix in _IMAGE_SUFFIXES]:
            samples.append(Sample(key, images[-1], files.get("json")))
    return samples


def _key(name: str) -> str:
    dot = name.find(".", name.rfind("/") + 1)
    return name[:dot] if dot >= 0 else name

"""Reading shards: one pass over the tar headers of a memory-mapped file, then every sample by its place."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from facegan.errors import DatasetError
from facegan.shards.layout import IMAGE_FORMATS

_BLOCK = 512
_MOST_PAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside a tar: its name, and where its bytes lie."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a shard: an image, and its JSON where there is one."""

    key: str
    image: Member
    meta: Member | None


class Shard:
    """A local shard, memory-mapped. `samples` in the order of the tar.

    Raises:
        DatasetError: the file is missing, no tar, or cut short.
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
        self.samples = _pair(list(_members(self._map, path)))

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, member: Member) -> memoryview:
        """A member's bytes, without a copy. Close the shard only when no view of it is left."""
        return memoryview(self._map)[member.offset : member.offset + member.size]

    def close(self) -> None:
        self._map.close()

    def __reduce__(self) -> tuple[type[Shard], tuple[Path]]:
        return Shard, (self.path,)  # a loader's worker process maps the file anew


def _members(data: mmap.mmap, path: Path) -> Iterator[Member]:
    at, long_name = 0, None
    while at + _BLOCK <= len(data):
        header = data[at : at + _BLOCK]
        if header.count(0) == _BLOCK:
            return  # the end: two blocks of zeros, of which one is enough (POSIX.1-1988, ustar)
        size = _checked_size(header, path, at)
        offset, kind = at + _BLOCK, header[156:157]
        if offset + size > len(data):
            raise DatasetError(f"The shard {path} is cut short: it ends inside the member at byte {at}.")
        if kind == b"x" and size <= _MOST_PAX_BYTES:
            long_name = _pax_path(data[offset : offset + size])
        elif kind in (b"0", b"\0"):
            yield Member(long_name or _name(header), offset, size)
            long_name = None
        at = offset + -(-size // _BLOCK) * _BLOCK
    raise DatasetError(f"The shard {path} is cut short: it has no end mark.")


def _checked_size(header: bytes, path: Path, at: int) -> int:
    stored_sum, size = (header[a:b].strip(b" \0") for a, b in ((148, 156), (124, 136)))
    if not stored_sum.isdigit() or not size.isdigit() or b"8" in stored_sum + size or b"9" in stored_sum + size:
        raise DatasetError(f"The shard {path} is damaged: no tar header at byte {at}.")
    if sum(header[:148]) + 8 * 32 + sum(header[156:]) != int(stored_sum, 8):
        raise DatasetError(f"The shard {path} is damaged: no tar header at byte {at}.")
    return int(size, 8)


def _name(header: bytes) -> str:
    name, prefix = header[:100].split(b"\0", 1)[0], b""
    if header[257:262] == b"ustar":
        prefix = header[345:500].split(b"\0", 1)[0]
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "surrogateescape")


def _pax_path(records: bytes) -> str | None:
    """The ``path`` of a pax extended header: records of ``"LENGTH NAME=VALUE\\n"`` (POSIX.1-2001, pax)."""
    while records:
        length, _, _ = records.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(records):
            return None
        name, _, value = records[len(length) + 1 : int(length) - 1].partition(b"=")
        if name == b"path":
            return value.decode("utf-8", "surrogateescape")
        records = records[int(length) :]
    return None


def _pair(members: list[Member]) -> list[Sample]:
    """Members of one name but for what follows its first dot are one sample (webdataset's rule)."""
    samples: list[Sample] = []
    key, image, meta = None, None, None
    for member in [*members, None]:
        stem, suffix = _split(member.name) if member else ("", "")
        if member is None or stem != key:
            if key is not None and image is not None:
                samples.append(Sample(key, image, meta))
            key, image, meta = stem, None, None
        if member is not None and suffix.lower() in (*IMAGE_FORMATS, "jpeg"):
            image = member
        elif member is not None and suffix == "json":
            meta = member
    return samples


def _split(name: str) -> tuple[str, str]:
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return folder + slash + stem, suffix

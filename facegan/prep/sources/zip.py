"""Zip archives. Members are read in place; nothing is extracted.

The directory is parsed here, after PKWARE's APPNOTE.TXT 6.3 (4.3.12 to 4.3.16, 4.5.3), because zipfile keeps all of it:
it needs 592 MB for a million members.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

from facegan.prep.sources.base import (
    DAMAGED,
    LABELS_FILE,
    MAX_BYTES,
    Entry,
    Source,
    archive_path,
    is_photo,
    read_labels,
    skip,
)
from facegan.prep.sources.remote import SourceFile

_END = struct.Struct("<4s4H2LH")  # of the directory, before the archive's comment
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64_BYTES = 20  # between `_END64` and `_END`
_MEMBER = struct.Struct("<4s2B5H3L5H2L")
_MAX_COMMENT_BYTES = 0xFFFF
_IN_EXTRA, _EXTRA64 = 0xFFFFFFFF, 1  # a number that the extra field with this tag holds instead
_MAX_VERSION = 63  # of the format
_UNIX, _UTF8 = 3, 0x800
_BUFFER_BYTES = 1 << 20
_HEADER_BYTES = 30  # of a member, before its name


@dataclass(frozen=True)
class Zip(Source):
    """Files of a zip, with StyleGAN's labels if it holds them. Of a repeated name the last member counts."""

    file: SourceFile

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        with self.file.open() as file:
            bounds, directory = self.file.bounds(file), _Directory(file)
            labels = self._labels(file, directory)
            total, parts = 0, directory.size
            for member in directory.members():
                name = archive_path(member.name)
                parts += _HEADER_BYTES + len(member.name) + member.packed
                bounds.check_parts(parts, "members")
                if member.name.endswith(b"/"):
                    continue
                if stat.S_ISLNK(member.mode):
                    ignored["link"] += 1  # its bytes are the target's name
                elif not is_photo(name):
                    skip(ignored, Entry(name, member.size, member.locator))
                else:
                    if member.size <= MAX_BYTES:
                        total += member.size
                    bounds.check_bytes(total)
                    yield Entry(name, member.size, member.locator, labels.get(name, 0))

    def _labels(self, file: BinaryIO, directory: _Directory) -> dict[bytes, int]:
        """Empty if StyleGAN's file is missing, encrypted or damaged."""
        name = LABELS_FILE.encode()
        found = [member for member in directory.members() if member.name == name] if directory.contains(name) else []
        for member in found[-1:]:
            try:
                with _open_member(file, member.locator, member.size) as opened:
                    return read_labels(opened, self.where)
            except DAMAGED:
                break
        return {}

    def unpacked(self, folder: Path) -> Zip:
        return replace(self, file=self.file.shareable(folder))

    def reader(self) -> ZipReader:
        return ZipReader(self.file)


class ZipReader:
    """Reads members by their locators, so that workers need no directory."""

    def __init__(self, file: SourceFile) -> None:
        self._file = file.open()

    def read(self, entry: Entry) -> bytes:
        with _open_member(self._file, entry.locator, entry.size) as file:
            return file.read(MAX_BYTES + 1)

    def close(self) -> None:
        self._file.close()


class _Member(NamedTuple):
    name: bytes
    size: int  # unpacked, in bytes; ``packed`` is the size in the archive
    packed: int
    locator: tuple[int, ...]  # offset of the local header, packed size, CRC-32, compression, flags (bit 0: encrypted)
    mode: int  # ``st_mode``; 0 if it was not archived on Unix


class _Directory:
    """The directory of an open archive, read as a stream; ``size`` is in bytes. Raises BadZipFile if it is damaged."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        tail_start = max(0, file.seek(0, os.SEEK_END) - _MAX_COMMENT_BYTES - _END.size - _END64.size - _LOCATOR64_BYTES)
        file.seek(tail_start)
        tail = file.read()
        end = tail.rfind(b"PK\5\6")
        if end < 0 or len(tail) - end < _END.size:
            raise zipfile.BadZipFile("no end of a directory")
        *_, self.size, offset, _ = _END.unpack_from(tail, end)
        locator64 = end - _LOCATOR64_BYTES
        if locator64 >= _END64.size and tail[locator64:].startswith(b"PK\6\7"):
            end = locator64 - _END64.size
            signature, *_, self.size, offset = _END64.unpack_from(tail, end)
            if signature != b"PK\6\6":
                raise zipfile.BadZipFile("a damaged end of a large directory")
        self._start = tail_start + end - self.size
        self._before = self._start - offset  # bytes before the archive, such as a self-extractor
        if self._start < 0 or self._before < 0:
            raise zipfile.BadZipFile("the directory does not fit into the file")

    def members(self) -> Iterator[_Member]:
        """In the directory's order. The file's position must not change meanwhile."""
        self._file.seek(self._start)
        left = self.size
        while left > 0:
            head = self._file.read(_MEMBER.size)
            if len(head) < _MEMBER.size or head[:4] != b"PK\1\2":
                raise zipfile.BadZipFile("a damaged directory")
            (_, _, system, version, flags, method, _, _, crc, packed, size, name_bytes, extra_bytes, comment_bytes,
             _, _, attributes, offset) = _MEMBER.unpack(head)  # fmt: skip
            rest_bytes = name_bytes + extra_bytes + comment_bytes
            rest = self._file.read(rest_bytes)
            left -= _MEMBER.size + rest_bytes
            if len(rest) < rest_bytes or left < 0:
                raise zipfile.BadZipFile("an incomplete directory")
            if _IN_EXTRA in (size, packed, offset):
                size, packed, offset = _read_extra64(rest[name_bytes:][:extra_bytes], [size, packed, offset])
            if version & 0xFF > _MAX_VERSION or max(size, packed, offset) >> 62:  # the other byte names a system
                raise zipfile.BadZipFile("a member of a newer format or of impossible size")
            locator = (offset + self._before, packed, crc, method, flags)
            name = rest[:name_bytes].partition(b"\0")[0]
            if flags & _UTF8:
                name.decode()  # or refuse it
            yield _Member(name, size, packed, locator, attributes >> 16 if system == _UNIX else 0)

    def contains(self, name: bytes) -> bool:
        """Whether these bytes occur anywhere in the directory: much faster than looking at each member."""
        self._file.seek(self._start)
        left, before = self.size, b""
        while left > 0 and (data := self._file.read(min(left, _BUFFER_BYTES))):
            if name in before + data:
                return True
            left, before = left - len(data), data[-len(name) :]
        return False


def _read_extra64(extra: bytes, numbers: list[int]) -> list[int]:
    """Fill in the numbers that did not fit into 32 bits: size, packed, offset."""
    while len(extra) >= 4:
        tag, length = struct.unpack_from("<HH", extra)
        if tag == _EXTRA64:
            field = extra[4 : 4 + length]
            for i, number in enumerate(numbers):
                if number == _IN_EXTRA:
                    if len(field) < 8:
                        raise zipfile.BadZipFile("a missing size")
                    numbers[i], field = int.from_bytes(field[:8], "little"), field[8:]
            break
        extra = extra[4 + length :]
    return numbers


def _open_member(file: BinaryIO, locator: tuple[int, ...], size: int) -> zipfile.ZipExtFile:
    info = zipfile.ZipInfo()
    offset, info.compress_size, info.CRC, info.compress_type, info.flag_bits = locator
    info.file_size = size
    if info.flag_bits & 0x1:
        raise ValueError("an encrypted member")
    file.seek(offset)
    header = file.read(_HEADER_BYTES)  # APPNOTE 4.3.7: the lengths of name and extra field are at 26 and 28
    if header[:4] != b"PK\3\4" or len(header) < _HEADER_BYTES:
        raise zipfile.BadZipFile("no local header")
    file.seek(sum(struct.unpack("<HH", header[26:30])), os.SEEK_CUR)
    return zipfile.ZipExtFile(file, "r", info)

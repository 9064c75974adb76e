"""Zips. Members are read where they lie; nothing is extracted."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from facegan.errors import DamagedSourceError
from facegan.prep.sources.base import DAMAGED, MAX_BYTES, Entry, below_archive, is_photo, suffix
from facegan.prep.sources.remote import SourceFile
from facegan.prep.sources.stylegan_labels import LABELS_FILE, StyleGANLabels

# The directory of a zip, read member by member: zipfile would hold all of it, some 700 bytes a member.
#
# After PKWARE's APPNOTE.TXT 6.3, sections 4.3.12 to 4.3.16 and 4.5.3.

_END = struct.Struct("<4s4H2LH")  # of the directory, before the archive's comment
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")  # stands before the end and tells where the other end stands
_MEMBER = struct.Struct("<4s2B5H3L5H2L")
_MOST_COMMENT = 0xFFFF
_FULL, _FULL_64 = 0xFFFFFFFF, 1  # a number that stands in the extra field with this tag instead
_NEWEST = 63  # version of the format: what a later one needs is not known here
_UNIX = 3
_PIECE_BYTES = 1 << 20


class Member(NamedTuple):
    """What the directory tells of a member.

    Attributes:
        name: its own bytes; one with a slash at its end is a folder.
        size: unpacked, in bytes; ``packed`` likewise as it lies there.
        offset: of its local header, from the file's beginning.
        sum: CRC-32.
        method: of packing (zipfile's ``compress_type``).
        flags: bit 0: encrypted, bit 11: the name is UTF-8.
        mode: as in Unix's ``st_mode``; 0 where another system made it.
    """

    name: bytes
    size: int
    packed: int
    offset: int
    sum: int
    method: int
    flags: int
    mode: int


class Directory:
    """Where the directory of an open archive lies.

    Attributes:
        size: its bytes.
    """

    def __init__(self, file: BinaryIO) -> None:
        """
        Raises:
            zipfile.BadZipFile: the file has none.
        """
        self._file = file
        self.size, offset, end = _end(file)
        self._start = end - self.size
        self._before = self._start - offset  # bytes that were put before the archive, such as a program that unpacks it
        if self._start < 0 or self._before < 0:
            raise zipfile.BadZipFile("its directory does not fit in")

    def members(self) -> Iterator[Member]:
        """In the directory's order. Nothing else may move in the file meanwhile.

        Raises:
            zipfile.BadZipFile: the directory is damaged.
            NotImplementedError: a member needs a later version of the format.
            UnicodeDecodeError: a name that is said to be UTF-8 is not.
        """
        self._file.seek(self._start)
        left = self.size
        while left > 0:
            head = self._file.read(_MEMBER.size)
            if len(head) < _MEMBER.size or head[:4] != b"PK\1\2":
                raise zipfile.BadZipFile("a damaged directory")
            (_, _, system, needs, flags, method, _, _, crc, packed, size, name_bytes, extra_bytes, comment_bytes, _, _,
             attributes, offset) = _MEMBER.unpack(head)  # fmt: skip
            more = self._file.read(name_bytes + extra_bytes + comment_bytes)
            left -= len(head) + len(more)
            if len(more) < name_bytes + extra_bytes + comment_bytes or left < 0:
                raise zipfile.BadZipFile("a directory cut short")
            if needs & 0xFF > _NEWEST:
                raise NotImplementedError(f"a member needs version {(needs & 0xFF) / 10:.1f} of the format")
            name = more[:name_bytes].partition(b"\0")[0]
            if flags & 0x800:
                name.decode()
            if _FULL in (size, packed, offset):
                extra = more[name_bytes : name_bytes + extra_bytes]
                size, packed, offset = _large(extra, [size, packed, offset])
            if max(size, packed, offset) >> 62:
                raise zipfile.BadZipFile("a member beyond all sizes")
            yield Member(
                name,
                size,
                packed,
                offset + self._before,
                crc,
                method,
                flags,
                attributes >> 16 if system == _UNIX else 0,
            )

    def mentions(self, name: bytes) -> bool:
        """Whether these bytes stand in the directory at all. Much quicker than to look at its members."""
        self._file.seek(self._start)
        left, before = self.size, b""
        while left > 0 and (piece := self._file.read(min(left, _PIECE_BYTES))):
            if name in before + piece:
                return True
            left, before = left - len(piece), piece[-len(name) :]
        return False


def _end(file: BinaryIO) -> tuple[int, int, int]:
    """The directory's size, its offset as it was written, and where it ends."""
    size = file.seek(0, os.SEEK_END)
    tail_at = max(0, size - _MOST_COMMENT - _END.size)
    file.seek(tail_at)
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _END.size:
        raise zipfile.BadZipFile("no end of a directory")
    *_, directory_bytes, offset, _ = _END.unpack_from(tail, at)
    end = tail_at + at
    locator_at = end - _LOCATOR64.size
    if locator_at < 0:
        return directory_bytes, offset, end
    file.seek(locator_at)
    signature, _, told_at, _ = _LOCATOR64.unpack(file.read(_LOCATOR64.size))
    if signature != b"PK\6\7":
        return directory_bytes, offset, end
    for at_64 in (told_at, locator_at - _END64.size):  # with something put before the archive only the second is right
        if at_64 + _END64.size > size or at_64 < 0:
            continue
        file.seek(at_64)
        signature, *_, directory_bytes, offset = _END64.unpack(file.read(_END64.size))
        if signature == b"PK\6\6":
            return directory_bytes, offset, at_64
    raise zipfile.BadZipFile("a damaged end of a large directory")


def _large(extra: bytes, told: list[int]) -> list[int]:
    """Numbers that did not fit into 32 bits, in the order size, packed, offset."""
    while len(extra) >= 4:
        tag, length = struct.unpack_from("<HH", extra)
        if tag == _FULL_64:
            field = extra[4 : 4 + length]
            for i, number in enumerate(told):
                if number == _FULL:
                    if len(field) < 8:
                        raise zipfile.BadZipFile("a size is missing")
                    told[i], field = int.from_bytes(field[:8], "little"), field[8:]
            return told
        extra = extra[4 + length :]
    return told


_HEADER_BYTES = 30  # of a member, before its name
_LABEL_SHARE = 16  # of labels to the directory, which has each name once and 46 bytes for it
_SMALL_LABELS = 1 << 20


@dataclass(frozen=True)
class Zip:
    """Files of a zip, StyleGAN's labels where it holds such. Of a name that stands twice the later one counts."""

    blob: SourceFile

    @property
    def where(self) -> str:
        return self.blob.where

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        try:
            with self.blob.open() as file:
                bounds, directory = self.blob.bounds(file), Directory(file)
                total, parts = 0, directory.size
                with contextlib.closing(_labels(file, directory)) as labels:
                    for member in directory.members():
                        name = below_archive(member.name)
                        parts += _HEADER_BYTES + len(member.name) + member.packed
                        bounds.check_parts(parts, "members")
                        if member.name.endswith(b"/"):
                            continue
                        if stat.S_ISLNK(member.mode):
                            ignored["link"] += 1  # its bytes are the target's name
                        elif not is_photo(name):
                            ignored[suffix(name)] += 1
                        else:
                            if member.size <= MAX_BYTES:
                                total += member.size
                            bounds.check_bytes(total)
                            yield Entry(name, member.size, _place(member), labels.of(name))
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:  # odd names
            raise DamagedSourceError(f"{self.where} is no whole zip archive ({error}).") from None

    def marks(self) -> tuple[str, ...]:
        return ()

    def unpacked(self, folder: Path) -> Zip:
        return Zip(self.blob.in_parts(folder))

    def reader(self) -> ZipReader:
        return ZipReader(self.blob)


def _place(member: Member) -> tuple[int, ...]:
    return member.offset, member.packed, member.sum, member.method, member.flags


def _labels(file: BinaryIO, directory: Directory) -> StyleGANLabels:
    """Those of StyleGAN's file in the archive; none where it is missing, encrypted or damaged."""
    wanted = LABELS_FILE.encode()
    if not directory.mentions(wanted):
        return StyleGANLabels(None)
    found = [member for member in directory.members() if member.name == wanted][-1:]
    if not found or found[0].size > _SMALL_LABELS + _LABEL_SHARE * directory.size:
        return StyleGANLabels(None)
    try:
        with _opened(file, _place(found[0]), found[0].size) as labels:
            return StyleGANLabels(labels)
    except DAMAGED:
        return StyleGANLabels(None)


def _opened(file: BinaryIO, place: tuple[int, ...], size: int) -> zipfile.ZipExtFile:
    """A member, to be read."""
    info = zipfile.ZipInfo()
    offset, info.compress_size, info.CRC, info.compress_type, info.flag_bits = place
    info.file_size = size
    if info.flag_bits & 0x1:
        raise ValueError("an encrypted member")
    file.seek(offset)
    header = file.read(_HEADER_BYTES)  # PKWARE's APPNOTE, 4.3.7: lengths of name and extra field at 26 and 28
    if header[:4] != b"PK\3\4" or len(header) < _HEADER_BYTES:
        raise zipfile.BadZipFile("no local header")
    file.seek(sum(struct.unpack("<HH", header[26:30])), os.SEEK_CUR)
    return zipfile.ZipExtFile(file, "r", info)


class ZipReader:
    """Reads members by what the listing knows of them, so that no process but the lister holds the directory."""

    def __init__(self, blob: SourceFile) -> None:
        self._file = blob.open()

    def read(self, entry: Entry) -> bytes:
        with _opened(self._file, entry.place, entry.size) as file:
            return file.read(MAX_BYTES + 1)

    def close(self) -> None:
        self._file.close()

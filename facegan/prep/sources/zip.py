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
from typing import BinaryIO

from facegan.errors import DamagedSourceError
from facegan.prep.sources.base import DAMAGED, MAX_BYTES, Entry, below_archive, is_photo, suffix
from facegan.prep.sources.blob import Blob
from facegan.prep.sources.labels import LABELS_FILE, Labels
from facegan.prep.sources.zip_directory import Directory, Member

_HEADER_BYTES = 30  # of a member, before its name
_LABEL_SHARE = 16  # of labels to the directory, which has each name once and 46 bytes for it
_SMALL_LABELS = 1 << 20


@dataclass(frozen=True)
class Zip:
    """Files of a zip, StyleGAN's labels where it holds such. Of a name that stands twice the later one counts."""

    blob: Blob

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


def _labels(file: BinaryIO, directory: Directory) -> Labels:
    """Those of StyleGAN's file in the archive; none where it is missing, encrypted or damaged."""
    wanted = LABELS_FILE.encode()
    if not directory.mentions(wanted):
        return Labels(None)
    found = [member for member in directory.members() if member.name == wanted][-1:]
    if not found or found[0].size > _SMALL_LABELS + _LABEL_SHARE * directory.size:
        return Labels(None)
    try:
        with _opened(file, _place(found[0]), found[0].size) as labels:
            return Labels(labels)
    except DAMAGED:
        return Labels(None)


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

    def __init__(self, blob: Blob) -> None:
        self._file = blob.open()

    def read(self, entry: Entry) -> bytes:
        with _opened(self._file, entry.place, entry.size) as file:
            return file.read(MAX_BYTES + 1)

    def close(self) -> None:
        self._file.close()

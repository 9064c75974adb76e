"""Zips. Members are read where they lie; nothing is extracted."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from facegan.errors import SourceError
from facegan.prep.sources.base import MAX_BYTES, Blob, Entry, archive_name, is_photo, suffix
from facegan.prep.sources.labels import LABELS_FILE, read_labels

_MOST_LABEL_BYTES = 1 << 30


@dataclass(frozen=True)
class Zip:
    """Files of a zip, StyleGAN's labels where it holds such. Of a name that stands twice the later one counts."""

    blob: Blob

    @property
    def where(self) -> str:
        return self.blob.where

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        try:
            with self.blob.open() as file, zipfile.ZipFile(file) as archive:
                labels = _labels(archive)
                for info in archive.infolist():
                    name = _name(info)
                    if info.is_dir():
                        continue
                    if info.create_system == 3 and stat.S_ISLNK(info.external_attr >> 16):  # 3: Unix
                        ignored["link"] += 1  # its bytes are the target's name
                        continue
                    if not is_photo(name):
                        ignored[suffix(name)] += 1
                        continue
                    place = (info.header_offset, info.compress_size, info.CRC, info.compress_type, info.flag_bits)
                    yield Entry(name, info.file_size, place, labels.get(name, 0))
        except (zipfile.BadZipFile, NotImplementedError, ValueError, IndexError) as error:  # odd names
            raise SourceError(f"{self.where} is no whole zip archive ({error}).") from None

    def marks(self) -> tuple[str, ...]:
        return ()

    def unpacked(self, folder: Path) -> Zip:
        return self

    def reader(self) -> ZipReader:
        return ZipReader(self.blob)


def _labels(archive: zipfile.ZipFile) -> dict[bytes, int]:
    try:
        info = archive.getinfo(LABELS_FILE)
        return read_labels(archive.read(info)) if info.file_size <= _MOST_LABEL_BYTES else {}
    except (KeyError, RuntimeError, NotImplementedError, zipfile.BadZipFile):  # none, encrypted, or damaged
        return {}


def _name(info: zipfile.ZipInfo) -> bytes:
    """The name's own bytes: where the flag for UTF-8 is not set, zipfile has read them as code page 437."""
    if info.flag_bits & 0x800:
        return archive_name(info.filename)
    return archive_name(os.fsdecode(info.filename.encode("cp437")))


class ZipReader:
    """Reads members by what the listing knows of them, so that no process but the lister holds the directory."""

    def __init__(self, blob: Blob) -> None:
        self._file = blob.open()

    def read(self, entry: Entry) -> bytes:
        info = zipfile.ZipInfo()
        offset, info.compress_size, info.CRC, info.compress_type, info.flag_bits = entry.place
        info.file_size = entry.size
        if info.flag_bits & 0x1:
            raise ValueError("an encrypted member")
        self._file.seek(offset)
        header = self._file.read(30)  # PKWARE's APPNOTE, 4.3.7: lengths of name and extra field at 26 and 28
        if header[:4] != b"PK\3\4" or len(header) < 30:
            raise zipfile.BadZipFile("no local header")
        self._file.seek(sum(struct.unpack("<HH", header[26:30])), os.SEEK_CUR)
        with zipfile.ZipExtFile(self._file, "r", info) as file:
            return file.read(MAX_BYTES + 1)

    def close(self) -> None:
        self._file.close()

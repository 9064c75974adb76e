"""Rejected photographs, carried by preview.png itself: the next addition or repair draws them again.

They lie in a chunk of our own before the picture's last one, which other programs pass over (W3C, "Portable Network
Graphics", 5.3 and 5.4), so that nothing but the dataset's files has to be kept.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter

from facegan.errors import DamagedFile
from facegan.files import parsing
from facegan.prep.chunk import Thumbnail

_REJECTS = TypeAdapter(list[tuple[int, Thumbnail]])
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KIND = b"fgRj"  # small first letters: other programs need not know it
_LAST = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


def with_rejects(png: bytes, rejects: Iterable[tuple[int, Thumbnail]]) -> bytes:
    """A PNG that carries rejected photographs, each with the place of its chunk; the same one where there are none."""
    told = [[number, asdict(reject)] for number, reject in rejects]
    if not told:
        return png
    data = _KIND + json.dumps(told).encode()
    chunk = struct.pack(">I", len(data) - len(_KIND)) + data + struct.pack(">I", zlib.crc32(data))
    return png.removesuffix(_LAST) + chunk + _LAST


def read_rejects(path: Path) -> list[tuple[int, Thumbnail]]:
    """What `with_rejects` was given; nothing where the file is missing, damaged, or of another program."""
    try:
        png, at = path.read_bytes(), len(_SIGNATURE)
        while at < len(png):
            (size,) = struct.unpack_from(">I", png, at)
            if png[at + 4 : at + 8] == _KIND:
                if struct.unpack_from(">I", png, at + 8 + size)[0] != zlib.crc32(png[at + 4 : at + 8 + size]):
                    break
                with parsing(path):
                    return _REJECTS.validate_json(png[at + 8 : at + 8 + size])
            at += 12 + size
    except (OSError, DamagedFile, struct.error):
        pass
    return []

"""What picture files say of their own structure: where decoders are too lenient, too strict, or too patient.

JPEG is ITU-T T.81, Annex B; PNG the W3C's third edition; TIFF revision 6.0; RIFF that of RFC 9649.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

MAX_PIXELS = 100_000_000  # of one photograph

# A few bytes of scan cost a pass over the whole picture: libjpeg-turbo's authors advise 500 ("Two Issues with the
# JPEG Standard"). Encoders write about ten; a script that lists every bit of every coefficient, 2,688.
MAX_SCANS = 500

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # a pixel, by colour type
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))

_SOS, _EOI = 0xDA, 0xD9
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})  # no length follows them
_JPEG_MARKER = re.compile(rb"\xff+([^\0\xff])")
_BEHIND_SCAN = re.compile(rb"\xff+([^\0\xd0-\xd7\xff])")  # restart markers belong to the scan
_JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"


def has_too_many_scans(jpeg: bytes) -> bool:
    """More than `MAX_SCANS` start-of-scan markers before the end of the (first) picture."""
    if _is_one_scan(jpeg) or jpeg.count(b"\xff\xda") <= MAX_SCANS:
        return False  # which costs next to nothing; thumbnails, and films behind the picture, may hold more
    return sum(marker == _SOS for marker, _, _ in _segments(jpeg)) > MAX_SCANS


def _is_one_scan(jpeg: bytes) -> bool:
    """Sequential, with all components in the first scan: decoders stop behind it."""
    components = b""
    for marker, start, _ in _segments(jpeg):
        if marker in (0xC0, 0xC1):
            components = jpeg[start + 9 : start + 10]
        elif marker == _SOS:
            return jpeg[start + 4 : start + 5] == components != b""
    return False


def tidied(jpeg: bytes) -> bytes:
    """The same picture without what libjpeg warns of ahead of it: stray bytes, odd versions, comments, profiles.

    It tells of the first thing amiss alone, and behind a harmless one rows may lack.
    """
    kept, behind = [b"\xff\xd8"], 2
    for marker, start, end in _segments(jpeg):
        if marker == _SOS:
            return b"".join(kept) + jpeg[start:]
        if marker == 0xE0 and jpeg[start + 4 : start + 9] == b"JFIF\0":
            kept.append(_JFIF)
        elif marker == 0xEE and jpeg[start + 4 : start + 9] == b"Adobe":
            # Of transforms there are none, YCbCr and YCCK; others are taken for YCbCr, as libjpeg does.
            kept.append(jpeg[start:end] if jpeg[start + 15 : start + 16] in (b"\0", b"\1", b"\2") else _JFIF)
        elif not 0xE0 <= marker <= 0xEF and marker != 0xFE:
            kept.append(jpeg[start:end])
        behind = end
    return b"".join(kept) + jpeg[behind:]


def _segments(jpeg: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each segment as libjpeg finds them: bytes between are skipped. The end marker ends it."""
    at, pattern = 2, _JPEG_MARKER
    while found := pattern.search(jpeg, at):
        marker, start = found[1][0], found.start(1) - 1
        at = found.end()
        if marker == _EOI:
            return
        if marker not in _BARE_MARKERS:
            at += int.from_bytes(jpeg[at : at + 2], "big")
        yield marker, start, at
        pattern = _BEHIND_SCAN if marker == _SOS else _JPEG_MARKER


def bare_png(png: bytes) -> tuple[bytes, str]:
    """The chunks that make up the (first) picture, and why it is not whole: ``truncated``, ``unreadable`` or ``""``.

    Decoders show what lacks as black, and refuse pictures for a bomb in their text; here the rows are counted, and
    zlib's own checksum decides whether they are right.
    """
    if len(png) < 29:
        return png, "unreadable"
    kept, packed, rows = [PNG_SIGNATURE], [], _Rows(png[16:29])
    for name, start, end in _chunks(png):
        if name == b"IDAT" and not rows.ended:
            packed.append(png[start + 8 : end - 4])
            rows.add(packed[-1])
        elif name in (b"IHDR", b"PLTE", b"tRNS"):
            rows.has_palette |= name == b"PLTE"
            kept.append(png[start:end])
    data = b"IDAT" + b"".join(packed)
    kept += [struct.pack(">I", len(data) - 4), data, struct.pack(">I", zlib.crc32(data)), _PNG_END]
    return b"".join(kept), rows.problem()


def _chunks(png: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, end) of each chunk up to IEND; ``end`` lies behind the file's where that was cut."""
    at = len(PNG_SIGNATURE)
    while at + 8 <= len(png):
        length, name = struct.unpack_from(">I4s", png, at)
        yield name, at, at + 12 + length
        if name == b"IEND":
            return
        at += 12 + length


class _Rows:
    """Counts the bytes of scan lines in IDAT, without holding them."""

    def __init__(self, header: bytes) -> None:
        width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
        self.has_palette = colour != 3
        pixel = bits * _PNG_SAMPLES.get(colour, 0)
        passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
        sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
        self._lacking = sum(rows * (1 + -(-columns * pixel // 8)) for columns, rows in sizes if columns and rows)
        self._zlib = zlib.decompressobj()
        self._damaged = False

    @property
    def ended(self) -> bool:
        return self._lacking < 0 or self._zlib.eof or self._damaged

    def add(self, packed: bytes) -> None:
        for at in range(0, len(packed), 1 << 16):
            piece = packed[at : at + (1 << 16)]
            while piece and not self.ended:
                try:
                    # One byte more than is needed makes zlib look at the checksum that follows.
                    self._lacking -= len(self._zlib.decompress(piece, min(self._lacking + 1, 1 << 20)))
                except zlib.error:
                    self._damaged = True
                piece = self._zlib.unconsumed_tail

    def problem(self) -> str:
        if self._damaged or not self.has_palette:
            return "unreadable"
        return "truncated" if self._lacking > 0 else ""


def tiff_lacks_strips(tags: Mapping[int, Any], width: int, height: int) -> bool:
    """Fewer strips or tiles than the size asks for, by the tags of its directory."""

    def number(tag: int, otherwise: int) -> int:
        value = tags.get(tag, otherwise)
        return int(value[0] if isinstance(value, tuple) else value) or otherwise

    if 322 in tags:  # TileWidth, TileLength, TileOffsets
        pieces = -(-width // number(322, width)) * -(-height // number(323, height))
        places = tags.get(324, ())
    else:  # RowsPerStrip, StripOffsets
        pieces, places = -(-height // number(278, height)), tags.get(273, ())
    planes = number(277, 1) if number(284, 1) == 2 else 1
    return (len(places) if isinstance(places, tuple) else 1) < pieces * planes


def is_cut(data: bytes) -> bool:
    """Whether a WebP, AVIF or TIFF is shorter than it says; decoders refuse it without saying why."""
    if data[:4] == b"RIFF":
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    if data[4:8] == b"ftyp":  # ISO 14496-12: boxes of 32-bit sizes; 0 and 1 stand for others
        at = 0
        while (size := int.from_bytes(data[at : at + 4], "big")) >= 8:
            at += size
        return at > len(data)
    order = {b"II*\0": "<I", b"MM\0*": ">I"}.get(data[:4])  # of the first directory's place
    return order is not None and (len(data) < 8 or struct.unpack_from(order, data, 4)[0] >= len(data))


def is_webp_or_avif(data: bytes) -> bool:
    return data[:4] == b"RIFF" or _brands(data).startswith((b"avi", b"mif1"))


def is_heic(data: bytes) -> bool:
    """Photographs of phones: ISO 23008-12, by their brands (heic, heix, hevc, …)."""
    return b"hei" in _brands(data) or b"hev" in _brands(data)


def _brands(data: bytes) -> bytes:
    return data[8 : int.from_bytes(data[:4], "big")] if data[4:8] == b"ftyp" else b""

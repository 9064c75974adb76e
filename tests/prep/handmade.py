"""Picture files made by hand, segment by segment: those that no encoder would write."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
DQT, SOF, SOF2, DHT, SOS, APP0 = 0xDB, 0xC0, 0xC2, 0xC4, 0xDA, 0xE0


def encoded(picture: np.ndarray | Image.Image, kind: str, mode: str | None = None, **options: Any) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, kind, **options)
    return file.getvalue()


# JPEG: ITU-T T.81, Annex B.


def segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def segments(jpeg: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, first byte and end of each segment up to the first scan's header."""
    at, marker = 2, 0
    while marker != SOS:
        marker, length = struct.unpack(">xBH", jpeg[at : at + 4])
        yield marker, at, at + 2 + length
        at += 2 + length


def inside(jpeg: bytes, marker: int) -> int:
    """The middle of the first segment of this kind."""
    return next((start + end) // 2 for found, start, end in segments(jpeg) if found == marker)


def in_scan(jpeg: bytes, share: float) -> int:
    """The byte by which this share of the entropy-coded data has passed."""
    start = max(end for _, _, end in segments(jpeg))
    return int(start + share * (len(jpeg) - 2 - start))


def with_segments(jpeg: bytes, *more: bytes) -> bytes:
    """``more`` put in behind the start marker."""
    return SOI + b"".join(more) + jpeg[2:]


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def jpeg_of_size(jpeg: bytes, width: int, height: int) -> bytes:
    """The same JPEG under a header that claims another size."""
    frame = next(start for marker, start, _ in segments(jpeg) if marker in (SOF, SOF2))
    return patched(jpeg, frame + 5, struct.pack(">HH", height, width))


def ycck(picture: np.ndarray) -> bytes:
    """A JPEG of four planes YCbCrK as Adobe's programs write it: T.872, 6.5.3; CMYK is stored inverted."""
    cmyk = np.asarray(Image.fromarray(picture).convert("CMYK"))
    ycc = np.asarray(Image.fromarray(cmyk[..., :3]).convert("YCbCr"))
    planes = np.dstack([255 - ycc, cmyk[..., 3]])  # Pillow inverts all four
    data = encoded(Image.frombytes("CMYK", planes.shape[1::-1], planes.tobytes()), "JPEG", quality=95)
    return patched(data, data.index(b"Adobe") + 11, b"\x02")  # its transform byte: 2 stands for YCCK


def of_many_scans(progressive: bytes, count: int) -> bytes:
    """A progressive JPEG with its last scan ``count`` times."""
    last = progressive.rindex(b"\xff\xda")
    return progressive[:last] + progressive[last:-2] * count + EOI


def exif(*entries: tuple[int, int, int, bytes], next_ifd: int = 0, cut: int | None = None) -> bytes:
    """An EXIF block of tags (number, type, count, 4 bytes of value), little-endian."""
    ifd = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in entries)
    block = b"II*\0" + struct.pack("<IH", 8, len(entries)) + ifd + struct.pack("<I", next_ifd)
    return b"Exif\0\0" + block[:cut]


def orientation_tag(value: int) -> tuple[int, int, int, bytes]:
    return 0x0112, 3, 1, struct.pack("<H", value)


# PNG: W3C PNG, third edition.


def chunk(name: bytes, data: bytes, crc: int = 0) -> bytes:
    """``crc``: what to add to the right checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", (zlib.crc32(name + data) + crc) % 2**32)


def png(
    rows: bytes | list[bytes], width: int, height: int, bits: int, colour: int, *before: bytes, after: bytes = b""
) -> bytes:
    """A PNG of scan lines (each begins with its filter's byte), or of image data as it shall stand in IDAT."""
    data = zlib.compress(b"".join(rows)) if isinstance(rows, list) else rows
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + chunk(b"IDAT", data) + after + chunk(b"IEND", b"")


def lines(samples: np.ndarray, filter_byte: bytes = b"\0") -> list[bytes]:
    """Rows of 8- or 16-bit samples, unfiltered."""
    return [filter_byte + row.astype(f">u{samples.itemsize}").tobytes() for row in samples]


def interlaced(png_file: bytes, picture: np.ndarray, missing: int = 0) -> bytes:
    """``picture`` in the seven passes of Adam7 (section 8), less the last ``missing`` lines; header from a PNG."""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = [line for x, y, dx, dy in passes for line in lines(picture[y::dy, x::dx])]
    header = patched(png_file[16:29], 12, b"\1")
    data = zlib.compress(b"".join(rows[: len(rows) - missing]))
    return png_file[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def zeros_deflated(count: int) -> bytes:
    """A zlib stream of ``count`` zeros, made without holding them."""
    packer = zlib.compressobj(1)
    block = bytes(1 << 20)
    parts = [packer.compress(block[: min(len(block), count - at)]) for at in range(0, count, len(block))]
    return b"".join(parts) + packer.flush()


# Others.


def tar_header(name: str, size: int, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info.tobuf(tarfile.GNU_FORMAT)


def heic() -> bytes:
    """A HEIC as phones write it, as far as its brand (ISO 14496-12, 4.3); there is no decoder to ask for more."""
    brand = b"ftypheic" + bytes(4) + b"mif1heic"
    return struct.pack(">I", len(brand) + 4) + brand + struct.pack(">I", 100) + b"meta" + bytes(92)


def webp_header(width: int, height: int) -> bytes:
    """A WebP that claims a canvas and holds nothing: RFC 9649, 2.7."""
    canvas = bytes(4) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", len(canvas)) + canvas
    return b"RIFF" + struct.pack("<I", len(body)) + body

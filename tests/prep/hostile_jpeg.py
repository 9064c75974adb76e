"""Hostile JPEG files."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from tests.prep import handmade as by_hand
from tests.prep.handmade import APP0, DHT, DQT, SOF, SOI, SOS, encoded, patched
from tests.prep.hostile_kind import (
    KEPT,
    NO_FACE,
    TOO_LARGE,
    TRUNCATED,
    UNREADABLE,
    Kind,
    jpeg,
    just,
    larger,
    progressive,
    srgb,
)


def _cut_jpeg(at: Callable[[bytes], int], **options: Any) -> Callable[[np.ndarray], bytes]:
    def make(picture: np.ndarray) -> bytes:
        data = jpeg(picture, **options)
        return data[: at(data)]

    return make


def _with_exif(*entries: tuple[int, int, int, bytes], **options: int) -> Callable[[np.ndarray], bytes]:
    block = by_hand.segment(0xE1, by_hand.exif(*entries, **options))
    return lambda picture: by_hand.with_segments(jpeg(picture), block)


def _stored_as(orientation: int) -> Callable[[np.ndarray], bytes]:
    """The picture as a camera stores it under this EXIF orientation."""
    stored = {2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1],
              5: lambda p: p.transpose(1, 0, 2), 6: lambda p: np.rot90(p), 7: lambda p: np.rot90(p[::-1]),
              8: lambda p: np.rot90(p, 3)}.get(orientation, lambda p: p)  # fmt: skip
    make = _with_exif(by_hand.orientation_tag(orientation))
    return lambda picture: make(np.ascontiguousarray(stored(picture)))


def _thumbnailed(picture: np.ndarray) -> bytes:
    """Another picture as EXIF's thumbnail: tags 0x0201 and 0x0202 of a second directory."""
    small = encoded(np.zeros((40, 40, 3), np.uint8), "JPEG")
    first = by_hand.exif(by_hand.orientation_tag(1), next_ifd=26)
    second = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in ((0x0201, 56), (0x0202, len(small))))
    block = first + struct.pack("<H", 2) + second + bytes(4) + small
    return by_hand.with_segments(jpeg(picture), by_hand.segment(0xE1, block))


def _icc(payload: bytes, parts: int = 1) -> Callable[[np.ndarray], bytes]:
    pieces = [payload[i::parts] for i in range(parts)]
    blocks = [
        by_hand.segment(0xE2, b"ICC_PROFILE\0" + bytes([number, parts]) + piece)
        for number, piece in enumerate(pieces, 1)
    ]
    return lambda picture: by_hand.with_segments(jpeg(picture), *blocks)


def _damaged_scan(picture: np.ndarray) -> bytes:
    data = jpeg(picture)
    return patched(data, by_hand.in_scan(data, 0.5), b"\xff\0" * 9)  # no code is all ones


def _flipped(picture: np.ndarray) -> bytes:
    """A marker in the middle of the scan, where none may stand."""
    data = jpeg(picture)
    return patched(data, by_hand.in_scan(data, 0.5), b"\xff\xc0")


def _mpo(picture: np.ndarray) -> bytes:
    return encoded(picture, "MPO", save_all=True, append_images=[Image.fromarray(255 - picture)])


def _without(data: bytes, marker: int) -> bytes:
    """Without any segment of this kind."""
    for found, start, end in reversed(list(by_hand.segments(data))):
        data = data[:start] + data[end:] if found == marker else data
    return data


JPEGS = [
    Kind("plain.jpg", KEPT, jpeg),
    Kind("progressive.jpg", KEPT, progressive),
    Kind("grey.jpg", KEPT, lambda p: jpeg(p, "L")),
    Kind("cmyk.jpg", KEPT, lambda p: jpeg(p, "CMYK")),
    Kind("cmyk progressive.jpg", KEPT, lambda p: jpeg(p, "CMYK", progressive=True)),
    Kind("ycck.jpg", KEPT, by_hand.ycck),
    Kind("rgb not ycc.jpg", KEPT, lambda p: jpeg(p, keep_rgb=True)),
    Kind("4-4-4.jpg", KEPT, lambda p: jpeg(p, subsampling=0)),
    Kind("restart markers.jpg", KEPT, lambda p: jpeg(p, restart_marker_rows=1)),
    Kind("mosaic.jpg", KEPT, lambda p: by_hand.mosaic_jpeg(larger(p))),
    Kind("12 bits.jpg", UNREADABLE, lambda p: by_hand.mosaic_jpeg(larger(p), bits=12)),
    Kind("arithmetic.jpg", NO_FACE, lambda p: by_hand.arithmetic_jpeg()),  # libjpeg-turbo reads it
    Kind("many scans.jpg", KEPT, lambda p: by_hand.mosaic_jpeg(larger(p), scans=100)),
    Kind("thousands of scans.jpg", UNREADABLE, lambda p: by_hand.mosaic_jpeg(larger(p), scans=3000)),
    Kind("cut behind SOI.jpg", UNREADABLE, just(SOI)),
    Kind("cut in APP0.jpg", UNREADABLE, _cut_jpeg(lambda data: by_hand.inside(data, APP0))),
    Kind("cut in DQT.jpg", UNREADABLE, _cut_jpeg(lambda data: by_hand.inside(data, DQT))),
    Kind("cut in SOF.jpg", UNREADABLE, _cut_jpeg(lambda data: by_hand.inside(data, SOF))),
    Kind("cut in DHT.jpg", UNREADABLE, _cut_jpeg(lambda data: by_hand.inside(data, DHT))),
    Kind("cut in SOS.jpg", UNREADABLE, _cut_jpeg(lambda data: by_hand.inside(data, SOS))),
    Kind("cut behind SOS.jpg", TRUNCATED, _cut_jpeg(lambda data: by_hand.in_scan(data, 0))),
    Kind("cut at a tenth.jpg", TRUNCATED, _cut_jpeg(lambda data: by_hand.in_scan(data, 0.1))),
    Kind("cut in the middle.jpg", TRUNCATED, _cut_jpeg(lambda data: by_hand.in_scan(data, 0.5))),
    Kind("cut at nine tenths.jpg", TRUNCATED, _cut_jpeg(lambda data: by_hand.in_scan(data, 0.9))),
    Kind("cut progressive.jpg", TRUNCATED, _cut_jpeg(lambda data: len(data) // 2, progressive=True)),
    Kind("cut grey.jpg", TRUNCATED, lambda p: jpeg(p, "L")[:-800]),
    Kind("cut cmyk.jpg", TRUNCATED, lambda p: jpeg(p, "CMYK")[:-800]),
    Kind("no EOI.jpg", KEPT, lambda p: jpeg(p)[:-2]),
    Kind("half an EOI.jpg", KEPT, lambda p: jpeg(p)[:-1]),
    Kind("garbage behind.jpg", KEPT, lambda p: jpeg(p) + bytes(range(256)) * 40),
    Kind("a film behind.jpg", KEPT, lambda p: jpeg(p) + b"\xff\xda" * 3000),  # as phones' moving photographs
    Kind("garbage before.jpg", UNREADABLE, lambda p: b"\r\n" + jpeg(p)),
    Kind("garbage between.jpg", KEPT, lambda p: by_hand.with_segments(jpeg(p), b"\0\0\0\0")),
    Kind("garbage between, cut.jpg", TRUNCATED, lambda p: by_hand.with_segments(jpeg(p), bytes(4))[:-900]),
    Kind("JFIF 9.jpg", KEPT, lambda p: patched(jpeg(p), 11, b"\x09")),
    Kind("JFIF 9, cut.jpg", TRUNCATED, lambda p: patched(jpeg(p), 11, b"\x09")[:-900]),
    Kind("fill bytes.jpg", KEPT, lambda p: by_hand.with_segments(jpeg(p), b"\xff" * 100)),
    Kind("comments.jpg", KEPT, lambda p: by_hand.with_segments(jpeg(p), *[by_hand.segment(0xFE, bytes(65000))] * 9)),
    Kind("damaged.jpg", UNREADABLE, _damaged_scan),
    Kind("a marker in the scan.jpg", UNREADABLE, _flipped),
    Kind("a thousand SOI.jpg", UNREADABLE, lambda p: SOI * 1000 + jpeg(p)[2:]),
    Kind("no Huffman tables.jpg", KEPT, lambda p: _without(jpeg(p), DHT)),
    Kind("no quantisation.jpg", UNREADABLE, lambda p: _without(jpeg(p), DQT)),
    Kind("no width.jpg", UNREADABLE, lambda p: by_hand.jpeg_of_size(jpeg(p), 0, 218)),
    Kind("no height.jpg", UNREADABLE, lambda p: by_hand.jpeg_of_size(jpeg(p), 178, 0)),  # DNL is read by nobody
    Kind("bomb.jpg", TOO_LARGE, lambda p: by_hand.jpeg_of_size(jpeg(p), 65000, 65000)),
    Kind("bomb progressive.jpg", TOO_LARGE, lambda p: by_hand.jpeg_of_size(progressive(p), 65000, 65000)),
    Kind("taller than its rows.jpg", TRUNCATED, lambda p: by_hand.jpeg_of_size(jpeg(p), 178, 2180)),
    Kind("thin.jpg", NO_FACE, lambda p: encoded(np.zeros((1, 20000, 3), np.uint8), "JPEG")),
    Kind("thumbnail.jpg", KEPT, _thumbnailed),
    Kind("two pictures.jpg", KEPT, lambda p: jpeg(p) + jpeg(255 - p)),
    Kind("stereo.mpo", KEPT, _mpo),
    *[Kind(f"orientation {value}.jpg", KEPT, _stored_as(value)) for value in range(10)],
    Kind("exif cut.jpg", KEPT, _with_exif(by_hand.orientation_tag(6), cut=14)),
    Kind("exif empty.jpg", KEPT, _with_exif(cut=0)),
    Kind("exif loops.jpg", KEPT, _with_exif((0x8769, 4, 1, struct.pack("<I", 8)), next_ifd=8)),
    Kind("exif far away.jpg", KEPT, _with_exif((0x0112, 3, 99, struct.pack("<I", 2**31)))),
    Kind("exif of text.jpg", KEPT, _with_exif((0x0112, 2, 4, b"6\0\0\0"))),
    Kind("exif of fractions.jpg", KEPT, _with_exif((0x0112, 5, 1, struct.pack("<I", 8)))),
    Kind("exif of no type.jpg", KEPT, _with_exif((0x0112, 99, 1, b"\6"))),
    Kind("exif endless.jpg", KEPT, _with_exif((0x0112, 3, 2**32 - 1, b"\6"))),
    Kind("icc.jpg", KEPT, lambda p: jpeg(p, icc_profile=srgb())),
    Kind("icc broken.jpg", KEPT, _icc(b"no profile")),
    Kind("icc in parts.jpg", KEPT, _icc(bytes(range(256)) * 2000, parts=9)),
]  # fmt: skip

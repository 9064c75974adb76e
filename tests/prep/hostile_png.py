"""Hostile PNG files."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from tests.prep import handmade as by_hand
from tests.prep.handmade import chunk, encoded, patched, png
from tests.prep.hostile_kind import (
    KEPT,
    NO_FACE,
    TOO_LARGE,
    TRUNCATED,
    UNREADABLE,
    Kind,
    as_file,
    cut,
    grey,
    just,
    larger,
    palette,
    srgb,
    two_frames,
    with_alpha,
)


def _rgb_png(p: np.ndarray, *before: bytes, after: bytes = b"", rows: list[bytes] | bytes | None = None) -> bytes:
    data = by_hand.lines(p) if rows is None else rows
    return png(data, p.shape[1], p.shape[0], 8, 2, *before, after=after)


def _idat(p: np.ndarray) -> bytes:
    return zlib.compress(b"".join(by_hand.lines(p)))


def _pieces(p: np.ndarray) -> bytes:
    """Image data in many chunks."""
    data = _idat(p)
    pieces = [data[i : i + 999] for i in range(0, len(data), 999)]
    return _rgb_png(p, *[chunk(b"IDAT", piece) for piece in pieces[:-1]], rows=pieces[-1])


def _damaged(data: bytes) -> bytes:
    return patched(data, data.index(b"IDAT") + 2000, bytes(9))


def _header_png(width: int, height: int, bits: int, colour: int, data: bytes) -> Callable[[np.ndarray], bytes]:
    return just(png(data, width, height, bits, colour))


def _deflated(rows: list[bytes], zeros: int) -> bytes:
    packer = zlib.compressobj(9)
    packed = packer.compress(b"".join(rows))
    return packed + b"".join(packer.compress(bytes(1 << 20)) for _ in range(zeros >> 20)) + packer.flush()


def _with_text(png_file: bytes, size: int) -> bytes:
    return png_file[:33] + chunk(b"zTXt", b"x\0\0" + by_hand.zeros_deflated(size)) + png_file[33:]


def _interlaced_alpha(p: np.ndarray, missing: int = 0) -> bytes:
    rgba = np.dstack([p, np.full(p.shape[:2], 255, np.uint8)])
    return by_hand.interlaced(encoded(rgba, "PNG"), rgba, missing)


PNGS = [
    Kind("plain.png", KEPT, as_file("PNG")),
    Kind("grey.png", KEPT, as_file("PNG", "L")),
    Kind("16 bits grey.png", KEPT, lambda p: png(by_hand.lines(grey(p).astype(np.uint16) * 257), 178, 218, 16, 0)),
    Kind("16 bits.png", KEPT, lambda p: png(by_hand.lines(p.astype(np.uint16) * 257), 178, 218, 16, 2)),
    Kind("16 bits alpha.png", KEPT, lambda p: png(
        by_hand.lines(np.dstack([p, np.full(p.shape[:2], 255)]).astype(np.uint16) * 257), 178, 218, 16, 6)),
    Kind("palette.png", KEPT, lambda p: encoded(palette(p), "PNG")),
    Kind("palette transparent.png", KEPT, lambda p: encoded(palette(p), "PNG", transparency=bytes([255] * 250))),
    Kind("grey alpha.png", KEPT, lambda p: with_alpha(p, "PNG", "LA")),
    Kind("alpha.png", KEPT, lambda p: with_alpha(p, "PNG", "RGBA")),
    Kind("one colour transparent.png", KEPT, lambda p: encoded(p, "PNG", transparency=(1, 2, 3))),
    Kind("1 bit.png", KEPT, lambda p: encoded(larger(p, 8), "PNG", "1")),
    Kind("4 bits.png", KEPT, lambda p: encoded(Image.fromarray(p).quantize(16), "PNG", bits=4)),
    Kind("interlaced.png", KEPT, lambda p: by_hand.interlaced(encoded(p, "PNG"), p)),
    Kind("interlaced palette.png", KEPT, lambda p: _interlaced_alpha(p)),
    Kind("interlaced cut.png", TRUNCATED, lambda p: by_hand.interlaced(encoded(p, "PNG"), p, missing=60)),
    Kind("interlaced alpha cut.png", TRUNCATED, lambda p: _interlaced_alpha(p, missing=60)),
    Kind("animated.png", KEPT, two_frames("PNG")),
    Kind("animated behind its still.png", KEPT, two_frames("PNG", default_image=True)),
    Kind("icc.png", KEPT, lambda p: encoded(p, "PNG", icc_profile=srgb())),
    Kind("icc broken.png", KEPT, lambda p: _rgb_png(p, chunk(b"iCCP", b"x\0\0broken"))),
    Kind("gamma.png", KEPT, lambda p: _rgb_png(p, chunk(b"gAMA", struct.pack(">I", 10)))),
    Kind("exif broken.png", KEPT, lambda p: _rgb_png(p, chunk(b"eXIf", b"broken"))),
    Kind("text bomb.png", KEPT, lambda p: _rgb_png(p, chunk(b"zTXt", b"x\0\0" + by_hand.zeros_deflated(1 << 26)))),
    Kind("text bomb alpha.png", KEPT, lambda p: _with_text(with_alpha(p, "PNG", "RGBA"), 1 << 26)),
    Kind("icc bomb.png", KEPT, lambda p: _rgb_png(p, chunk(b"iCCP", b"x\0\0" + by_hand.zeros_deflated(1 << 26)))),
    Kind("pieces of IDAT.png", KEPT, _pieces),
    Kind("wrong CRC of text.png", KEPT, lambda p: _rgb_png(p, chunk(b"tEXt", b"a\0b", crc=1))),
    Kind("wrong CRC of IHDR.png", UNREADABLE, lambda p: patched(encoded(p, "PNG"), 29, b"\0\0\0\0")),
    Kind("wrong CRC of IDAT.png", KEPT, lambda p: _rgb_png(p, rows=b"")[:33] + chunk(b"IDAT", _idat(p), 1)
         + chunk(b"IEND", b"")),
    Kind("damaged.png", UNREADABLE, lambda p: _damaged(encoded(p, "PNG"))),
    Kind("damaged alpha.png", UNREADABLE, lambda p: _damaged(with_alpha(p, "PNG", "RGBA"))),
    Kind("cut.png", TRUNCATED, cut("PNG", 0.5)),
    Kind("cut alpha.png", TRUNCATED, cut("PNG", 0.5, "RGBA")),
    Kind("cut palette.png", TRUNCATED, cut("PNG", 0.5, "P")),
    Kind("cut in IHDR.png", UNREADABLE, lambda p: encoded(p, "PNG")[:20]),
    Kind("no IEND.png", KEPT, lambda p: encoded(p, "PNG")[:-12]),
    Kind("half an IEND.png", KEPT, lambda p: encoded(p, "PNG")[:-9]),
    Kind("half an IEND alpha.png", KEPT, lambda p: with_alpha(p, "PNG", "RGBA")[:-9]),
    Kind("half an IDAT.png", KEPT, lambda p: encoded(p, "PNG")[:-12] + b"\0\0\x99\x99IDAThalf"),
    Kind("no IDAT.png", TRUNCATED, lambda p: encoded(p, "PNG")[:33] + chunk(b"IEND", b"")),
    Kind("missing rows.png", TRUNCATED, lambda p: _rgb_png(p, rows=by_hand.lines(p)[:109])),
    Kind("one row missing.png", TRUNCATED, lambda p: _rgb_png(p, rows=by_hand.lines(p)[:217])),
    Kind("all rows missing.png", TRUNCATED, lambda p: _rgb_png(p, rows=[])),
    Kind("missing rows alpha.png", TRUNCATED, lambda p: png(
        by_hand.lines(np.dstack([p, p[..., :1]]))[:109], 178, 218, 8, 6)),
    Kind("half a row missing.png", TRUNCATED, lambda p: _rgb_png(p, rows=zlib.compress(
        b"".join(by_hand.lines(p))[:-250]))),
    Kind("rows to spare.png", KEPT, lambda p: _rgb_png(p, rows=by_hand.lines(p) * 2)),
    Kind("a bomb behind the rows.png", KEPT, lambda p: _rgb_png(p, rows=_deflated(by_hand.lines(p), 1 << 26))),
    Kind("a bomb behind the rows alpha.png", KEPT, lambda p: png(_deflated(
        by_hand.lines(np.dstack([p, np.full(p.shape[:2], 255, np.uint8)])), 1 << 26), 178, 218, 8, 6)),
    Kind("behind IEND.png", KEPT, lambda p: encoded(p, "PNG") + bytes(5000)),
    Kind("no such filter.png", UNREADABLE, lambda p: _rgb_png(p, rows=by_hand.lines(p, b"\x09"))),
    Kind("no palette.png", UNREADABLE, lambda p: png(by_hand.lines(grey(p)), 178, 218, 8, 3)),
    Kind("no such bits.png", UNREADABLE, lambda p: png(by_hand.lines(grey(p)), 178, 218, 7, 0)),
    Kind("no width.png", UNREADABLE, _header_png(0, 218, 8, 2, zlib.compress(b"\0"))),
    Kind("1 pixel.png", NO_FACE, lambda p: encoded(p[:1, :1], "PNG")),
    Kind("thin.png", NO_FACE, lambda p: encoded(np.zeros((1, 20000, 3), np.uint8), "PNG")),
    Kind("tall.png", NO_FACE, lambda p: encoded(np.zeros((20000, 1, 3), np.uint8), "PNG")),
    Kind("bomb of 400 megapixels.png", TOO_LARGE,
         _header_png(20000, 20000, 1, 0, by_hand.zeros_deflated(20000 * 2501))),
    Kind("bomb.png", TOO_LARGE, _header_png(2**31 - 1, 2**31 - 1, 16, 6, b"")),
    Kind("below the limit, and empty.png", TRUNCATED, _header_png(9999, 9999, 16, 6, zlib.compress(bytes(99)))),
]  # fmt: skip

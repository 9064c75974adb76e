"""Photographs that break image tools, each with the outcome it must get. All are made of one portrait, or of nothing.

What can be read is kept, whatever its suffix says; what lacks rows is ``truncated``; what claims more pixels than
`MAX_PIXELS` is ``too_large``; what is too small or too thin for a face has ``no_face``; all else is ``unreadable``.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageCms

from facegan.faces.decode import decodes_heic
from tests.prep import handmade as by_hand
from tests.prep.handmade import APP0, DHT, DQT, SOI, SOS, chunk, encoded, patched, png

KEPT, NO_FACE, UNREADABLE, TRUNCATED, TOO_LARGE = "", "no_face", "unreadable", "truncated", "too_large"


class Kind(NamedTuple):
    """One hostile file: its name, the reason it must be rejected for (empty: it is kept), and its maker."""

    name: str
    reason: str
    make: Callable[[np.ndarray], bytes]


def as_file(kind: str, mode: str | None = None) -> Callable[[np.ndarray], bytes]:
    return lambda picture: encoded(picture, kind, mode)


def half(kind: str) -> Callable[[np.ndarray], bytes]:
    def make(picture: np.ndarray) -> bytes:
        data = encoded(picture, kind)
        return data[: len(data) // 2]

    return make


def just(data: bytes) -> Callable[[np.ndarray], bytes]:
    return lambda _: data


def jpeg(picture: np.ndarray, mode: str | None = None, **options: Any) -> bytes:
    return encoded(picture, "JPEG", mode, quality=92, **options)


def progressive(picture: np.ndarray) -> bytes:
    return jpeg(picture, progressive=True)


def two_frames(kind: str, **options: Any) -> Callable[[np.ndarray], bytes]:
    """The picture, and black behind it."""
    black = Image.new("RGB", (178, 218))
    return lambda picture: encoded(picture, kind, save_all=True, append_images=[black], **options)


def larger(picture: np.ndarray, times: int = 4) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((178 * times, 218 * times), Image.Resampling.BICUBIC))


def grey(p: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(p).convert("L"))


def palette(p: np.ndarray) -> Image.Image:
    return Image.fromarray(p).quantize(255)


def with_alpha(p: np.ndarray, kind: str, mode: str, **options: Any) -> bytes:
    """The picture with an opaque alpha, and transparent black in its corner."""
    image = Image.fromarray(p).convert(mode)
    image.putalpha(Image.new("L", image.size, 255))
    image.paste(0, (0, 0, 9, 9))
    return encoded(image, kind, **options)


# JPEG.


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


def _with_in_scan(patch: bytes) -> Callable[[np.ndarray], bytes]:
    def make(picture: np.ndarray) -> bytes:
        data = jpeg(picture)
        return patched(data, by_hand.in_scan(data, 0.5), patch)

    return make


def _of_12_bits(picture: np.ndarray) -> bytes:
    data = jpeg(picture)
    frame = next(start for marker, start, _ in by_hand.segments(data) if marker == by_hand.SOF)
    return patched(data, frame + 4, b"\x0c")


def _without(data: bytes, marker: int) -> bytes:
    """Without any segment of this kind."""
    for found, start, end in reversed(list(by_hand.segments(data))):
        data = data[:start] + data[end:] if found == marker else data
    return data


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
BROKEN_ICC = b"ICC_PROFILE\0\1\1no profile"
JPEGS = [
    Kind("plain.jpg", KEPT, jpeg),
    Kind("progressive.jpg", KEPT, progressive),
    Kind("grey.jpg", KEPT, lambda p: jpeg(p, "L")),
    Kind("cmyk.jpg", KEPT, lambda p: jpeg(p, "CMYK")),
    Kind("ycck.jpg", KEPT, by_hand.ycck),
    Kind("rgb not ycc.jpg", KEPT, lambda p: jpeg(p, keep_rgb=True)),
    Kind("restart markers.jpg", KEPT, lambda p: jpeg(p, restart_marker_rows=1)),
    Kind("12 bits.jpg", UNREADABLE, _of_12_bits),
    Kind("thousands of scans.jpg", UNREADABLE, lambda p: by_hand.of_many_scans(progressive(p), 3000)),
    Kind("cut behind SOI.jpg", UNREADABLE, just(SOI)),
    Kind("cut in APP0.jpg", UNREADABLE, _cut_jpeg(lambda data: by_hand.inside(data, APP0))),
    Kind("cut in SOS.jpg", UNREADABLE, _cut_jpeg(lambda data: by_hand.inside(data, SOS))),
    Kind("cut behind SOS.jpg", TRUNCATED, _cut_jpeg(lambda data: by_hand.in_scan(data, 0))),
    Kind("cut in the middle.jpg", TRUNCATED, _cut_jpeg(lambda data: by_hand.in_scan(data, 0.5))),
    Kind("cut progressive.jpg", TRUNCATED, _cut_jpeg(lambda data: len(data) // 2, progressive=True)),
    Kind("no EOI.jpg", KEPT, lambda p: jpeg(p)[:-2]),
    Kind("a film behind.jpg", KEPT, lambda p: jpeg(p) + b"\xff\xda" * 3000),  # as phones' moving photographs
    Kind("garbage between.jpg", KEPT, lambda p: by_hand.with_segments(jpeg(p), b"\0\0\0\0")),
    Kind("comments.jpg", KEPT, lambda p: by_hand.with_segments(jpeg(p), *[by_hand.segment(0xFE, bytes(65000))] * 9)),
    Kind("damaged.jpg", UNREADABLE, _with_in_scan(b"\xff\0" * 9)),
    Kind("a marker in the scan.jpg", UNREADABLE, _with_in_scan(b"\xff\xc0")),
    Kind("a thousand SOI.jpg", UNREADABLE, lambda p: SOI * 1000 + jpeg(p)[2:]),
    Kind("no Huffman tables.jpg", KEPT, lambda p: _without(jpeg(p), DHT)),
    Kind("no quantisation.jpg", UNREADABLE, lambda p: _without(jpeg(p), DQT)),
    Kind("no width.jpg", UNREADABLE, lambda p: by_hand.jpeg_of_size(jpeg(p), 0, 218)),
    Kind("bomb.jpg", TOO_LARGE, lambda p: by_hand.jpeg_of_size(jpeg(p), 65000, 65000)),
    Kind("taller than its rows.jpg", TRUNCATED, lambda p: by_hand.jpeg_of_size(jpeg(p), 178, 2180)),
    Kind("thin.jpg", NO_FACE, lambda p: encoded(np.zeros((1, 20000, 3), np.uint8), "JPEG")),
    Kind("stereo.mpo", KEPT, two_frames("MPO")),
    *[Kind(f"orientation {value}.jpg", KEPT, _stored_as(value)) for value in range(10)],
    Kind("exif empty.jpg", KEPT, _with_exif(cut=0)),
    Kind("exif loops.jpg", KEPT, _with_exif((0x8769, 4, 1, struct.pack("<I", 8)), next_ifd=8)),
    Kind("exif far away.jpg", KEPT, _with_exif((0x0112, 3, 99, struct.pack("<I", 2**31)))),
    Kind("icc.jpg", KEPT, lambda p: jpeg(p, icc_profile=SRGB)),
    Kind("icc broken.jpg", KEPT, lambda p: by_hand.with_segments(jpeg(p), by_hand.segment(0xE2, BROKEN_ICC))),
]  # fmt: skip


# PNG.


def _rgb_png(p: np.ndarray, *before: bytes, after: bytes = b"", rows: list[bytes] | bytes | None = None) -> bytes:
    data = by_hand.lines(p) if rows is None else rows
    return png(data, p.shape[1], p.shape[0], 8, 2, *before, after=after)


def _header_png(width: int, height: int, bits: int, colour: int, data: bytes) -> Callable[[np.ndarray], bytes]:
    return just(png(data, width, height, bits, colour))


def _deflated(rows: list[bytes], zeros: int) -> bytes:
    packer = zlib.compressobj(1)
    packed = packer.compress(b"".join(rows))
    return packed + b"".join(packer.compress(bytes(1 << 20)) for _ in range(zeros >> 20)) + packer.flush()


PNGS = [
    Kind("plain.png", KEPT, as_file("PNG")),
    Kind("16 bits.png", KEPT, lambda p: png(by_hand.lines(p.astype(np.uint16) * 257), 178, 218, 16, 2)),
    Kind("16 bits alpha.png", KEPT, lambda p: png(
        by_hand.lines(np.dstack([p, np.full(p.shape[:2], 255)]).astype(np.uint16) * 257), 178, 218, 16, 6)),
    Kind("palette.png", KEPT, lambda p: encoded(palette(p), "PNG")),
    Kind("alpha.png", KEPT, lambda p: with_alpha(p, "PNG", "RGBA")),
    Kind("1 bit.png", KEPT, lambda p: encoded(larger(p, 8), "PNG", "1")),
    Kind("interlaced.png", KEPT, lambda p: by_hand.interlaced(encoded(p, "PNG"), p)),
    Kind("interlaced cut.png", TRUNCATED, lambda p: by_hand.interlaced(encoded(p, "PNG"), p, missing=60)),
    Kind("animated.png", KEPT, two_frames("PNG")),
    Kind("icc broken.png", KEPT, lambda p: _rgb_png(p, chunk(b"iCCP", b"x\0\0broken"))),
    Kind("exif broken.png", KEPT, lambda p: _rgb_png(p, chunk(b"eXIf", b"broken"))),
    Kind("text bomb.png", KEPT, lambda p: _rgb_png(p, chunk(b"zTXt", b"x\0\0" + by_hand.zeros_deflated(1 << 26)))),
    Kind("wrong CRC of IHDR.png", UNREADABLE, lambda p: patched(encoded(p, "PNG"), 29, b"\0\0\0\0")),
    Kind("cut.png", TRUNCATED, half("PNG")),
    Kind("cut in IHDR.png", UNREADABLE, lambda p: encoded(p, "PNG")[:20]),
    Kind("no IEND.png", KEPT, lambda p: encoded(p, "PNG")[:-12]),
    Kind("no IDAT.png", TRUNCATED, lambda p: encoded(p, "PNG")[:33] + chunk(b"IEND", b"")),
    Kind("missing rows.png", TRUNCATED, lambda p: _rgb_png(p, rows=by_hand.lines(p)[:109])),
    Kind("half a row missing.png", TRUNCATED, lambda p: _rgb_png(p, rows=zlib.compress(
        b"".join(by_hand.lines(p))[:-250]))),
    Kind("a bomb behind the rows alpha.png", KEPT, lambda p: png(_deflated(
        by_hand.lines(np.dstack([p, np.full(p.shape[:2], 255, np.uint8)])), 1 << 26), 178, 218, 8, 6)),
    Kind("no such filter.png", UNREADABLE, lambda p: _rgb_png(p, rows=by_hand.lines(p, b"\x09"))),
    Kind("no width.png", UNREADABLE, _header_png(0, 218, 8, 2, zlib.compress(b"\0"))),
    Kind("1 pixel.png", NO_FACE, lambda p: encoded(p[:1, :1], "PNG")),
    Kind("thin.png", NO_FACE, lambda p: encoded(np.zeros((1, 20000, 3), np.uint8), "PNG")),
    Kind("bomb of 400 megapixels.png", TOO_LARGE,
         _header_png(20000, 20000, 1, 0, by_hand.zeros_deflated(20000 * 2501))),
    Kind("bomb.png", TOO_LARGE, _header_png(2**31 - 1, 2**31 - 1, 16, 6, b"")),
    Kind("below the limit, and empty.png", TRUNCATED, _header_png(9999, 9999, 16, 6, zlib.compress(bytes(99)))),
]  # fmt: skip


# GIF, WebP, AVIF, HEIC, BMP, TIFF, PPM, and files that are no pictures.


def _gif_of_size(data: bytes, width: int, height: int, screen: bool = True) -> bytes:
    """A GIF whose first frame (and screen) claims another size: GIF89a, 18 and 20."""
    size = struct.pack("<HH", width, height)
    frame = data.index(b"\x2c\0\0\0\0\xb2\0") + 5
    return patched(patched(data, 6, size) if screen else data, frame, size)


def heic(picture: np.ndarray) -> bytes:
    assert decodes_heic()  # with Pillow
    return encoded(picture, "HEIF", quality=90)


OTHERS = [
    Kind("plain.gif", KEPT, lambda p: encoded(palette(p), "GIF")),
    Kind("animated.gif", KEPT, two_frames("GIF")),
    Kind("cut.gif", TRUNCATED, lambda p: encoded(palette(p), "GIF")[:9000]),
    Kind("no end.gif", KEPT, lambda p: encoded(palette(p), "GIF")[:-1]),
    Kind("bomb.gif", TOO_LARGE, lambda p: _gif_of_size(encoded(palette(p), "GIF"), 65000, 65000)),
    Kind("bomb frame.gif", TOO_LARGE, lambda p: _gif_of_size(encoded(palette(p), "GIF"), 65000, 65000, screen=False)),
    Kind("plain.webp", KEPT, as_file("WEBP")),
    Kind("alpha.webp", KEPT, lambda p: with_alpha(p, "WEBP", "RGBA")),
    Kind("animated.webp", KEPT, two_frames("WEBP")),
    Kind("cut.webp", TRUNCATED, half("WEBP")),
    Kind("bomb.webp", TOO_LARGE, just(by_hand.webp_header(16384, 16384))),
    Kind("plain.avif", KEPT, as_file("AVIF")),
    Kind("cut.avif", TRUNCATED, half("AVIF")),
    Kind("plain.heic", KEPT, heic),
    Kind("cut.heic", TRUNCATED, lambda p: heic(p)[:3000]),
    Kind("brand alone.heic", UNREADABLE, just(by_hand.heic())),
    Kind("plain.bmp", KEPT, as_file("BMP")),
    Kind("1 bit.bmp", KEPT, lambda p: encoded(larger(p, 8), "BMP", "1")),
    Kind("cut.bmp", TRUNCATED, half("BMP")),
    Kind("bomb.bmp", TOO_LARGE, lambda p: patched(encoded(p, "BMP"), 18, struct.pack("<ii", 2**30, 2**30))),
    Kind("plain.tif", KEPT, as_file("TIFF")),
    Kind("fax.tif", KEPT, lambda p: encoded(larger(p, 8), "TIFF", "1", compression="group4")),
    Kind("cmyk.tif", KEPT, as_file("TIFF", "CMYK")),
    Kind("16 bits.tif", KEPT, lambda p: encoded(Image.fromarray(grey(p).astype(np.uint16) * 257), "TIFF")),
    Kind("cut.tif", TRUNCATED, half("TIFF")),
    Kind("text.ppm", KEPT, lambda p: b"P3 178 218 255\n" + " ".join(map(str, p.ravel())).encode()),
    Kind("floats.pnm", UNREADABLE, lambda p: b"Pf\n178 218\n-1.0\n" + grey(p).astype("<f4").tobytes()),
    Kind("cut.ppm", TRUNCATED, half("PPM")),
    Kind("empty.jpg", UNREADABLE, just(b"")),
    Kind("jpeg 2000.jpg", UNREADABLE, lambda p: encoded(p, "JPEG2000")),
    Kind("a png.jpg", KEPT, as_file("PNG")),
    Kind("a webp.jpg", KEPT, as_file("WEBP")),
    Kind("a jpeg.heic", KEPT, jpeg),
]  # fmt: skip

KINDS = [*JPEGS, *PNGS, *OTHERS]

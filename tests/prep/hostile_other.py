"""Hostile GIF, WebP, AVIF, HEIC, BMP, TIFF and PPM files, and files that are no pictures."""

from __future__ import annotations

import struct

import numpy as np
from PIL import Image

from tests.prep import handmade as by_hand
from tests.prep.handmade import encoded, patched
from tests.prep.hostile_kind import (
    KEPT,
    TOO_LARGE,
    TRUNCATED,
    UNREADABLE,
    Kind,
    as_file,
    cut,
    grey,
    jpeg,
    just,
    larger,
    palette,
    two_frames,
    with_alpha,
)


def _gif_of_size(data: bytes, width: int, height: int, screen: bool = True) -> bytes:
    """A GIF whose first frame (and screen) claims another size: GIF89a, 18 and 20."""
    size = struct.pack("<HH", width, height)
    frame = data.index(b"\x2c\0\0\0\0\xb2\0") + 5
    return patched(patched(data, 6, size) if screen else data, frame, size)


def _planar(p: np.ndarray) -> bytes:
    planes = [np.ascontiguousarray(p[..., i]).tobytes() for i in range(3)]
    return by_hand.tiff(178, 218, planes, bits=(8, 8, 8), photometric=2, samples=3, planar=2, rows=218)


OTHERS = [
    Kind("plain.gif", KEPT, lambda p: encoded(palette(p), "GIF")),
    Kind("animated.gif", KEPT, two_frames("GIF")),
    Kind("transparent.gif", KEPT, lambda p: encoded(palette(p), "GIF", transparency=254)),
    Kind("cut.gif", TRUNCATED, lambda p: encoded(palette(p), "GIF")[:9000]),
    Kind("no end.gif", KEPT, lambda p: encoded(palette(p), "GIF")[:-1]),
    Kind("bomb.gif", TOO_LARGE, lambda p: _gif_of_size(encoded(palette(p), "GIF"), 65000, 65000)),
    Kind("bomb frame.gif", TOO_LARGE, lambda p: _gif_of_size(encoded(palette(p), "GIF"), 65000, 65000, screen=False)),
    Kind("no width.gif", UNREADABLE, lambda p: _gif_of_size(encoded(palette(p), "GIF"), 0, 218)),
    Kind("plain.webp", KEPT, as_file("WEBP")),
    Kind("lossless.webp", KEPT, as_file("WEBP", lossless=True)),
    Kind("alpha.webp", KEPT, lambda p: with_alpha(p, "WEBP", "RGBA")),
    Kind("animated.webp", KEPT, two_frames("WEBP")),
    Kind("exif loops.webp", KEPT, as_file("WEBP", exif=by_hand.exif((0x8769, 4, 1, b"\x08"), next_ifd=8))),
    Kind("cut.webp", TRUNCATED, cut("WEBP", 0.5)),
    Kind("cut lossless.webp", TRUNCATED, cut("WEBP", 0.5, lossless=True)),
    Kind("bomb.webp", TOO_LARGE, just(by_hand.webp_header(16384, 16384))),
    Kind("bomb of a canvas.webp", TOO_LARGE, just(by_hand.webp_header(2**24, 255))),
    Kind("plain.avif", KEPT, as_file("AVIF")),
    Kind("cut.avif", TRUNCATED, cut("AVIF", 0.5)),
    Kind("phone.heic", UNREADABLE, just(by_hand.heic())),
    Kind("plain.bmp", KEPT, as_file("BMP")),
    Kind("1 bit.bmp", KEPT, lambda p: encoded(larger(p, 8), "BMP", "1")),
    Kind("palette.bmp", KEPT, lambda p: encoded(palette(p), "BMP")),
    Kind("alpha.bmp", KEPT, as_file("BMP", "RGBA")),
    Kind("from the top.bmp", KEPT, lambda p: by_hand.bmp_of_size(encoded(p[::-1], "BMP"), 178, -218)),
    Kind("cut.bmp", TRUNCATED, cut("BMP", 0.5)),
    Kind("bomb.bmp", TOO_LARGE, lambda p: by_hand.bmp_of_size(encoded(p, "BMP"), 2**30, 2**30)),
    Kind("no width.bmp", UNREADABLE, lambda p: by_hand.bmp_of_size(encoded(p, "BMP"), 0, 218)),
    Kind("plain.tif", KEPT, as_file("TIFF")),
    Kind("lzw.tif", KEPT, as_file("TIFF", compression="tiff_lzw")),
    Kind("deflate.tif", KEPT, as_file("TIFF", compression="tiff_adobe_deflate")),
    Kind("jpeg inside.tif", KEPT, as_file("TIFF", compression="jpeg")),
    Kind("fax.tif", KEPT, lambda p: encoded(larger(p, 8), "TIFF", "1", compression="group4")),
    Kind("cmyk.tif", KEPT, as_file("TIFF", "CMYK")),
    Kind("palette.tif", KEPT, lambda p: encoded(palette(p), "TIFF")),
    Kind("16 bits.tif", KEPT, lambda p: encoded(Image.fromarray(grey(p).astype(np.uint16) * 257), "TIFF")),
    Kind("12 bits.tif", KEPT, lambda p: by_hand.tiff(178, 218, [by_hand.packed_12_bits(grey(p))], bits=12, rows=218)),
    Kind("tiles.tif", KEPT, lambda p: by_hand.tiff(178, 218, by_hand.tiles(grey(p), 64), tile=64)),
    Kind("planes.tif", KEPT, lambda p: _planar(p)),
    Kind("pages.tif", KEPT, two_frames("TIFF")),
    Kind("floats.tif", UNREADABLE, lambda p: by_hand.tiff(
        178, 218, [grey(p).astype("<f4").tobytes()], bits=32, format=3)),
    Kind("pages in a circle.tif", KEPT, lambda p: by_hand.tiff(178, 218, [grey(p).tobytes()], next_ifd=8, rows=218)),
    Kind("cut.tif", TRUNCATED, cut("TIFF", 0.5)),
    Kind("cut lzw.tif", TRUNCATED, cut("TIFF", 0.5, compression="tiff_lzw")),
    Kind("missing strip.tif", TRUNCATED, lambda p: by_hand.tiff(178, 218, [grey(p)[:100].tobytes()], rows=100)),
    Kind("bomb.tif", TOO_LARGE, just(by_hand.tiff(2**31, 2**31, [bytes(100)]))),
    Kind("no width.tif", UNREADABLE, just(by_hand.tiff(0, 218, [bytes(100)]))),
    Kind("a million samples.tif", UNREADABLE, just(by_hand.tiff(178, 218, [bytes(100)], samples=65535))),
    Kind("plain.ppm", KEPT, as_file("PPM")),
    Kind("text.ppm", KEPT, lambda p: b"P3 178 218 255\n" + " ".join(map(str, p.ravel())).encode()),
    Kind("16 bits.ppm", KEPT, lambda p: b"P6 178 218 65535\n" + (p.astype(">u2") * 257).astype(">u2").tobytes()),
    Kind("bits.pbm", KEPT, lambda p: encoded(larger(p, 8), "PPM", "1")),
    Kind("floats.pnm", UNREADABLE, lambda p: b"Pf\n178 218\n-1.0\n" + grey(p).astype("<f4").tobytes()),
    Kind("cut.ppm", TRUNCATED, cut("PPM", 0.5)),
    Kind("negative.ppm", UNREADABLE, just(b"P6 -178 218 255\n" + bytes(1000))),
    Kind("bomb.ppm", TOO_LARGE, just(b"P6 99999 99999 255\n" + bytes(1000))),
    Kind("empty.jpg", UNREADABLE, just(b"")),
    Kind("1 byte.png", UNREADABLE, just(b"\x89")),
    Kind("zeros.jpg", UNREADABLE, just(bytes(5000))),
    Kind("text.jpg", UNREADABLE, just(b"Dear Sir or Madam,\n")),
    Kind("a page.jpg", UNREADABLE, just(b"<!DOCTYPE html><title>404</title>")),
    Kind("vector.png", UNREADABLE, just(b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')),
    Kind("postscript.jpg", UNREADABLE, just(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n%%EOF\n")),
    Kind("icon.png", UNREADABLE, lambda p: encoded(p, "ICO")),
    Kind("jpeg 2000.jpg", UNREADABLE, lambda p: encoded(p, "JPEG2000")),
    Kind("a png.jpg", KEPT, as_file("PNG")),
    Kind("a webp.jpg", KEPT, as_file("WEBP")),
    Kind("a gif.jpg", KEPT, lambda p: encoded(palette(p), "GIF")),
    Kind("a jpeg.png", KEPT, jpeg),
    Kind("a jpeg.heic", KEPT, jpeg),
    Kind("a bmp.tiff", KEPT, as_file("BMP")),
    Kind("a tiff.jpeg", KEPT, as_file("TIFF")),
]  # fmt: skip

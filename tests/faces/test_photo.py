"""Decoding: every kind of file gives upright RGB, or the reason why not."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from facegan.faces.decode import Photo, Rejected

RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 200, 30), (30, 30, 220), (255, 255, 255)


def quarters(width: int = 64, height: int = 48) -> np.ndarray:
    """Four coloured quarters: red and green above, blue and white below."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2], picture[: height // 2, width // 2 :] = RED, GREEN
    picture[height // 2 :, : width // 2], picture[height // 2 :, width // 2 :] = BLUE, WHITE
    return picture


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def reason(data: bytes) -> str:
    with pytest.raises(Rejected) as rejected:
        Photo(data).pixels()
    return rejected.value.reason


def near(rgb: np.ndarray, expected: np.ndarray, tolerance: float = 6) -> bool:
    return rgb.shape == expected.shape and float(np.abs(rgb.astype(int) - expected).mean()) < tolerance


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF"])
def test_every_common_format_gives_the_same_picture(kind: str) -> None:
    photo = Photo(encoded(Image.fromarray(quarters()), kind))
    assert (photo.width, photo.height) == (64, 48)
    assert photo.pixels().dtype == np.uint8
    assert near(photo.pixels(), quarters())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation_is_undone(orientation: int, kind: str) -> None:
    # What a camera stores for each value (Exif 2.3, tag 0x0112), made by Pillow's own operations.
    store = {
        1: lambda i: i,
        2: lambda i: i.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda i: i.transpose(Image.Transpose.ROTATE_180),
        4: lambda i: i.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda i: i.transpose(Image.Transpose.TRANSPOSE),
        6: lambda i: i.transpose(Image.Transpose.ROTATE_90),
        7: lambda i: i.transpose(Image.Transpose.TRANSVERSE),
        8: lambda i: i.transpose(Image.Transpose.ROTATE_270),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = Photo(encoded(store[orientation](Image.fromarray(quarters())), kind, exif=exif))
    assert (photo.width, photo.height) == (64, 48)
    assert near(photo.pixels(), quarters())


def test_grey_palette_and_cmyk_become_rgb() -> None:
    image = Image.fromarray(quarters())
    grey = np.asarray(image.convert("L"))[..., None].repeat(3, axis=2)
    assert near(Photo(encoded(image.convert("L"), "JPEG")).pixels(), grey)
    assert near(Photo(encoded(image.convert("L"), "PNG")).pixels(), grey)
    assert near(Photo(encoded(image.convert("P"), "PNG")).pixels(), quarters(), 20)
    assert near(Photo(encoded(image.convert("CMYK"), "JPEG")).pixels(), quarters(), 12)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_alpha_is_laid_over_white(kind: str) -> None:
    rgba = np.dstack([quarters(), np.zeros((48, 64), np.uint8)])
    rgba[:, :32, 3] = 255
    expected = quarters()
    expected[:, 32:] = 255
    assert near(Photo(encoded(Image.fromarray(rgba), kind)).pixels(), expected)


def png_16(values: np.ndarray) -> bytes:
    """A 16-bit PNG by hand (W3C PNG, 11.2): grey (h, w) or RGB (h, w, 3)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if values.ndim == 3 else 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_16_bits_are_divided_by_257() -> None:
    grey = np.array([[0, 128, 129, 257, 65535, 32768]], np.uint16)
    assert Photo(png_16(grey)).pixels()[0, :, 0].tolist() == [0, 0, 1, 1, 255, 128]
    rgb = np.array([[[65535, 257, 0], [129, 128, 32768]]], np.uint16)
    assert Photo(png_16(rgb)).pixels()[0].tolist() == [[255, 1, 0], [1, 0, 128]]


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.fromarray(quarters()), Image.new("RGB", (64, 48), (0, 0, 0))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert near(Photo(data).pixels(), quarters())


def noisy_jpeg(progressive: bool = False) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    return encoded(Image.fromarray(noise), "JPEG", quality=90, progressive=progressive)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_last_rows_is_truncated(progressive: bool) -> None:
    data = noisy_jpeg(progressive)
    assert reason(data[: len(data) * 2 // 3]) == "truncated"
    assert reason(data[:-40]) == "truncated"


def test_a_jpeg_without_its_end_marker_is_kept() -> None:
    data = noisy_jpeg()
    assert np.array_equal(Photo(data[:-2]).pixels(), Photo(data).pixels())


def test_stray_bytes_in_a_jpeg_do_no_harm() -> None:
    data = noisy_jpeg()
    assert np.array_equal(Photo(data + b"trailing").pixels(), Photo(data).pixels())


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_other_formats_cut_short_are_not_kept(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    assert reason(data[: len(data) // 2]) in ("truncated", "unreadable")


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"no picture at all", b"\0" * 5000])
def test_what_is_no_picture_is_unreadable(data: bytes) -> None:
    assert reason(data) == "unreadable"


def test_a_bomb_is_refused_before_a_pixel_is_decoded() -> None:
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    with pytest.raises(Rejected, match="too_large"):
        Photo(b"\x89PNG\r\n\x1a\n" + chunk)


@pytest.mark.parametrize("shrink", [2, 4, 8])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_shrunk_pixel_stands_for_whole_blocks(shrink: int, kind: str) -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 250).astype(np.uint8)[None, :, None], (131, 250, 3))
    photo = Photo(encoded(Image.fromarray(np.ascontiguousarray(ramp)), kind))
    small = photo.pixels(shrink)
    assert small.shape == (-(-131 // shrink), -(-250 // shrink), 3)
    whole = 250 // shrink
    expected = ramp[0, : whole * shrink, 0].astype(float).reshape(whole, shrink).mean(axis=1)
    assert np.abs(small[3, :whole, 0] - expected).max() < 2.5


XMP_TURNED = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>"""


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_xmp_does_not_turn(kind: str) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera that says nothing of orientation"
    photo = Photo(encoded(Image.fromarray(quarters()), kind, exif=exif, xmp=XMP_TURNED))
    assert (photo.width, photo.height) == (64, 48)


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
@pytest.mark.parametrize("shrink", [2, 4, 8])
def test_a_turned_and_shrunk_photo_is_not_shifted(orientation: int, shrink: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    ramp = np.linspace(0, 255, 203)[None, :, None] + np.zeros((101, 1, 3))
    photo = Photo(encoded(Image.fromarray(ramp.astype(np.uint8)), "JPEG", quality=100, exif=exif))
    whole, small = photo.pixels(1).astype(float), photo.pixels(shrink)
    height, width = (side // shrink * shrink for side in whole.shape[:2])
    blocks = whole[:height, :width].reshape(height // shrink, shrink, width // shrink, shrink, 3).mean(axis=(1, 3))
    assert np.abs(small[: height // shrink, : width // shrink] - blocks).max() < 2


def test_transparency_behind_a_long_chunk_is_seen() -> None:
    image = Image.new("L", (20, 20), 0)
    data = encoded(image, "PNG", transparency=0, icc_profile=np.random.default_rng(0).bytes(9000))
    assert Photo(data).pixels().min() == 255


@pytest.mark.parametrize("length", range(8, 60))
def test_a_png_cut_within_its_header_is_not_kept(length: int) -> None:
    assert reason(encoded(Image.fromarray(quarters()), "PNG")[:length]) in ("unreadable", "truncated")


def test_postscript_is_never_run() -> None:
    assert (
        reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n") == "unreadable"
    )


def test_jpeg_pixels_are_those_of_libjpeg_turbo() -> None:
    data = noisy_jpeg()
    assert np.array_equal(Photo(data).pixels(), simplejpeg.decode_jpeg(data, "RGB"))


@given(st.binary(max_size=300), st.sampled_from(["JPEG", "PNG", "WEBP", "GIF"]), st.integers(0, 600))
def test_random_damage_gives_pixels_or_a_reason(noise: bytes, kind: str, at: int) -> None:
    data = encoded(Image.fromarray(quarters(16, 16)), kind)
    damaged = data[:at] + noise + data[at + len(noise) :]
    try:
        outcome = str(Photo(damaged).pixels().dtype)
    except Rejected as rejected:
        outcome = rejected.reason
    assert outcome in ("uint8", "unreadable", "truncated", "too_large")

"""Decoding: every kind of file gives upright RGB. Damaged and hostile files are in tests/prep/hostile.py."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from facegan.faces import decode
from facegan.faces.decode import Photo, Rejected, decodes_heic

RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 200, 30), (30, 30, 220), (255, 255, 255)


def quarters(width: int = 64, height: int = 48) -> np.ndarray:
    """Four coloured quarters: red and green above, blue and white below."""
    image = np.empty((height, width, 3), np.uint8)
    image[: height // 2, : width // 2], image[: height // 2, width // 2 :] = RED, GREEN
    image[height // 2 :, : width // 2], image[height // 2 :, width // 2 :] = BLUE, WHITE
    return image


def encoded(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **options)
    return file.getvalue()


def noise(kind: str, **options: object) -> bytes:
    return encoded(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8), kind, **options)


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def reason(data: bytes) -> str:
    with pytest.raises(Rejected) as rejected:
        Photo(data).pixels()
    return rejected.value.reason


def near(rgb: np.ndarray, expected: np.ndarray, tolerance: float = 6) -> bool:
    return rgb.shape == expected.shape and float(np.abs(rgb.astype(int) - expected).mean()) < tolerance


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF"])
def test_common_formats_give_the_same_pixels(kind: str) -> None:
    animated = {"save_all": True, "append_images": [Image.new("RGB", (64, 48))]} if kind == "GIF" else {}
    photo = Photo(encoded(quarters(), kind, **animated))  # the first frame
    assert (photo.width, photo.height) == (64, 48)
    assert photo.pixels().dtype == np.uint8
    assert near(photo.pixels(), quarters())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation_is_undone(orientation: int, kind: str) -> None:
    # What a camera stores for orientation 1 … 8 (Exif 2.3, tag 0x0112), made by Pillow's own operations.
    flips = Image.Transpose
    operation = (None, flips.FLIP_LEFT_RIGHT, flips.ROTATE_180, flips.FLIP_TOP_BOTTOM, flips.TRANSPOSE,
                 flips.ROTATE_90, flips.TRANSVERSE, flips.ROTATE_270)[orientation - 1]  # fmt: skip
    stored = Image.fromarray(quarters())
    stored = stored if operation is None else stored.transpose(operation)
    photo = Photo(encoded(stored, kind, exif=exif(orientation)))
    assert (photo.width, photo.height) == (64, 48)
    assert near(photo.pixels(), quarters())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_is_upright(orientation: int) -> None:
    """Encoders and decoders of HEIC turn EXIF's orientation into rotations of the image itself."""
    assert decodes_heic()  # with Pillow
    before = Image.open(io.BytesIO(encoded(quarters(), "JPEG", exif=exif(orientation))))
    photo = Photo(encoded(before, "HEIF", quality=90, exif=exif(orientation).tobytes()))
    assert near(photo.pixels(), np.asarray(ImageOps.exif_transpose(before)))


def test_heic_without_decoder_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decodes_heic()
    data = encoded(quarters(), "HEIF")
    monkeypatch.setattr(decode, "decodes_heic", lambda: False)
    with pytest.raises(Rejected, match="unreadable") as caught:
        Photo(data)
    assert caught.value.no_decoder


def test_grey_palette_and_cmyk_become_rgb() -> None:
    image = Image.fromarray(quarters())
    grey = np.asarray(image.convert("L"))[..., None].repeat(3, axis=2)
    for mode, kind, expected, tolerance in (
        ("L", "JPEG", grey, 6),
        ("L", "PNG", grey, 6),
        ("P", "PNG", quarters(), 20),
        ("CMYK", "JPEG", quarters(), 12),
    ):
        assert near(Photo(encoded(image.convert(mode), kind)).pixels(), expected, tolerance)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_alpha_is_composited_over_white(kind: str) -> None:
    rgba = np.dstack([quarters(), np.zeros((48, 64), np.uint8)])
    rgba[:, :32, 3] = 255
    expected = quarters()
    expected[:, 32:] = 255
    assert near(Photo(encoded(rgba, kind)).pixels(), expected)
    profile = np.random.default_rng(0).bytes(9000)  # a long chunk before tRNS
    assert Photo(encoded(Image.new("L", (20, 20), 0), "PNG", transparency=0, icc_profile=profile)).pixels().min() == 255


def test_16_bits_are_divided_by_257() -> None:
    for values, expected in [([[0, 128, 129]], [0, 0, 1]), ([[257, 65535, 32768]], [1, 255, 128])]:
        grey = np.array(values, np.uint16)
        assert Photo(cv2.imencode(".png", grey)[1].tobytes()).pixels()[0, :, 0].tolist() == expected
        rgb = Photo(cv2.imencode(".png", grey[..., None].repeat(3, axis=2))[1].tobytes()).pixels()
        assert rgb[0].tolist() == [[value] * 3 for value in expected]


def test_harmless_damage_keeps_a_jpeg() -> None:
    data = noise("JPEG", quality=90)
    expected = simplejpeg.decode_jpeg(data, "RGB")
    for jpeg in (data, data[:-2], data + b"trailing"):  # complete, without its end marker, with stray bytes
        assert np.array_equal(Photo(jpeg).pixels(), expected)


@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
@pytest.mark.parametrize("shrink", [2, 4, 8])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_shrunk_pixels_cover_whole_blocks(orientation: int, shrink: int, kind: str) -> None:
    ramp = (np.linspace(0, 255, 203)[None, :, None] + np.zeros((101, 1, 3))).astype(np.uint8)
    photo = Photo(encoded(ramp, kind, quality=100, exif=exif(orientation)))
    whole, small = photo.pixels(1).astype(float), photo.pixels(shrink)
    assert small.shape == (-(-photo.height // shrink), -(-photo.width // shrink), 3)
    height, width = (side // shrink * shrink for side in whole.shape[:2])
    blocks = whole[:height, :width].reshape(height // shrink, shrink, width // shrink, shrink, 3).mean(axis=(1, 3))
    assert np.abs(small[: height // shrink, : width // shrink] - blocks).max() < 2


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_xmp_orientation_is_ignored(kind: str) -> None:
    xmp = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
        <rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>"""
    block = Image.Exif()
    block[0x010F] = "a camera without an orientation"
    photo = Photo(encoded(quarters(), kind, exif=block, xmp=xmp))
    assert (photo.width, photo.height) == (64, 48)


@given(st.binary(max_size=300), st.sampled_from(["JPEG", "PNG", "WEBP", "GIF"]), st.integers(0, 600))
def test_random_damage_gives_pixels_or_a_reason(damage: bytes, kind: str, at: int) -> None:
    data = encoded(quarters(16, 16), kind)
    try:
        outcome = str(Photo(data[:at] + damage + data[at + len(damage) :]).pixels().dtype)
    except Rejected as rejected:
        outcome = rejected.reason
    assert outcome in ("uint8", "unreadable", "truncated", "too_large")

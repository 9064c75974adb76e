"""A sample's image: encoders against Pillow and simplejpeg; PNGs copied from tars against OpenCV's decoder."""

from __future__ import annotations

import hashlib
import io
import struct

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facegan.shards.images import StoredPNGs, decode_image, decode_into, encode_image

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)


def decoded(data: bytes) -> np.ndarray:
    image = decode_image(data)
    assert image is not None
    return image


def test_two_formats_are_lossless_and_jpeg_is_444() -> None:
    for image_format in ("png", "webp"):
        assert np.array_equal(decoded(encode_image(PICTURE, image_format)), PICTURE)
    data = encode_image(PICTURE, "jpg")
    assert simplejpeg.decode_jpeg_header(data)[3] == "444"
    ours = np.empty_like(PICTURE)
    assert decode_into(memoryview(data), ours)
    assert np.array_equal(ours, decoded(data))  # by OpenCV
    assert np.abs(ours.astype(int) - PICTURE).mean() < 6


@pytest.mark.parametrize(("image_format", "mode"), [("png", "L"), ("jpg", "L"), ("webp", "RGB")])
def test_grey_files_have_one_channel_if_possible(image_format: str, mode: str) -> None:
    grey = PICTURE[..., :1]
    data = encode_image(grey, image_format)
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == mode
        theirs = np.atleast_3d(np.asarray(image))[..., :1]
    assert np.abs(theirs.astype(int) - grey).mean() < (6 if image_format == "jpg" else 1e-9)
    ours = np.zeros_like(grey)
    assert decode_into(memoryview(data), ours)
    assert np.array_equal(ours, theirs)
    assert np.array_equal(decoded(data), np.repeat(theirs, 3, axis=2))


def test_only_grey_images_are_decoded_as_grey() -> None:
    out = np.full((32, 32, 1), 7, np.uint8)
    for image_format in ("png", "jpg", "webp"):
        assert not decode_into(memoryview(encode_image(PICTURE, image_format)), out)
        assert (out == 7).all()
    compressed = cv2.imencode(".png", PICTURE[..., 0])[1].tobytes()
    assert decode_into(memoryview(compressed), out)
    assert np.array_equal(out[..., 0], PICTURE[..., 0])


def test_png_bytes_never_change() -> None:
    ramp = np.arange(24 * 24 * 3, dtype=np.uint8).reshape(24, 24, 3)
    sha256 = "04ac9d04ee615a792b43ce4415ee6ef66b2d07b70e90ba13d8f33e55dde4aab3"
    assert hashlib.sha256(encode_image(ramp, "png")).hexdigest() == sha256


def test_bombs_and_other_bytes_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    png, jpeg = encode_image(PICTURE, "png"), encode_image(PICTURE, "jpg")
    at = jpeg.index(b"\xff\xc0") + 5  # height and width
    bombs = (
        png[:16] + struct.pack(">II", 20_000, 20_000) + png[24:],
        jpeg[:at] + struct.pack(">HH", 20_000, 20_000) + jpeg[at + 4 :],
    )
    assert decode_image(b"nothing") is None
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    assert [decode_image(data) for data in (b"", *bombs)] == [None] * 3


def tar_of(files: list[bytes]) -> tuple[memoryview, np.ndarray]:
    """A tar of them with empty headers, and their offsets and sizes."""
    tar, extents = b"", []
    for data in files:
        extents.append((len(tar) + 512, len(data)))
        tar += bytes(512) + data + bytes(-len(data) % 512)
    return memoryview(tar), np.array(extents, np.int64).reshape(-1, 2)


def picture(size: int) -> np.ndarray:
    return RNG.integers(0, 256, (size, size, 3), np.uint8)


def changed(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 4]) + data[at % len(data) + 1 :]


KINDS = {
    "ours": lambda image: encode_image(image, "png"),
    "OpenCV's": lambda image: cv2.imencode(".png", image)[1].tobytes(),
    "a JPEG": lambda image: encode_image(image, "jpg"),
    "of another size": lambda image: encode_image(image[:-4, :-4], "png"),
    "empty": lambda image: b"",
    "cut": lambda image: encode_image(image, "png")[:1000],
    **{  # a pixel, a filter, the checksum, the end
        f"changed at {at}": lambda image, at=at: changed(encode_image(image, "png"), at) for at in (500, 48, -14, -6)
    },
}


@pytest.mark.parametrize("size", [28, 32, 64])
@settings(max_examples=30)
@given(
    tars=st.lists(st.lists(st.sampled_from(sorted(KINDS)), max_size=40), min_size=1, max_size=6), seed=st.integers(0, 9)
)
def test_only_our_pngs_are_copied(size: int, tars: list[list[str]], seed: int) -> None:
    kinds = [kind for tar in tars for kind in tar]
    files = [[KINDS[kind](picture(size)) for kind in tar] for tar in tars]
    packed = [tar_of(tar) for tar in files]
    rows = np.random.default_rng(seed).permutation(len(kinds) + 3)[: len(kinds)]
    out = np.full((len(kinds) + 3, size, size, 3), 7, np.uint8)
    done = StoredPNGs(size, 3).decode(
        lambda number: packed[number][0],
        np.repeat(np.arange(len(tars)), [len(tar) for tar in tars]),
        np.concatenate([extents for _, extents in packed]),
        out,
        rows,
    )
    assert done.tolist() == [kind == "ours" for kind in kinds]
    expected = np.full_like(out, 7)
    for row, kind, data in zip(rows.tolist(), kinds, [data for tar in files for data in tar], strict=True):
        if kind == "ours":
            expected[row] = decoded(data)
    assert (out == expected).all()


def test_incomplete_or_larger_files_are_left_alone() -> None:
    data, extents = tar_of([encode_image(picture(64), "png")])
    one, out = np.zeros(1, np.int64), np.zeros((1, 64, 64, 3), np.uint8)
    for end in (extents[0, 0] + 6000, 512, 100, 0):
        assert not StoredPNGs(64, 3).decode(lambda _, end=end: data[:end], one, extents, out, one).any()
    assert not out.any()
    data, extents = tar_of([encode_image(picture(192), "png")])  # of two deflate blocks
    assert not StoredPNGs(192, 3).decode(lambda _: data, one, extents, np.zeros((1, 192, 192, 3), np.uint8), one).any()

"""PNGs of ours copied out of tars many at a time, against OpenCV's decoder, with others between them."""

from __future__ import annotations

import io
import tarfile

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegan.shards.images import StoredPNGs, decode_image, encode_image

RNG = np.random.default_rng(0)


def tar_of(files: list[bytes]) -> tuple[memoryview, np.ndarray]:
    """A tar of them, and their offsets and sizes."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, data in enumerate(files):
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    written.seek(0)
    with tarfile.open(fileobj=written) as tar:
        places = [(member.offset_data, member.size) for member in tar]
    return memoryview(written.getvalue()), np.array(places, np.int64).reshape(-1, 2)


def picture(size: int) -> np.ndarray:
    return RNG.integers(0, 256, (size, size, 3), np.uint8)


def changed(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


KINDS = {
    "ours": lambda image: encode_image(image, "png"),
    "OpenCV's": lambda image: cv2.imencode(".png", image)[1].tobytes(),
    "a JPEG": lambda image: encode_image(image, "jpg"),
    "of another size": lambda image: encode_image(image[:-4, :-4], "png"),
    "empty": lambda image: b"",
    "cut": lambda image: encode_image(image, "png")[:1000],
    "a pixel changed": lambda image: changed(encode_image(image, "png"), 500),
    "a filter changed": lambda image: changed(encode_image(image, "png"), 48),
    "the sum changed": lambda image: changed(encode_image(image, "png"), len(encode_image(image, "png")) - 14),
    "the end changed": lambda image: changed(encode_image(image, "png"), len(encode_image(image, "png")) - 6),
}


@pytest.mark.parametrize("size", [28, 32, 64])
@given(
    tars=st.lists(st.lists(st.sampled_from(sorted(KINDS)), max_size=40), min_size=1, max_size=6), seed=st.integers(0, 9)
)
def test_what_is_ours_is_copied_and_nothing_else_touched(size: int, tars: list[list[str]], seed: int) -> None:
    kinds = [kind for tar in tars for kind in tar]
    files = [[KINDS[kind](picture(size)) for kind in tar] for tar in tars]
    packed = [tar_of(tar) for tar in files]
    rows = np.random.default_rng(seed).permutation(len(kinds) + 3)[: len(kinds)]
    out = np.full((len(kinds) + 3, size, size, 3), 7, np.uint8)
    done = StoredPNGs(size, 3).decode(
        ((data, len(tar)) for (data, _), tar in zip(packed, tars, strict=True)),
        np.concatenate([places for _, places in packed]),
        out,
        rows,
    )
    assert done.tolist() == [kind == "ours" for kind in kinds]
    expected = np.full_like(out, 7)
    for row, kind, data in zip(rows.tolist(), kinds, [data for tar in files for data in tar], strict=True):
        if kind == "ours":
            image = decode_image(data)
            assert image is not None
            expected[row] = image
    assert (out == expected).all()


def test_a_file_behind_the_end_of_its_tar_is_none() -> None:
    image = picture(64)
    data, places = tar_of([encode_image(image, "png")])
    out = np.zeros((1, 64, 64, 3), np.uint8)
    for cut in (places[0, 0] + 6000, 512, 100, 0):
        assert not StoredPNGs(64, 3).decode([(data[:cut], 1)], places, out, np.zeros(1, np.int64)).any()
    assert not out.any()


def test_images_of_more_than_one_block_of_deflate_are_left_to_others() -> None:
    image = picture(192)
    data, places = tar_of([encode_image(image, "png")])
    assert not StoredPNGs(192, 3).decode([(data, 1)], places, np.zeros((1, 192, 192, 3), np.uint8), np.arange(1)).any()

"""Shards: what is written is what tar, webdataset and our own index read."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from facegan.errors import DatasetError
from facegan.shards.images import decode_image, decode_into, encode_image
from facegan.shards.reader import Shard
from facegan.shards.writer import ShardStats, ShardWriter, tar_header

PICTURE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def write(path: Path, keys: list[str]) -> ShardStats | None:
    with ShardWriter(path, path.with_suffix(".partial")) as shard:
        for key in keys:
            shard.add(key, "png", encode_image(PICTURE, "png"), b'{"label": 0}')
        return shard.commit()


def test_headers_tell_nothing_but_names_and_sizes(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", ["one", "two"])
    with tarfile.open(tmp_path / "a.tar", "r:") as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == ["one.png", "one.json", "two.png", "two.json"]
    for member in members:
        assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
        assert (member.mode, member.type) == (0o644, tarfile.REGTYPE)
    assert (tmp_path / "a.tar").read_bytes()[257:265] == b"ustar\x0000"


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=150), st.integers(0, 8**11 - 1)
)
def test_headers_are_those_of_tarfile(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    assert tar_header(name, size) == info.tobuf(tarfile.PAX_FORMAT)


def test_the_file_is_that_of_tarfile(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", ["one", "x" * 190, "three"])
    with tarfile.open(tmp_path / "a.tar") as ours, tarfile.open(tmp_path / "b.tar", "w") as theirs:
        for member in ours.getmembers():
            theirs.addfile(_bare(member), ours.extractfile(member))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def _bare(member: tarfile.TarInfo) -> tarfile.TarInfo:
    info = tarfile.TarInfo(member.name)
    info.size = member.size
    return info


def test_the_sum_is_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    data = (write(path, ["one"]), path.read_bytes())
    sums = hashlib.sha256(data[1]).hexdigest(), hashlib.md5(data[1], usedforsecurity=False).hexdigest()
    assert data[0] == ShardStats(1, len(data[1]), *sums)


def test_an_uncommitted_shard_leaves_nothing(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a.tar", tmp_path / "a.partial") as shard:
        shard.add("one", "png", b"x", b"{}")
    assert list(tmp_path.iterdir()) == []


def test_a_shard_without_samples_is_not_written(tmp_path: Path) -> None:
    assert write(tmp_path / "a.tar", []) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("image_format", ["png", "webp"])
def test_lossless_formats_keep_every_bit(image_format: str) -> None:
    stored = decode_image(encode_image(PICTURE, image_format))
    assert stored is not None
    assert np.array_equal(stored, PICTURE)


def test_jpeg_is_444_at_quality_95() -> None:
    import simplejpeg

    data = encode_image(PICTURE, "jpg")
    assert simplejpeg.decode_jpeg_header(data)[3] == "444"
    assert np.abs(simplejpeg.decode_jpeg(data, "RGB").astype(int) - PICTURE).mean() < 6


@pytest.mark.parametrize(("image_format", "mode"), [("png", "L"), ("jpg", "L"), ("webp", "RGB")])
def test_grey_files_have_one_channel_where_their_format_can(image_format: str, mode: str) -> None:
    """Pillow is the second reader; simplejpeg, OpenCV and rows copied by hand are ours."""
    grey = PICTURE[..., :1]
    data = encode_image(grey, image_format)
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == mode
        theirs = np.atleast_3d(np.asarray(image))[..., :1]
    assert np.abs(theirs.astype(int) - grey).mean() < (6 if image_format == "jpg" else 1e-9)
    ours = np.zeros_like(grey)
    assert decode_into(memoryview(data), ours)
    assert np.array_equal(ours, theirs)
    as_rgb = decode_image(data)
    assert as_rgb is not None
    assert np.array_equal(as_rgb, np.repeat(theirs, 3, axis=2))


@pytest.mark.parametrize("image_format", ["png", "jpg", "webp"])
def test_an_image_with_colours_is_no_grey_one(image_format: str) -> None:
    out = np.full((*PICTURE.shape[:2], 1), 7, np.uint8)
    assert not decode_into(memoryview(encode_image(PICTURE, image_format)), out)
    assert (out == 7).all()


def test_a_compressed_grey_png_of_others_is_read(tmp_path: Path) -> None:
    grey, out = PICTURE[..., 0], np.zeros((*PICTURE.shape[:2], 1), np.uint8)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "PNG")
    assert decode_into(memoryview(file.getvalue()), out)
    assert np.array_equal(out[..., 0], grey)


def test_colours_keep_the_bytes_that_they_had_before_there_was_grey() -> None:
    """Of the PNG, which is ours alone: the others' bytes are their libraries'."""
    ramp = np.arange(24 * 24 * 3, dtype=np.uint8).reshape(24, 24, 3)
    sha256 = "04ac9d04ee615a792b43ce4415ee6ef66b2d07b70e90ba13d8f33e55dde4aab3"
    assert hashlib.sha256(encode_image(ramp, "png")).hexdigest() == sha256


def test_the_index_finds_what_tarfile_finds_also_behind_long_names(tmp_path: Path) -> None:
    keys = ["short", "x" * 190, "=C3=A9" * 20, "last"]
    write(tmp_path / "a.tar", keys)
    shard = Shard(tmp_path / "a.tar")
    assert [sample.key for sample in shard.samples] == keys
    with tarfile.open(tmp_path / "a.tar") as tar:
        for sample in shard.samples:
            extracted = tar.extractfile(sample.image.name)
            assert extracted is not None
            assert bytes(shard.read(sample.image)) == extracted.read()


@pytest.mark.parametrize("kept", [0, 100, 700, 4096, -512, -20_000])
def test_a_shard_cut_short_is_noticed(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "a.tar"
    write(path, ["one", "two"])
    data = path.read_bytes()
    # Zeros after the end mark fill up a tar's last record of 10,240 bytes; they may go.
    path.write_bytes(data[:kept] if kept >= 0 else data.rstrip(b"\0")[: kept + 512])
    with pytest.raises(DatasetError, match=r"cut short|empty|damaged"):
        Shard(path)


def test_a_size_below_zero_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write(path, ["one"])
    header = bytearray(path.read_bytes()[:512])
    header[124:136] = b"-0000001000\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(header) + path.read_bytes()[512:])
    with pytest.raises(DatasetError, match="damaged"):
        Shard(path)


def test_nothing_is_no_image() -> None:
    assert decode_image(b"") is None
    assert decode_image(b"nothing") is None


def test_a_damaged_header_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write(path, ["one"])
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    with pytest.raises(DatasetError, match="damaged"):
        Shard(path)

"""Writer and reader of shards against tarfile."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facegan.errors import DatasetError
from facegan.shards.reader import Shard
from facegan.shards.writer import ShardStats, ShardWriter, tar_header
from tests.shards.made import flip, members, rewrite

IMAGE = bytes(range(256)) * 12


def write(path: Path, keys: list[str]) -> ShardStats | None:
    with ShardWriter(path, path.with_suffix(".partial")) as shard:
        for key in keys:
            shard.add(key, "png", IMAGE, b'{"label": 0}')
        return shard.commit()


@settings(max_examples=50, deadline=None)
@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=150), st.integers(0, 8**11 - 1)
)
def test_headers_equal_those_of_tarfile(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    assert tar_header(name, size) == info.tobuf(tarfile.PAX_FORMAT)


def test_file_equals_that_of_tarfile(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    stats = write(path, ["one", "x" * 190, "three"])
    rewrite(tmp_path / "b.tar", members(path))
    data = path.read_bytes()
    assert data == (tmp_path / "b.tar").read_bytes()
    sums = hashlib.sha256(data).hexdigest(), hashlib.md5(data, usedforsecurity=False).hexdigest()
    assert stats == ShardStats(3, len(data), *sums)


def test_empty_or_uncommitted_shard_is_not_written(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a.tar", tmp_path / "a.partial") as shard:
        shard.add("one", "png", b"x", b"{}")
    assert write(tmp_path / "a.tar", []) is None
    assert list(tmp_path.iterdir()) == []


def test_reader_agrees_with_tarfile_on_long_names(tmp_path: Path) -> None:
    keys = ["short", "x" * 190, "=C3=A9" * 20, "last"]
    write(tmp_path / "a.tar", keys)
    shard = Shard(tmp_path / "a.tar")
    assert [sample.key for sample in shard.samples] == keys
    files = members(tmp_path / "a.tar")
    for sample in shard.samples:
        assert bytes(shard.read(sample.image)) == files[sample.image.name]


@pytest.mark.parametrize("kept", [0, 100, 700, 4096, -512, -20_000])
def test_shard_cut_short_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "a.tar"
    write(path, ["one", "two", "three", "four"])
    data = path.read_bytes()
    # Zeros after the end mark fill a tar's last record of 10,240 bytes; they may be missing.
    path.write_bytes(data[:kept] if kept >= 0 else data.rstrip(b"\0")[: kept + 512])
    with pytest.raises(DatasetError, match=r"cut short|empty|damaged"):
        Shard(path)


def test_damaged_headers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write(path, ["one"])
    data = path.read_bytes()
    flip(path, 3)
    with pytest.raises(DatasetError, match="damaged"):
        Shard(path)
    header = bytearray(data[:512])
    header[124:136] = b"-0000001000\0"  # a negative size with the right checksum
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(header) + data[512:])
    with pytest.raises(DatasetError, match="damaged"):
        Shard(path)

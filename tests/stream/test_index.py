"""The index of samples: cached between runs, rebuilt if invalid, and a check for altered shards."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from facegan.errors import DatasetError
from facegan.files import read_cached, write_cached
from facegan.stream import FaceShards
from tests.shards.made import Made, make_dataset, members, rewrite


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


def index_file(cache: Path) -> Path:
    (path,) = (cache / "index").iterdir()
    return path


def test_index_is_built_once(made: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = FaceShards(made)[17]
    monkeypatch.setattr("facegan.stream.index.shard_offsets", None)  # it must not be called again
    again = FaceShards(made)[17]
    assert np.array_equal(again[0], first[0])
    assert again[1] == first[1]
    assert index_file(cache).suffix == ".index"


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: data[::-1]])
def test_damaged_index_is_rebuilt(made: Path, cache: Path, damage, capsys: pytest.CaptureFixture[str]) -> None:
    first = FaceShards(made)[29][1]
    path = index_file(cache)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert FaceShards(made)[29][1] == first
    assert path.read_bytes() == whole
    assert capsys.readouterr().err.count("does not match its checksum") == 1


def test_index_pointing_outside_is_rebuilt(made: Path, cache: Path) -> None:
    first = FaceShards(made)[4][1]
    path = index_file(cache)
    for bad in (-1, 2**62, 2**63 - 1):
        numbers = np.frombuffer(read_cached(path) or b"", np.int64).copy()
        numbers[-4 * 26 :][:4] = bad  # of sample 4 of 30
        write_cached(path, numbers.tobytes())
        assert FaceShards(made)[4][1] == first


def test_unwritable_cache_folder_is_no_error(made: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(FaceShards(made)) == 30


def test_touched_shard_is_accepted(copy: Path, cache: Path) -> None:
    FaceShards(copy)
    os.utime(copy / "train-000001.tar", ns=(1, 1))
    assert FaceShards(copy)[8][1]["path"] == "009.jpg"


def test_altered_shard_of_same_size(copy: Path, cache: Path) -> None:
    FaceShards(copy)
    shard = copy / "train-000001.tar"
    files, size = list(members(shard).items()), shard.stat().st_size
    for changed, said in ((files[::-1], "its samples have moved"), (files[:-2], "it holds 6 samples")):
        rewrite(shard, dict(changed))
        os.truncate(shard, size)
        with pytest.raises(DatasetError, match=said):
            FaceShards(copy)


def test_more_shards_than_open_files(tmp_path: Path, cache: Path) -> None:
    import resource

    out = make_dataset(tmp_path / "many", [Made(f"{i:03d}.jpg") for i in range(200)], size=28, shard_size=1)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    others = [os.open(out, os.O_RDONLY) for _ in range(80)]  # more than half of what is allowed is in use
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(150, max(others) + 30), before[1]))
    try:
        batches = FaceShards(out).batches(50, cache="off")
        for _ in range(12):
            next(batches)
        batches.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for descriptor in others:
            os.close(descriptor)

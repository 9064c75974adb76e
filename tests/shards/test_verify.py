"""`verify` finds every kind of disagreement, and nothing where all agrees."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from facegan.errors import DatasetError
from facegan.shards.verify import verify


def problems(out: Path) -> str:
    found = verify(out)
    assert found.ok is (not found.problems)
    return "\n".join(problem.problem for problem in found.problems)


def test_a_whole_dataset_has_no_problems(dataset: Path) -> None:
    found = verify(dataset)
    assert (found.ok, found.shards, found.samples) == (True, 3, 60)


def test_altered_shortened_missing_and_foreign_shards(dataset_copy: Path) -> None:
    flipped, cut, gone = (dataset_copy / f"train-00000{i}.tar" for i in range(3))
    data = bytearray(flipped.read_bytes())
    data[5000] ^= 1
    flipped.write_bytes(data)
    cut.write_bytes(cut.read_bytes()[:-1])
    gone.unlink()
    (dataset_copy / "train-000007.tar").write_bytes(b"")
    text = problems(dataset_copy)
    assert f"{flipped} was altered" in text
    assert f"{cut} has" in text
    assert f"{gone} is missing" in text
    assert "train-000007.tar is not listed" in text


def test_an_altered_or_missing_table(dataset_copy: Path) -> None:
    path = dataset_copy / "photos.parquet"
    path.write_bytes(path.read_bytes() + b"x")
    assert f"{path} was altered" in problems(dataset_copy)
    path.unlink()
    assert f"{path} is missing" in problems(dataset_copy)


def test_a_table_that_disagrees_with_the_shards(dataset_copy: Path) -> None:
    from facegan.files import sha256_file

    path, info_path = dataset_copy / "photos.parquet", dataset_copy / "dataset.json"
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    info = json.loads(info_path.read_text())
    info["photos_sha256"] = sha256_file(path)
    info_path.write_text(json.dumps(info))
    text = problems(dataset_copy)
    assert "has 59 photographs" in text
    assert "have different keys" in text


def test_a_count_that_disagrees(dataset_copy: Path) -> None:
    info_path = dataset_copy / "dataset.json"
    info = json.loads(info_path.read_text())
    info["shards"][0]["samples"] += 1
    info_path.write_text(json.dumps(info))
    assert "has 20 samples" in problems(dataset_copy)


def test_no_dataset_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="facegan prep"):
        verify(tmp_path / "nothing")

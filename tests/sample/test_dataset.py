"""Samples as a dataset: complete, reproducible, marked as generated, and readable like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facegan.config import SampleConfig
from facegan.errors import DatasetError
from facegan.nets import load_generator
from facegan.sample import write_shards
from facegan.sample.generate import sample_images
from facegan.shards.format import DatasetInfo
from facegan.shards.inspect import read_samples
from facegan.shards.verify import verify
from facegan.stream import FaceShards
from tests.sample.pixels import near


def test_samples_become_a_valid_dataset(run: Path, tmp_path: Path) -> None:
    config = SampleConfig(n=70, seed=1, shard_size=32)
    info = write_shards(run, tmp_path / "a", config, device="cpu")
    write_shards(run, tmp_path / "b", config, device="cpu")
    files = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    assert [shard.samples for shard in info.shards] == [32, 32, 6]
    assert info == DatasetInfo.read(tmp_path / "a")
    found = verify(tmp_path / "a", deep=True)
    assert (found.problems, found.samples) == ((), 70)
    assert info.is_generated
    assert "- synthetic" in files["README.md"].decode()
    assert "generated faces" in json.loads(files["croissant.json"])["description"]
    assert str(tmp_path).encode() not in b"".join(files.values())
    faces = FaceShards(tmp_path / "a")
    pictures = np.stack([faces[i][0] for i in range(len(faces))])
    assert near(pictures, sample_images(load_generator(run), 70, seed=1).permute(0, 2, 3, 1).numpy())
    first = next(iter(read_samples(tmp_path / "a", info.shards[0])))
    expected = ("sample-000000.png", "sample-000000=2Epng", [32.0, 32.0])
    assert (first.meta.path, first.key, first.meta.quad[2]) == expected


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files to the gc
def test_webdataset_reads_samples(grey: Path, tmp_path: Path) -> None:
    from webdataset.compat import WebDataset

    write_shards(grey, tmp_path / "a", SampleConfig(seeds="3,3,9"), device="cpu")
    pipeline: Any = WebDataset(str(tmp_path / "a/train-000000.tar"), shardshuffle=False)  # untyped methods
    assert [sample["json"]["path"] for sample in pipeline.decode("rgb8")] == [
        "sample-000000-seed-3.png",
        "sample-000001-seed-3.png",
        "sample-000002-seed-9.png",
    ]
    assert verify(tmp_path / "a", deep=True).ok
    assert DatasetInfo.read(tmp_path / "a").channels == 1


def test_photographs_cannot_be_added(run: Path, portraits: Path, tmp_path: Path, models: Path) -> None:
    from facegan.prep.prepare import prepare

    write_shards(run, tmp_path / "a", SampleConfig(n=2), device="cpu")
    with pytest.raises(DatasetError, match="facegan sample"):
        prepare(portraits, tmp_path / "a", workers=1)

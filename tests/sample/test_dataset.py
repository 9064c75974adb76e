"""Samples as a dataset: complete, reproducible, marked as generated, and readable like any other."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from facegan.config import PrepConfig
from facegan.errors import DatasetError
from facegan.prep.prepare import prepare
from facegan.sample import write_shards
from facegan.sample.latents import sample_latents
from facegan.shards.format import DatasetInfo
from facegan.shards.inspect import read_samples
from facegan.shards.verify import verify
from facegan.stream import FaceShards
from tests.evaluate.program import BesideTraining
from tests.sample.pixels import images_of, near, request


def test_samples_become_a_valid_dataset(run: Path, grey: Path, portraits: Path, tmp_path: Path) -> None:
    info = write_shards(request(run, n=70, seed=1, shard_size=32), tmp_path / "a")
    write_shards(request(run, n=70, seed=1, shard_size=32), tmp_path / "b")
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
    assert near(np.stack([faces[i][0] for i in range(70)]), images_of(run, sample_latents(70, 16, 1)))
    first = next(iter(read_samples(tmp_path / "a", info.shards[0])))
    expected = ("sample-000000.png", "sample-000000=2Epng", [32.0, 32.0])
    assert (first.meta.path, first.key, first.meta.quad[2]) == expected
    file = Path(shutil.copy(run / "generator.safetensors", tmp_path))
    beside = replace(request(file, n=70, seed=1, shard_size=32), console=BesideTraining(file))
    assert write_shards(beside, tmp_path / "c").settings == info.settings
    info = write_shards(request(grey, seeds="3,9"), tmp_path / "grey")
    paths = [sample.meta.path for sample in read_samples(tmp_path / "grey", info.shards[0])]
    assert (paths, info.channels) == (["sample-000000-seed-3.png", "sample-000001-seed-9.png"], 1)
    assert verify(tmp_path / "grey", deep=True).ok
    with pytest.raises(DatasetError, match="facegan sample"):  # photographs cannot be added
        prepare(portraits, tmp_path / "a", PrepConfig(size=32, detector="none", crop="squash"), workers=0)

"""The same promises on real photographs: 8,050 of CelebA, from a tar and a folder, with one worker and two."""

from __future__ import annotations

import gc
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facegan.evaluate.memorization import copy_rate
from facegan.prep.prepare import prepare
from facegan.shards.format import DatasetInfo
from facegan.shards.verify import verify
from facegan.stream import FaceShards
from tests.evaluate.drawn import compressed
from tests.prep.outputs import digest, rows

pytestmark = pytest.mark.slow

PHOTOS = 8050


@pytest.fixture(scope="module")
def made(celeba: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("celeba") / "out"
    prepare(celeba, out, workers=2)
    return out


def test_nearly_all_photographs_are_kept(made: Path) -> None:
    totals = DatasetInfo.read(made).totals
    assert totals.photos == len(rows(made)) == PHOTOS
    assert totals.kept + sum(totals.rejected.values()) == PHOTOS
    assert totals.kept >= 0.995 * PHOTOS
    assert verify(made).ok


def test_folder_gives_the_same_bytes(celeba: Path, tmp_path: Path) -> None:
    (photos := tmp_path / "photos").mkdir()
    with tarfile.open(celeba) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is not None:
                (photos / Path(member.name).name).write_bytes(file.read())
    prepare(celeba, tmp_path / "tar", limit=400, shard_size=64, workers=2)
    prepare(photos, tmp_path / "folder", limit=400, shard_size=64, workers=1)
    assert digest(tmp_path / "tar") == digest(tmp_path / "folder")


def test_copies_among_photographs(made: Path) -> None:
    faces, images = FaceShards(made), np.empty((1500, 64, 64, 3), np.uint8)
    faces.read(np.arange(1500), images)
    real = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    training, unseen = real[:1200], real[1200:]
    assert copy_rate(unseen, [training]) <= 0.05
    assert copy_rate(compressed(training[:300], 95).flip(-1), [training]) >= 0.95


# webdataset and datasets leave files to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_other_libraries_read_the_shards(made: Path, tmp_path: Path) -> None:
    from datasets import load_dataset
    from webdataset.compat import WebDataset

    shards = sorted(map(str, made.glob("train-*.tar")))
    kept = DatasetInfo.read(made).totals.kept
    with tarfile.open(shards[0]) as tar:
        assert all(member.isreg() for member in tar)
    pipeline: Any = WebDataset(shards, shardshuffle=False)  # its fluid methods have no types
    count = 0
    for image, meta in pipeline.decode("rgb8").to_tuple("png", "json"):
        assert image.shape == (64, 64, 3)
        assert meta["label"] == 0
        count += 1
    assert count == kept
    table = load_dataset("webdataset", data_files={"train": shards}, split="train", cache_dir=str(tmp_path))
    assert table.num_rows == kept
    assert table[0]["png"].size == (64, 64)
    assert table[0]["json"]["path"] == rows(made)[0]["path"]
    gc.collect()

"""Other programs open datasets with the very lines of the dataset's README.md."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.shards.made import TRAIN, VAL, json_of, opened

# webdataset, datasets and wids leave files open; datasets and mlcroissant call deprecated functions.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning", "ignore::DeprecationWarning"
)


@pytest.fixture(autouse=True)
def _collect():
    yield
    gc.collect()


@pytest.fixture
def _no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config
    import huggingface_hub.constants  # not by the environment: both libraries read that once for all tests

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def test_facegan(dataset: Path, two_splits: Path) -> None:
    assert len(opened(dataset, "facegan")["faces"]) == 60
    faces = opened(two_splits, "facegan")["faces"]
    assert len(faces) == 5
    assert np.array_equal(faces[4][0], TRAIN[4].pixels())


def test_webdataset(dataset: Path, two_splits: Path) -> None:
    samples = list(opened(dataset, "webdataset")["samples"])
    assert [sample["__key__"] for sample in samples] == [f"{i:06d}" for i in range(1, 61)]
    assert samples[0]["png"].shape == (64, 64, 3)
    assert samples[0]["json"]["path"] == "000001.jpg"
    assert len(list(opened(two_splits, "webdataset")["samples"])) == 5


@pytest.mark.usefixtures("_no_network")
def test_datasets_streams_each_split(dataset: Path, two_splits: Path) -> None:
    from datasets import load_dataset

    assert len(list(opened(dataset, "datasets")["table"])) == 60
    assert len(list(opened(two_splits, "datasets")["table"])) == 5
    rows = list(load_dataset(str(two_splits), split="validation", streaming=True))
    assert [row["json"]["path"] for row in rows] == [f"{i:06d}.jpg" for i in range(6, 10)]
    assert np.array_equal(np.asarray(rows[0]["png"]), VAL[0].pixels())


@pytest.mark.usefixtures("_no_network")
def test_datasets_loads_all_splits(two_splits: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    both: Any = load_dataset(str(two_splits), cache_dir=str(tmp_path / "two"))
    assert {split: len(rows) for split, rows in both.items()} == {"train": 5, "validation": 4}
    assert both["train"].features == both["validation"].features
    assert np.array_equal(np.asarray(both["train"][4]["png"]), TRAIN[4].pixels())


def test_timm(dataset: Path, two_splits: Path) -> None:
    assert len(list(opened(dataset, "timm.data")["images"])) == 60
    assert [label for _, label in opened(two_splits, "timm.data")["images"]] == [0, 1, 2, 0, 1]
    from timm.data.dataset_factory import create_dataset

    val: Any = create_dataset("wds/faces", root=str(two_splits), split="val")
    images = list(val)
    assert [label for _, label in images] == [2, 0, 1, 2]
    assert np.array_equal(np.asarray(images[0][0]), VAL[0].pixels())


@pytest.mark.filterwarnings("ignore:String specifications for transformations are deprecated")  # of wids' own default
def test_wids(dataset: Path, two_splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wids.wids import IndexedTarSamples

    monkeypatch.setenv("WIDS_CACHE", str(tmp_path))
    samples = opened(dataset, "wids")["samples"]
    assert len(samples) == 60
    assert (samples[59]["__key__"], samples[59][".json"]["path"]) == ("000060", "000060.jpg")
    samples.close()
    samples = opened(two_splits, "wids")["samples"]
    assert np.array_equal(np.asarray(samples[4][".png"]), TRAIN[4].pixels())
    samples.close()
    (entry,) = json_of(two_splits / "index-val.json")["shardlist"]
    path = str(two_splits / entry["url"])
    IndexedTarSamples(path=path, md5sum=entry["md5sum"], expected_size=entry["nsamples"]).close()

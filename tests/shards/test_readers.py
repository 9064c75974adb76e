"""What other programs read: webdataset, tarfile and Hugging Face's datasets open the shards of a drawn dataset."""

from __future__ import annotations

import gc
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

# webdataset and datasets leave files to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning", "ignore::DeprecationWarning"
)


@pytest.fixture(autouse=True)
def _collect():
    yield
    gc.collect()


@pytest.fixture
def shards(dataset: Path) -> list[str]:
    return sorted(map(str, dataset.glob("train-*.tar")))


def test_tarfile(shards: list[str]) -> None:
    with tarfile.open(shards[0]) as tar:
        assert [member.name for member in tar][:4] == ["000001.png", "000001.json", "000002.png", "000002.json"]


def test_webdataset(shards: list[str]) -> None:
    from webdataset.compat import WebDataset

    pipeline: Any = WebDataset(shards, shardshuffle=False)  # its fluid methods have no types
    samples = list(pipeline.decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == [f"{i:06d}" for i in range(1, 61)]
    assert samples[0]["png"].shape == (64, 64, 3)
    assert samples[0]["json"]["path"] == "000001.jpg"


def test_datasets(shards: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import load_dataset

    table = load_dataset("webdataset", data_files={"train": shards}, split="train", cache_dir=str(tmp_path))
    rows = [table[i] for i in range(len(table))]
    assert len(rows) == 60
    assert rows[59]["png"].size == (64, 64)
    with tarfile.open(shards[2]) as tar:
        file = tar.extractfile("000060.json")
        assert file is not None
        assert rows[59]["json"] == json.loads(file.read())

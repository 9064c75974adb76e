"""Cards go with the dataset: written with it, written anew with it, and deleted with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from facegan.config import PrepConfig
from facegan.prep.prepare import prepare
from facegan.shards.format import DatasetInfo

CONFIG = PrepConfig(shard_size=5)


@pytest.fixture
def photos(portraits: Path, tmp_path: Path) -> Path:
    """Five drawn portraits under names of CelebA."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, path in enumerate(sorted(portraits.iterdir())[:5]):
        shutil.copy(path, folder / f"{170_000 + i:06d}.jpg")
    return folder


def samples_in_cards(out: Path) -> list[int]:
    index = json.loads((out / "index-train.json").read_bytes())
    info = json.loads((out / "_info.json").read_bytes())
    croissant = json.loads((out / "croissant.json").read_bytes())
    tars = [file for file in croissant["distribution"] if file["encodingFormat"] == "application/x-tar"]
    return [sum(shard["nsamples"] for shard in index["shardlist"]), info["splits"]["train"]["num_samples"], len(tars)]


def test_cards_follow_additions_and_keep_the_terms(photos: Path, portraits: Path, tmp_path: Path, models: Path) -> None:
    out = tmp_path / "out"
    prepare(photos, out, CONFIG, workers=1)
    assert DatasetInfo.read(out).data_set == "celeba-aligned"
    assert "5 of 202,599 photographs of CelebA aligned" in (out / "README.md").read_text(encoding="utf-8")
    assert samples_in_cards(out) == [5, 5, 1]
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(portraits / "000007.jpg", photos / name)
    prepare(photos, out, CONFIG, workers=1)
    assert DatasetInfo.read(out).data_set == "celeba-aligned"
    assert "7 of 202,599 photographs" in (out / "README.md").read_text(encoding="utf-8")
    assert samples_in_cards(out) == [7, 7, 2]


def test_force_leaves_no_card_of_the_dataset_before(dataset_copy: Path, portraits: Path, models: Path) -> None:
    (dataset_copy / "index-val.json").write_text("stale")
    (dataset_copy / "notes.md").write_text("mine")
    prepare(portraits, dataset_copy, PrepConfig(size=32), limit=5, workers=1, force=True)
    cards = {path.name for path in dataset_copy.iterdir()} - {
        "dataset.json",
        "photos.parquet",
        "preview.png",
        ".facegan",
    }
    assert cards == {"README.md", "croissant.json", "_info.json", "index-train.json", "train-000000.tar", "notes.md"}
    assert "5 faces of 32 × 32 pixels" in (dataset_copy / "README.md").read_text(encoding="utf-8")
    assert "license: unknown" in (dataset_copy / "README.md").read_text(encoding="utf-8")

"""Trainings on grey faces by the command: grids and TensorBoard are grey as well."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from facegan.nets import load_generator
from tests.recipes.program import facegan
from tests.shards.made import Made, make_dataset

PHOTOS = [Made(f"{i:02d}.jpg") for i in range(24)]


def trained(shards: Path, run: Path, *settings: str, nets: str = "mlp", images: str = "3st") -> Path:
    small = ["--set", f"train.nets={nets}", "--set", "train.width=4", "--batch", "8", "--device", "cpu", "--quiet"]
    done = facegan("train", "--shards", shards, "--run", run, *small, *settings, "--images", images)
    assert done.code == 0, done.stderr
    return run


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("grey") / "out", PHOTOS, size=28, channels=1)


@pytest.fixture(scope="module")
def run(grey: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(grey, tmp_path_factory.mktemp("runs") / "grey", "--set", "train.augment=color,translation,cutout")


def png(path: Path) -> tuple[str, np.ndarray]:
    with Image.open(path) as image:
        return image.mode, np.asarray(image)


def test_run_has_one_channel(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    assert (record["dataset"]["channels"], record["nets"]["channels"]) == (1, 1)
    assert load_generator(run).spec.channels == 1


def test_grids_are_grey(run: Path) -> None:
    mode, grid = png(run / "samples" / "000000024.png")
    assert (mode, grid.shape) == ("L", (8 * 30 + 2, 8 * 30 + 2))
    shown = EventAccumulator(str(run)).Reload().Images("samples")[-1]
    with Image.open(io.BytesIO(shown.encoded_image_string)) as image:
        assert (image.mode, image.size) == ("L", (242, 242))
        assert np.abs(np.asarray(image).astype(int) - grid).mean() < 4  # a JPEG


def test_colour_is_another_training(run: Path, tmp_path: Path) -> None:
    coloured = make_dataset(tmp_path / "out", PHOTOS, size=28)
    options = [
        "--set",
        "train.nets=mlp",
        "--set",
        "train.width=4",
        "--batch",
        "8",
        "--images",
        "3st",
        "--device",
        "cpu",
    ]
    other = facegan("train", "--shards", coloured, "--run", tmp_path / "new", "--init", run, *options)
    assert other.code == 1
    assert "it has channels 1, not 3" in other.stderr
    assert facegan("train", "--shards", coloured, "--run", run, *options).code != 0  # its faces were others


def test_compare_grey_and_colour(run: Path, tmp_path: Path) -> None:
    coloured = make_dataset(tmp_path / "out", PHOTOS, size=28)
    other = trained(coloured, tmp_path / "coloured", nets="mnist-conv")
    done = facegan("compare", run, other, "--out", tmp_path / "both.png")
    assert done.code == 0, done.stderr
    _, picture = png(tmp_path / "both.png")
    below = picture[int(picture.shape[0] * 0.7) :, : picture.shape[1] // 2, :3].astype(int)
    assert (below.max(axis=2) == below.min(axis=2)).mean() > 0.99  # the grey run's samples, not in a map of colours

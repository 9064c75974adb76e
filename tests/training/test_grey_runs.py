"""Trainings on faces of one channel, through the commands: grids, samples and TensorBoard are grey as well."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from facegan.nets import load_generator
from facegan.training import sample_images
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


def test_samples_are_grey_pngs(run: Path, tmp_path: Path) -> None:
    assert facegan("sample", run, "--out", tmp_path / "grid.png", "--n", 4).code == 0
    assert facegan("sample", run, "--dir", tmp_path / "single", "--n", 4).code == 0
    mode, grid = png(tmp_path / "grid.png")
    assert (mode, grid.shape) == ("L", (62, 62))
    wanted = sample_images(load_generator(run), 4).numpy()[:, 0]
    for i, path in enumerate(sorted((tmp_path / "single").iterdir())):
        mode, face = png(path)
        assert mode == "L"
        assert np.array_equal(face, wanted[i])
        top, left = 2 + i // 2 * 30, 2 + i % 2 * 30
        assert np.array_equal(grid[top : top + 28, left : left + 28], face)


def test_grey_run_resumes(grey: Path, run: Path, tmp_path: Path) -> None:
    augmented = ("--set", "train.augment=color,translation,cutout")
    trained(grey, tmp_path / "run", *augmented, images="1st")
    trained(grey, tmp_path / "run", *augmented)
    weights = [(folder / "generator.safetensors").read_bytes() for folder in (run, tmp_path / "run")]
    assert weights[0] == weights[1]


def test_colour_is_another_training(run: Path, tmp_path: Path) -> None:
    coloured = make_dataset(tmp_path / "out", PHOTOS, size=28)
    told = ["--set", "train.nets=mlp", "--set", "train.width=4", "--batch", "8", "--images", "3st", "--device", "cpu"]
    other = facegan("train", "--shards", coloured, "--run", tmp_path / "new", "--init", run, *told)
    assert other.code == 1
    assert "it has channels 1, not 3" in other.stderr
    assert facegan("train", "--shards", coloured, "--run", run, *told).code != 0  # its faces were others


def test_compare_grey_and_colour(run: Path, tmp_path: Path) -> None:
    coloured = make_dataset(tmp_path / "out", PHOTOS, size=28)
    other = trained(coloured, tmp_path / "coloured", nets="mnist-conv")
    done = facegan("compare", run, other, "--out", tmp_path / "both.png")
    assert done.code == 0, done.stderr
    _, picture = png(tmp_path / "both.png")
    below = picture[int(picture.shape[0] * 0.7) :, : picture.shape[1] // 2, :3].astype(int)
    assert (below.max(axis=2) == below.min(axis=2)).mean() > 0.99  # the grey run's samples, not in a map of colours

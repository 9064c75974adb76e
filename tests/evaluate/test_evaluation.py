"""`facegan eval`: targets, reference faces, cached features, and errors."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from facegan.config import PrepConfig, metric_of
from facegan.evaluate.swd import project, sliced_wasserstein
from facegan.nets import load_generator
from facegan.prep.prepare import prepare
from facegan.stream import FaceShards
from facegan.training import sample_images
from tests.evaluate.program import evaluated, refused, write_faces, write_images
from tests.recipes.program import facegan

LIGHT = "swd,frechet_random,density,coverage,ms_ssim,copied"


def test_run_gets_table_files_and_protocol(faces: Path, run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    half_written = copy / ".state.json.1.partial"  # by a training in progress
    half_written.write_text("")
    done = facegan("eval", copy, "--shards", faces, "--n", 12, "--metrics", LIGHT, "--device", "cpu")
    assert done.code == 0, done.stderr
    found = json.loads((copy / "eval.json").read_text())
    assert found["measured"]["kind"] == "run"
    assert (found["measured"]["path"], found["measured"]["images_trained"]) == (str(copy), 16)
    protocol = found["protocol"]
    assert (protocol["samples"], protocol["faces"], protocol["floor_faces"]) == (12, 12, [10, 10])
    assert (protocol["split"], protocol["training_split"], protocol["training_faces"]) == ("test", "train", 31)
    assert (protocol["crop"], protocol["size"], protocol["seed"]) == ("center178", 32, 0)
    for part in ("metrics", "floors"):
        assert {metric_of(name) for name in found[part]} == {*LIGHT.split(",")}
    assert found["absent"] == {}
    assert found["neighbours"] == str(copy / "neighbours.png")
    with Image.open(found["neighbours"]) as picture:
        assert picture.height > 12 * 32
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines()}
    assert rows["metric"][:3] == ["metric", "value", "better"]
    assert (rows["swd"][1:3], rows["swd"][5]) == ([f"{found['metrics']['swd']:.4g}", "lower"], "×")
    assert rows["ms_ssim"][2:5] == ["close", "to", "real"]
    assert "Real faces: the split test" in done.stderr
    assert half_written.exists()
    # Its files do not change the run.
    assert facegan("sample", copy, "--out", tmp_path / "grid.png", "--n", 4).code == 0


def test_swd_of_seeded_samples_and_faces(faces: Path, run: Path) -> None:
    asked = ("--shards", faces, "--n", 10, "--seed", 3, "--metrics", "swd")
    found = evaluated(run, *asked, "--dry-run")
    assert (found["split"], found["samples"], found["faces"], found["metrics"]) == ("test", 10, 10, ["swd"])
    assert not (run / "eval.json").exists()
    found = evaluated(run / "generator.safetensors", *asked)
    with closing(FaceShards(faces, "test", cache="off").batches(20, seed=3)) as batches:
        real, other = (project(part.contiguous(), 3) for part in next(batches).chunk(2))
    samples = project(sample_images(load_generator(run), 10, 3), 3)
    assert found["metrics"] == pytest.approx(sliced_wasserstein(samples, real))
    assert found["floors"] == pytest.approx(sliced_wasserstein(real, other))
    assert (found["measured"]["kind"], "neighbours" in found) == ("generator", False)


def test_checkpoint_and_split(faces: Path, run: Path, tmp_path: Path) -> None:
    checkpoint = run / "checkpoints/000000008"
    found = evaluated(checkpoint, "--shards", faces, "--n", 8, "--metrics", "swd,copied", "--split", "val",
                     "--out", tmp_path / "out")  # fmt: skip
    assert (found["measured"]["kind"], found["measured"]["images_trained"]) == ("checkpoint", 8)
    assert (found["protocol"]["split"], found["protocol"]["samples"], found["protocol"]["faces"]) == ("val", 8, 8)
    assert json.loads((tmp_path / "out/eval.json").read_text()) == found
    trained = evaluated(checkpoint, "--shards", faces, "--n", 8, "--metrics", "copied", "--split", "train")
    assert trained["floors"] == {}  # training faces are copies of themselves


def test_real_features_are_cached(faces: Path, run: Path, portraits: Path, tmp_path: Path) -> None:
    shards = Path(shutil.copytree(faces, tmp_path / "out"))
    asked = ("eval", run, "--shards", shards, "--n", 9, "--metrics", "swd,frechet_random", "--out", tmp_path / "a")
    first, again = facegan(*asked, "--json"), facegan(*asked, "--json")
    cached = "patches, patches-real-vs-real, random-net, random-net-real-vs-real."
    assert f"From the cache of real faces: {cached}" in again.stderr
    results = [json.loads(ended.stdout) for ended in (first, again)]
    for part in ("metrics", "floors"):
        assert results[0][part] == results[1][part]
    shutil.rmtree(shards)
    prepare(portraits, shards, PrepConfig(size=32, crop="squash", detector="none", split="0.5,0.1,0.4"), workers=0)
    changed = facegan(*asked, "--json")
    assert "From the cache" not in changed.stderr
    assert json.loads(changed.stdout)["floors"] != results[0]["floors"]
    # A damaged file is computed again, even after a single bit flip.
    for number, path in enumerate((Path(os.environ["XDG_CACHE_HOME"]) / "facegan/real-features").iterdir()):
        data = bytearray(path.read_bytes())
        data[-100] ^= 64
        path.write_bytes(data if number % 2 else b"damaged")
    healed = facegan(*asked, "--json")
    assert "From the cache" not in healed.stderr
    assert "does not match its checksum" in healed.stderr
    for part in ("metrics", "floors"):
        assert json.loads(healed.stdout)[part] == json.loads(changed.stdout)[part]


def test_detector_finds_faces_in_a_folder(dataset: Path, models: Path, tmp_path: Path) -> None:
    """The dataset has no split test."""
    asked = ("--shards", dataset, "--metrics", "one_face,keypoints", "--set", "eval.neighbours=0")
    found = evaluated(write_faces(tmp_path / "real", dataset, "train", count=10), *asked)
    assert found["metrics"]["one_face"] >= 0.8
    assert found["floors"]["one_face"] >= 0.8
    assert found["protocol"]["detector"]["model"] == "short"
    assert found["protocol"]["split"] == "train"
    noise = write_images(tmp_path / "noise", np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8))
    found = evaluated(noise, *asked)
    assert found["metrics"]["one_face"] == 0
    assert found["absent"] == {"keypoints": "a face was found in too few of the images"}


def test_copies_of_training_faces_are_counted(faces: Path, tmp_path: Path) -> None:
    copied = write_faces(tmp_path / "copied", faces, "train")
    unseen = write_faces(tmp_path / "unseen", faces, "test")
    found = [evaluated(folder, "--shards", faces, "--metrics", "copied")["metrics"] for folder in (copied, unseen)]
    assert found[0]["copied"] >= 0.95
    assert found[1]["copied"] <= 0.05


def test_too_few_images_skip_a_metric(faces: Path, tmp_path: Path, models: Path) -> None:
    folder = write_faces(tmp_path / "images", faces, "train", count=4)
    code, said = refused(folder, "--shards", faces, "--metrics", "swd,coverage")
    assert code == 2
    assert "--metrics coverage: it needs 6 samples and 6 real faces, but there are only 4." in said
    ended = facegan("eval", folder, "--shards", faces, "--recipe", _recipe(tmp_path, "n = 4"), "--json", "--quiet")
    found = json.loads(ended.stdout)
    assert found["absent"]["density"] == "it needs 6 samples and 6 real faces, but there are only 4"
    assert found["metrics"]["swd"] > 0


def _recipe(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(f"[eval]\n{text}\nneighbours = 0\n")
    return path


def test_recipe_options_and_set_are_merged(faces: Path, run: Path, tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, 'n = 6\nmetrics = "swd,ms_ssim"\nsplit = "val"')
    found = evaluated(run, "--shards", faces, "--recipe", recipe, "--dry-run")
    assert (found["samples"], found["split"], found["metrics"]) == (6, "val", ["swd", "ms_ssim"])
    found = evaluated(run, "--shards", faces, "--recipe", recipe, "--n", 5, "--set", "eval.split=train", "--dry-run")
    assert (found["samples"], found["split"]) == (5, "train")
    assert refused(run, "--shards", faces, "--recipe", _recipe(tmp_path, "n = 0")) == (
        2,
        "error: mine.toml, line 2: --n 0 must be greater than 0.\n",
    )


def test_wrong_targets_are_errors(faces: Path, dataset: Path, run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/run.json").write_text("{}")
    other = write_images(tmp_path / "other", np.zeros((2, 48, 48, 3), np.uint8))
    mixed = write_images(tmp_path / "mixed", np.zeros((3, 32, 32, 3), np.uint8))
    cv2.imwrite(str(mixed / "000001.png"), np.zeros((32, 40, 3), np.uint8))
    broken = write_images(tmp_path / "broken", np.zeros((2, 32, 32, 3), np.uint8))
    (broken / "000001.png").write_bytes((broken / "000001.png").read_bytes()[:60])
    cases: list[tuple[tuple[object, ...], int, str]] = [
        ((tmp_path / "empty",), 1, "contains neither a run nor images."),
        ((tmp_path / "begun",), 1, "has no generator.safetensors yet"),
        ((tmp_path / "emty",), 2, "Did you mean 'empty'?"),
        ((other,), 1, "000000.png has 48×48 pixels, and the real faces have 32×32"),
        ((mixed,), 1, "000001.png has 40×32 pixels, and the real faces have 32×32"),
        ((broken,), 1, "000001.png cannot be read as an image: truncated. Remove it from the folder."),
        ((run, "--split", "tset"), 2, "--split tset is not available. Choose auto, train, val or test."),
        ((run, "--metrics", "swd", "--out", "/proc/none"), 1, "/proc/none"),
        ((run, "--shards", tmp_path / "a.tar"), 2, "Name a dataset that facegan prep wrote."),
        ((run, "--n", 10**12), 2, "--n 1,000,000,000,000 needs"),
        ((run, "--shards", dataset), 2, "draws 32×32 in 3 channels, but the real faces are 64×64 in 3."),
    ]
    for arguments, expected, words in cases:
        code, said = refused("--shards", faces, "--n", 4, *arguments)
        assert (code, words in said) == (expected, True), said
        assert said.count("\n") <= 3
    code, said = refused(run)
    assert (code, "facegan eval needs real faces" in said) == (2, True)

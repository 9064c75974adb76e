"""Evaluation during training, from the command line: its values, no effect on the training, the best checkpoint."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from facegan.config import PrepConfig
from facegan.evaluate.memorization import Gallery
from facegan.evaluate.swd import project, sliced_wasserstein
from facegan.nets import load_generator
from facegan.prep.prepare import prepare
from facegan.stream import FaceShards
from facegan.training import sample_images
from facegan.training.log import read_stats
from tests.recipes.conftest import Experiment
from tests.recipes.program import Ended, facegan

SMALL = ("--device", "cpu", "--batch", 4, "--set", "train.width=4", "--set", "train.precision=fp32", "--log-every", 8)
MEASURED = ("--eval-every", "2st", "--set", "train.eval_n=8", "--images", 24, "--save-every", 16)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory, portraits: Path) -> Path:
    """40 faces of 32 pixels in the split train, 20 in val."""
    out = tmp_path_factory.mktemp("faces") / "out"
    config = PrepConfig(size=32, crop="center178", detector="none", split="0.67,0.33,0")
    prepare(portraits, out, config, workers=0)
    return out


def train(faces: Path, run: Path, *options: object, code: int = 0) -> Ended:
    ended = facegan("train", "--shards", faces, "--run", run, *SMALL, *options)
    assert ended.code == code, ended.stderr
    return ended


@pytest.fixture(scope="module")
def measured(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 24 images, evaluated every 8. Read only."""
    run = tmp_path_factory.mktemp("runs") / "measured"
    train(faces, run, *MEASURED)
    return run


def rows_of(run: Path, *, training: bool) -> list[dict[str, Any]]:
    times = ("images_per_second", "seconds")
    rows = [{key: value for key, value in row.items() if key not in times} for row in read_stats(run)]
    return [row for row in rows if ("measured" in row or "floor" in row) != training]


def best_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "best.json").read_text())


def test_swd_to_the_split_val(faces: Path, measured: Path) -> None:
    reference, *rows = rows_of(measured, training=False)
    val = FaceShards(faces, "val", cache="off")
    count = len(val)
    assert reference["protocol"]["split"] == "val"
    assert (reference["protocol"]["samples"], reference["protocol"]["faces"]) == (8, 8)
    assert reference["floor"]["swd"] > 0
    assert [row["images"] for row in rows] == [8, 16, 24]
    with closing(val.batches(count, seed=0)) as batches:
        real = next(batches)[:8]
    best = best_of(measured)
    generator = load_generator(measured / f"checkpoints/{best['images']:09d}")
    again = sliced_wasserstein(project(sample_images(generator, 8, 0)), project(real))
    assert again == next(row["measured"] for row in rows if row["images"] == best["images"])
    assert best == {"metric": "swd", "value": min(row["measured"]["swd"] for row in rows), "images": best["images"]}
    assert (measured / "log.txt").read_text().count("of the split val. Real against real: swd ") == 1


def test_evaluation_changes_no_weight(faces: Path, measured: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(faces, run, "--images", 24, "--save-every", 16)
    assert (run / "generator.safetensors").read_bytes() == (measured / "generator.safetensors").read_bytes()
    assert rows_of(run, training=True) == rows_of(measured, training=True)
    assert not (run / "best.json").exists()


def test_other_settings_restart_the_best(faces: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(faces, run, "--images", 8)
    cheap = ("--set", "train.eval_metrics=frechet_random")
    train(faces, run, *MEASURED[:-4], *cheap, "--images", 16)
    assert best_of(run)["images"] == 16
    # With fewer faces all distances grow: old values are not comparable.
    train(faces, run, "--eval-every", "2st", "--set", "train.eval_n=3", *cheap, "--images", 24)
    rows = rows_of(run, training=False)
    assert [(row["images"], row["protocol"]["samples"]) for row in rows if "floor" in row] == [(8, 8), (16, 3)]
    assert best_of(run)["images"] == 24
    assert [row["best"] for row in rows if "measured" in row] == [True, True]


def test_sample_best(faces: Path, measured: Path, tmp_path: Path) -> None:
    best = measured / f"checkpoints/{best_of(measured)['images']:09d}"
    assert facegan("sample", measured, "--best", "--out", tmp_path / "best.png", "--n", 4).code == 0
    facegan("sample", best, "--out", tmp_path / "same.png", "--n", 4)
    assert (tmp_path / "best.png").read_bytes() == (tmp_path / "same.png").read_bytes()
    copy = Path(shutil.copytree(measured, tmp_path / "copy"))
    shutil.rmtree(copy / best.relative_to(measured))
    for message in ("is missing. Leave out --best for the newest.", "has no best checkpoint"):
        none = facegan("sample", copy, "--best", "--out", tmp_path / "none.png")
        assert (none.code, message in none.stderr) == (1, True)
        (copy / "best.json").unlink(missing_ok=True)


def test_eval_best(faces: Path, measured: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(measured, tmp_path / "run"))
    best = f"{run}/checkpoints/{best_of(run)['images']:09d}"
    asked = ("eval", run, "--shards", faces, "--n", 12, "--metrics", "swd", "--device", "cpu")
    assert facegan(*asked, "--best").code == 0
    record = json.loads((run / "eval.json").read_text())
    assert (record["measured"]["kind"], record["measured"]["path"]) == ("checkpoint", best)
    assert (run / "neighbours.png").is_file()
    assert not (Path(best) / "eval.json").exists()
    for path, message in ((run / "generator.safetensors", "--best needs a run"), (tmp_path / "rum", "mean 'run'?")):
        ended = facegan("eval", path, *asked[2:], "--best")
        assert (ended.code, message in ended.stderr) == (2, True)
    ended = facegan("sample", run / "generator.safetensors", "--best", "--out", tmp_path / "x.png")
    assert (ended.code, "--best needs a run" in ended.stderr) == (2, True)


def test_recipe_uses_the_best(done: Experiment) -> None:
    shutil.rmtree(done.to / "run")
    text = done.recipe.read_text() + 'eval_every = "2st"\neval_n = 4\neval_metrics = "frechet_random"\n'
    text += '[eval]\nn = 5\nmetrics = "ms_ssim"\nneighbours = 0\n'
    done.recipe.write_text(text)
    ended = facegan("run", done.recipe, "--to", done.to)
    assert ended.code == 0, ended.stderr
    best = best_of(done.to / "run")
    assert f"best frechet_random {best['value']:.3g} at {best['images']:,}" in ended.stdout
    checkpoint = done.to / f"run/checkpoints/{best['images']:09d}"
    facegan("sample", checkpoint, "--out", done.to / "same.png")
    assert (done.to / "same.png").read_bytes() == (done.to / "samples.png").read_bytes()
    reference = rows_of(done.to / "run", training=False)[0]
    assert reference["protocol"]["split"] == "train"  # there is no val
    evaluation = json.loads((done.to / "run/eval.json").read_text())  # of the same generator as the samples
    assert evaluation["measured"]["path"] == str(checkpoint)
    assert evaluation["measured"]["images_trained"] == best["images"]
    again = facegan("run", done.recipe, "--to", done.to, "--json")
    assert {stage["state"] for stage in json.loads(again.stdout)["stages"]} == {"up to date"}


def test_first_metric_chooses_the_best_and_resumes(faces: Path, measured: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    several = (*MEASURED, "--set", "train.eval_metrics=frechet_random,swd,coverage,density,ms_ssim")
    train(faces, run, *several[:-6], "--images", 16, "--save-every", 16, *several[-2:])
    printed = json.loads(train(faces, run, *several, "--json").stdout)
    reference, *rows = rows_of(run, training=False)
    assert reference["protocol"]["metrics"] == ["frechet_random", "swd", "coverage", "density", "ms_ssim"]
    assert [row["images"] for row in rows] == [8, 16, 24]
    assert list(rows[0]["measured"])[:5] == reference["protocol"]["metrics"]
    assert printed["best"] == best_of(run)
    assert best_of(run)["metric"] == "frechet_random"
    assert best_of(run)["value"] == min(row["measured"]["frechet_random"] for row in rows)
    assert (run / "generator.safetensors").read_bytes() == (measured / "generator.safetensors").read_bytes()
    alone = [row["measured"]["swd"] for row in rows_of(measured, training=False)[1:]]
    assert [row["measured"]["swd"] for row in rows] == alone


def test_invalid_settings_are_refused(faces: Path, tmp_path: Path) -> None:
    for options, message in [
        (("--set", "train.eval_n=64"), "no effect without train.eval_every. Set train.eval_every, or leave it out."),
        ((*MEASURED, "--set", "train.eval_metrics=fid"), "'fid' is not available during training."),
        ((*MEASURED, "--set", "train.eval_metrics=swd,coverage", "--set", "train.eval_n=4"), "coverage needs 6 images"),
        (("--eval-every", "often"), "--eval-every often is not a length."),
    ]:
        assert message in train(faces, tmp_path / "run", *options, code=2).stderr
    assert not (tmp_path / "run").exists()


def test_stop_after_ends_with_code_0(faces: Path, tmp_path: Path) -> None:
    still = ("--set", "train.lr_g=1e-30", "--set", "train.lr_d=1e-30")  # the same samples at each evaluation
    printed = json.loads(train(faces, tmp_path / "run", *MEASURED, *still, "--stop-after", 1, "--json").stdout)
    assert (printed["images"], printed["best"]["images"]) == (16, 8)
    assert printed["ended"] == "swd has not improved for 1 evaluation, since 8 images"


def test_copies_are_measured_during_training(faces: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(faces, run, *MEASURED, "--set", "train.eval_metrics=copied,nearest,swd", "--stop-after", 2)
    reference, *rows = rows_of(run, training=False)
    train_faces = FaceShards(faces, "train", cache="off")
    assert reference["protocol"]["training_faces"] == len(train_faces)
    with closing(train_faces.batches(len(train_faces), seed=0)) as batches:
        gallery = Gallery([next(batches)])
    with closing(FaceShards(faces, "val", cache="off").batches(8, seed=0)) as batches:
        real = gallery.compare(next(batches))
    assert {name: reference["floor"][name] for name in real} == real
    generator = load_generator(run / "checkpoints/000000024")
    assert {name: rows[-1]["measured"][name] for name in real} == gallery.compare(sample_images(generator, 8, 0))
    # Nothing is copied, so the newest checkpoint is the best, and training goes on to its end.
    assert best_of(run) == {"metric": "copied", "value": 0, "images": 24}

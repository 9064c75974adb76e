"""Errors are sentences: the value, the rule, the remedy; exit code 1 or 2; never a traceback."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.recipes.program import facegan


def sentence(*arguments: object, code: int) -> str:
    done = facegan(*arguments)
    assert (done.code, done.stdout) == (code, ""), done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.strip().splitlines() if line]
    assert 1 <= len(lines) <= 4
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["prep", "nowhere", "out"], 2, "nowhere does not exist"),
        (["prep", ".", "out"], 2, "contains no photographs"),
        (["prep", ".", "out", "--size", "48"], 2, "--size 48 is not available. Choose 28, 32, 64 or 128"),
        (["prep", ".", "out", "--detector", "none"], 2, "--crop aligned needs a face, and --detector none"),
        (["prep", ".", "out", "--workers", "many"], 2, "--workers many must be auto, or a whole number"),
        (["prep", "", "out"], 2, "cannot be empty"),
        (["prep", ".", "x" * 300], 1, "is too long"),
        (["prep", ".", "out", "--min-score", "1.5"], 2, "--min-score 1.5 must be less than or equal to 1"),
        (["prep", ".", "out", "--set", "prep.sice=64"], 2, "no setting 'sice' in [prep]. Did you mean 'size'?"),
        (["train", "--shards", "nowhere"], 1, "There is no folder nowhere"),
        (["train", "--shards", ".", "--method", "dcgn"], 2, "Did you mean 'dcgan'?"),
        (["train", "--shards", ".", "--set", "train.loss=wgan-gp"], 2, "its penalty is per sample"),
        (["train", "--shards", ".", "--resume", "allways"], 2, "'--resume': 'allways' is not one of 'auto', 'never'"),
        (["sample", "run"], 2, "--out grid.png"),
        (["sample", "run", "--out", "a.png", "--dir", "b"], 2, "not --out and --dir"),
        (["sample", "run", "--interpolate", "walk.avi"], 2, "must end in .gif, .webp or .mp4"),
        (["sample", "run", "--interpolate", "a.gif", "--fps", "60"], 2, "a GIF shows up to 50 frames per second"),
        (["sample", "run", "--out", "a.png", "--frames", "9"], 2, "--frames needs --interpolate"),
        (["sample", "run", "--out", "a.png", "--seeds", "3-1"], 2, "such as 0-63 or 1,5,9-12"),
        (["sample", "run", "--out", "a.png", "--latents", "z.npy", "--seed", "2"], 2, "has no effect with"),
        (["inspect", "."], 1, "it is not a dataset"),
        (["models", "pull", "shrt"], 2, "Did you mean 'short'?"),
        (["run", "smoke", "--set", "train.imags=3"], 2, "--set train.imags=3: There is no setting 'imags' in [train]."),
        (["run", "smoke", "--set", "train=3"], 2, "--set train=3: write it as --set section.name=value."),
        (["run", "own-photos"], 2, "There is no photos. Name another with --set prep.source=PATH."),
        (["recipes", "copy", "smoke", "mine"], 2, "Call it mine.toml"),
        (["prepp"], 2, "prepp"),
    ],
)
def test_misuse_gets_a_sentence(
    arguments: list[str], code: int, said: str, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in sentence(*arguments, code=code)
    assert list(tmp_path.iterdir()) == []


def test_missing_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "1.jpg").write_bytes(b"x")
    command = ["prep", tmp_path, tmp_path / "out"]
    assert "There is no model no.tflite" in sentence(*command, "--model", "no.tflite", code=1)
    unreachable = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": "/dev/null"}
    for name, value in {"FACEGAN_MODELS": "", "XDG_CACHE_HOME": str(tmp_path / "cache"), **unreachable}.items():
        monkeypatch.setenv(name, value)
    assert "facegan models pull" in sentence(*command, code=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--device", "cuda:7"], 2, "cuda:7"),
        (["--precision", "fp16", "--device", "cpu", "--batch", "16"], 2, "--precision fp16 needs a CUDA GPU"),
        (["--split", "val"], 1, "has no split 'val'"),
    ],
)
def test_impossible_training_is_refused(
    options: list[str], code: int, said: str, dataset: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert said in sentence("train", "--shards", dataset, "--run", run, "--images", "128", *options, code=code)
    assert not run.exists()


def test_dry_run_of_training(dataset: Path, tmp_path: Path) -> None:
    """And on a CPU says how far an hour goes."""
    run = tmp_path / "run"
    command = ["train", "--shards", dataset, "--run", run, "--batch", 32, "--images", "900M", "--set", "train.width=4"]
    done = facegan(*command, "--device", "cpu", "--precision", "fp32", "--dry-run")
    assert done.code == 0, done.stderr
    assert re.fullmatch(
        rf"Would train dcgan in {re.escape(str(run))} on cpu in fp32: 900,000,000 images, about [\d.]+ h, [\d.]+ GB of "
        r"disk, 18,001 checkpoints \(the last 3 are kept\)\.\n",
        done.stdout,
    )
    assert re.search(
        r"On this CPU one hour is about [\d,]+ images: add --images \d+k?\. --method fast is made for an hour\.$",
        done.stderr.strip(),
    )
    plan = json.loads(facegan(*command, "--device", "cpu", "--dry-run", "--json").stdout)
    assert (plan["images"], plan["width"], plan["from_images"]) == (900_000_000, 4, 0)
    assert not run.exists()


def test_truncated_shard(dataset_copy: Path, tmp_path: Path) -> None:
    shard = dataset_copy / "train-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    assert "was cut short" in sentence("train", "--shards", dataset_copy, "--run", tmp_path / "run", code=1)
    done = facegan("verify", dataset_copy)
    assert (done.code, done.stderr) == (1, "")
    assert "train-000000.tar" in done.stdout


def test_debug_shows_the_traceback(dataset_copy: Path) -> None:
    (dataset_copy / "dataset.json").unlink()
    (dataset_copy / "dataset.json").mkdir()
    sentence("inspect", dataset_copy, code=1)
    assert "Traceback" in facegan("inspect", dataset_copy, "--debug").stderr

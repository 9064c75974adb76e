"""``facegan train``: how faces are read is recorded and may differ on resume; unusable shards are refused."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.recipes.program import facegan
from tests.shards.made import Made, flip, make_dataset

SMALL = ["--batch", 8, "--images", 16, "--precision", "fp32", "--set", "train.width=4", "--json"]


@pytest.fixture(scope="module")
def faces32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(
        tmp_path_factory.mktemp("faces32") / "out", [Made(f"{i:03d}.jpg") for i in range(20)], size=32, shard_size=7
    )


def train(shards: object, run: Path, *options: object, code: int = 0) -> str:
    """Run the command in this process and return its stderr."""
    done = facegan("train", "--shards", shards, "--run", run, *SMALL, *options)
    assert done.code == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_cache_may_differ_on_resume(faces32: Path, tmp_path: Path) -> None:
    said = train(faces32, tmp_path / "a", "--cache", "off", "--workers", 1, "--verify-shards")
    assert "Faces are decoded each time: as --cache off says. (cache off, 1 threads)" in said
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert record["stream"] == {"cache": "off", "workers": 1, "skipped": 0}
    train(faces32, tmp_path / "b", "--images", 8, "--cache", "off")
    said = train(faces32, tmp_path / "b", "--cache", "ram", "--workers", 3)
    assert "kept in memory" in said
    assert json.loads((tmp_path / "b" / "run.json").read_text())["stream"]["cache"] == "ram"
    a, b = ((tmp_path / run / "generator.safetensors").read_bytes() for run in "ab")
    assert a == b


def test_unchecked_shards_are_reported(faces32: Path, tmp_path: Path, cache: Path) -> None:
    shards, number = Path(shutil.copytree(faces32, tmp_path / "out")), iter(range(99))
    line = f"have not been checked since they were written: run facegan verify {shards}, or add --verify-shards."

    def says(*options: object) -> bool:
        return line in train(shards, tmp_path / f"run{next(number)}", "--dry-run", *options)

    def check(code: int) -> None:
        assert facegan("verify", shards).code == code

    assert says()
    check(0)
    assert not says()
    assert list(tmp_path.glob("out/.facegan*")) == []  # remembered in the user cache
    path, data = shards / "train-000001.tar", (shards / "train-000001.tar").read_bytes()
    times = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert says()
    assert not says("--verify-shards")
    assert not says()
    flip(path, 900)
    check(1)
    assert says()
    path.write_bytes(data)
    check(0)
    assert not says()
    for file in (cache / "verified").iterdir():
        file.write_text("[damaged")
    assert says()


def test_skip_broken_is_recorded(faces32: Path, tmp_path: Path) -> None:
    shards = Path(shutil.copytree(faces32, tmp_path / "out"))
    (shards / "train-000001.tar").unlink()
    assert "is missing" in train(shards, tmp_path / "run", code=1)
    assert "With --skip-broken its 7 faces are left out." in train(shards, tmp_path / "run", "--skip-broken")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["stream"]["skipped"] == 7


def test_training_from_a_pipe(faces32: Path, tmp_path: Path) -> None:
    said = train(f"pipe:cat {shlex.quote(str(faces32 / 'train-000000.tar'))}", tmp_path / "run", "--batch", 4)
    assert "in random but not exact order" in said
    assert (tmp_path / "run" / "generator.safetensors").exists()


@pytest.mark.parametrize(
    ("spoil", "options", "code", "said"),
    [
        (
            lambda out: flip(out / "train-000000.tar", 900),
            ["--verify-shards"],
            1,
            "train-000000.tar was altered: its SHA",
        ),
        (lambda out: (out / "dataset.json").unlink(), [], 1, "it is not a dataset of facegan prep"),
        (None, ["--split", "val"], 1, "has no split 'val': it has train"),
        (None, ["--cache", "rom"], 2, "--cache rom is not available. Choose auto, gpu, ram or off."),
        (None, ["--workers", "0"], 2, "--workers 0 must be auto, or a whole number of at least 1."),
        (None, ["--batch", "21"], 2, "--batch 21 is larger than the dataset (20 faces)"),
    ],
)
def test_unusable_datasets_are_refused(
    faces32: Path, tmp_path: Path, spoil: Callable[[Path], None] | None, options: list, code: int, said: str
) -> None:
    shards = Path(shutil.copytree(faces32, tmp_path / "out"))
    if spoil:
        spoil(shards)
    assert said in train(shards, tmp_path / "run", *options, code=code)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("shards", "code", "said"),
    [
        ("http://127.0.0.1:9/faces", 1, "http://127.0.0.1:9/faces/dataset.json is unavailable"),
        ("gopher://faces", 2, "gopher"),
        ("pipe:exit 3", 1, "pipe:exit 3"),
    ],
)
def test_unavailable_shards_are_named(tmp_path: Path, shards: str, code: int, said: str, monkeypatch) -> None:
    monkeypatch.setenv("FACEGAN_RETRY_SECONDS", "0.01")
    assert said in train(shards, tmp_path / "run", code=code)

"""Comparison of runs: differences, tables, pictures and pages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import pytest

from facegan.errors import CheckpointError
from facegan.report.runs import read_run, titles
from facegan.report.write import differences
from facegan.training.log import read_stats
from tests.recipes.program import facegan
from tests.report.conftest import add_rows
from tests.training.toy import toy_train


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    top = tmp_path_factory.mktemp("runs")
    toy_train(top / "a/run", images=64, lr_g=1e-3)
    toy_train(top / "b/run", "wgan-gp", images=64, batch=8)
    return [top / "a/run", top / "b/run"]


def test_differences_and_figures(runs: list[Path]) -> None:
    read = [read_run(folder) for folder in runs]
    found = differences(read)
    assert found["method"] == ["dcgan", "wgan-gp"]
    assert found["lr_g"] == [1e-3, 1e-4]
    assert found["batch"] == [16, 8]
    assert not {"seed", "width", "images", "precision", "dataset"} & found.keys()
    last = [row for row in read_stats(runs[0]) if "loss_g" in row][-1]
    assert read[0].figures()["loss_g"] == last["loss_g"]
    assert read[0].images_per_second == pytest.approx(64 / last["seconds"])
    assert differences([read[0], read[0]]) == {}


def test_titles_are_different(runs: list[Path]) -> None:
    assert titles([read_run(folder) for folder in runs]) == ["a/run", "b/run"]
    assert titles([read_run(runs[0])]) == ["run"]


def test_command_prints_and_draws(runs: list[Path], tmp_path: Path) -> None:
    picture = tmp_path / "both.png"
    done = facegan("compare", *runs, "--out", picture)
    assert done.code == 0, done.stderr
    lines = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.strip()}
    assert lines["method"] == ["dcgan", "wgan-gp"]
    assert lines["health"] == ["healthy", "healthy"]
    assert str(picture) in done.stdout
    assert min(cv2.imread(str(picture)).shape[:2]) > 500  # pyright: ignore[reportOptionalMemberAccess]
    page = tmp_path / "both.html"
    made = json.loads(facegan("compare", *runs, "--out", page, "--json").stdout)
    assert made["out"] == str(page)
    assert "data:image/webp" in page.read_text()
    again = json.loads(facegan("compare", *runs, "--json").stdout)
    assert [run["run"] for run in again["runs"]] == [str(folder) for folder in runs]
    assert again["differences"]["method"] == ["dcgan", "wgan-gp"]


def test_smallest_measurements_are_compared(runs: list[Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("run.json", "stats.jsonl"):
        shutil.copy(runs[0] / name, run)
    add_rows(run, *({"measured": {"fid": value}, "best": False} for value in (3.0, 2.0, None, 2.5)))
    add_rows(run, {"health": "collapse", "value": 0.1, "text": "x"})
    assert read_run(run).measured == {"fid": 2.0}
    assert read_run(run).figures()["health"] == ["collapse"]


def test_other_folders_are_errors(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"contains no run\.json. Name the folder of a run"):
        read_run(tmp_path)
    done = facegan("compare", runs[0], tmp_path / "nothing")
    assert done.code == 1
    assert "contains no run.json" in done.stderr
    assert facegan("compare", runs[0], "--out", "x.jpg").code == 2

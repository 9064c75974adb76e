"""``--recipe``: a recipe's section as the settings of one command; options override it, ``--set`` overrides both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.recipes.conftest import Experiment
from tests.recipes.program import facegan

RECIPE = """\
[prep]
source = "nowhere"
size = 32
crop = "center178"
detector = "none"
limit = 7
format = "jpg"

[train]
method = "wgan-gp"
width = 4
batch = 8
images = "3ep"
device = "cpu"
cache = "off"
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE)
    return path


def plan(*arguments: object) -> dict[str, Any]:
    ended = facegan(*arguments, "--dry-run", "--json")
    assert ended.code == 0, ended.stderr
    return json.loads(ended.stdout)


def refused(*arguments: object) -> str:
    ended = facegan(*arguments)
    assert ended.code == 2, ended
    return ended.stderr


def test_prep_uses_the_section(recipe: Path, portraits: Path, tmp_path: Path) -> None:
    prep = ("prep", portraits, tmp_path / "out", "--recipe", recipe)
    bare = plan(*prep)
    assert bare["photos"] == 7
    section = {"size": 32, "crop": "center178", "detector": "none", "format": "jpg"}
    assert section.items() <= bare["settings"].items()
    assert plan(*prep, "--size", 64, "--limit", 9)["settings"]["size"] == 64  # also where it is the default
    assert plan(*prep, "--limit", 9)["photos"] == 9
    over = plan(*prep, "--size", 64, "--set", "prep.size=128", "--set", "prep.limit=2")
    assert (over["settings"]["size"], over["photos"]) == (128, 2)
    assert not (tmp_path / "out").exists()


def test_train_uses_the_section(recipe: Path, done: Experiment, tmp_path: Path) -> None:
    train = ("train", "--shards", done.to / "faces", "--run", tmp_path / "run", "--recipe", recipe)
    bare = plan(*train)
    assert (bare["method"], bare["loss"], bare["lr_d"], bare["lr_g"]) == ("wgan-gp", "wgan-gp", 3e-4, 1e-4)
    assert (bare["batch"], bare["width"], bare["images"], bare["device"]) == (8, 4, 32, "cpu")  # 30, in rounds of 8
    beside = plan(*train, "--method", "dcgan", "--images", 64, "--no-graphs")
    assert (beside["loss"], beside["images"], beside["graphs"]) == ("non-saturating", 64, False)
    over = plan(*train, "--batch", 4, "--set", "train.batch=2", "--set", "train.images=2ep")
    assert (over["batch"], over["images"]) == (2, 20)
    named = plan("train", "--recipe", recipe, "--run", tmp_path / "run", "--set", f"train.shards={done.to / 'faces'}")
    assert named == bare
    packaged = plan(*train[:-1], "celeba-wgan-gp-64", "--device", "cpu", "--batch", 2)
    assert packaged["milestones"] == [200_000, 1_600_000]


def test_errors_name_the_line(recipe: Path, done: Experiment, tmp_path: Path) -> None:
    train = ("train", "--shards", done.to / "faces", "--run", tmp_path / "run", "--recipe", recipe)
    recipe.write_text(RECIPE.replace("width = 4", "width = 0"))
    assert "mine.toml, line 11: train.width = 0 must be greater than 0." in refused(*train)
    assert "error: train.width = -1 must be greater than 0." in refused(*train, "--set", "train.width=-1")
    recipe.write_text(RECIPE + "widht = 4\n")
    assert "mine.toml, line 16: There is no setting 'widht' in [train]. Did you mean 'width'?" in refused(*train)
    recipe.write_text(RECIPE.partition("[train]")[0])
    assert "has no section [train], which facegan train needs." in refused(*train)


def test_missing_faces_and_wrong_sections(recipe: Path, tmp_path: Path) -> None:
    assert "facegan train needs faces. Name a dataset of facegan prep with --shards OUT." in refused("train")
    assert "facegan train needs faces" in refused("train", "--recipe", recipe)
    train = ("train", "--shards", tmp_path, "--set")
    other = refused(*train, "prep.size=32", "--recipe", recipe)
    assert "this command has the section 'train', not 'prep'" in other
    assert "There is no setting 'widht' in [train]. Did you mean 'width'?" in refused(*train, "train.widht=4")

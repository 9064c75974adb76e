"""A tiny experiment, done once: ten drawn portraits, cut without a detector, and a DCGAN of four channels."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.recipes.program import Ended, facegan

TINY = """\
[prep]
source = "{photos}"
crop = "center178"
detector = "none"
size = 32
shard_size = 4
workers = 0

[train]
width = 4
batch = 4
images = 24
log_every = 8
device = "cpu"
"""


@dataclass(frozen=True)
class Experiment:
    photos: Path
    recipe: Path
    to: Path

    def files(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.to.rglob("*") if path.is_file() and "lock" not in path.name}


UP_TO_DATE = dict.fromkeys(("prep", "train", "sample"), "up to date")


def run(experiment: Experiment, *options: object) -> Ended:
    return facegan("run", experiment.recipe, "--to", experiment.to, *options)


def stages_of(ended: Ended) -> dict[str, dict[str, Any]]:
    assert ended.code == 0, ended.stderr
    return {stage["stage"]: stage for stage in json.loads(ended.stdout)["stages"]}


def states(ended: Ended) -> dict[str, str]:
    return {name: stage["state"] for name, stage in stages_of(ended).items()}


def prepared(folder: Path, portraits: Path) -> Experiment:
    """An experiment that was not run yet."""
    photos = folder / "photos"
    photos.mkdir(parents=True)
    for path in sorted(portraits.iterdir())[:10]:
        shutil.copy2(path, photos)
    recipe = folder / "tiny.toml"
    recipe.write_text(TINY.format(photos=photos))
    return Experiment(photos, recipe, folder / "to")


@pytest.fixture
def fresh(tmp_path: Path, portraits: Path) -> Experiment:
    return prepared(tmp_path, portraits)


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory, portraits: Path) -> tuple[Experiment, Ended]:
    """Read-only: use `done`."""
    experiment = prepared(tmp_path_factory.mktemp("experiment") / "done", portraits)
    return experiment, run(experiment)


@pytest.fixture
def done(first_run: tuple[Experiment, Ended], tmp_path: Path) -> Experiment:
    """A copy of an experiment that was run; its recipe names the original photographs."""
    original = first_run[0]
    shutil.copytree(original.recipe.parent, tmp_path / "copy")
    return Experiment(*(tmp_path / "copy" / path.name for path in (original.photos, original.recipe, original.to)))

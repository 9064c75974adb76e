"""By which recipe a run was begun, and what that says of its training."""

from __future__ import annotations

import json
import shlex

from facegan.errors import FaceganError
from facegan.recipes.recipe import Recipe, read_recipe
from facegan.report.marked import Baseline
from facegan.report.runs import Run


def begun_by(run: Run) -> Baseline | None:
    """What the run's settings are held against: the recipe that its command names, as it stands now; else None."""
    try:
        words = shlex.split(str(run.record.get("command", "")))
        name = words[words.index("--recipe") + 1] if "--recipe" in words else _of_run(words)
        return recipe_baseline(read_recipe(name), run.record["dataset"]["faces"]) if name else None
    except (FaceganError, ValueError, IndexError):  # it has gone, or is not what it was
        return None


def recipe_baseline(recipe: Recipe, faces: int) -> Baseline:
    """``faces``: how many an epoch shows, where a length is given in epochs."""
    return Baseline(recipe.name, json.loads(recipe.train(faces).model_dump_json()))


def _of_run(words: list[str]) -> str:
    """``facegan run RECIPE``: the first word behind ``run`` that is neither an option nor one's value."""
    behind = words[2:] if words[1:2] == ["run"] else []
    valued = {"--set", "--to"}
    return next(
        (word for i, word in enumerate(behind) if not word.startswith("-") and (i == 0 or behind[i - 1] not in valued)),
        "",
    )

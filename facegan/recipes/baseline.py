"""What a run's settings are compared with: its recipe."""

from __future__ import annotations

import json
import shlex

from facegan.errors import FaceganError
from facegan.recipes.recipe import Recipe, read_recipe
from facegan.report.runs import Run
from facegan.report.sections import Baseline


def recipe_baseline(recipe: Recipe, faces: int) -> Baseline:
    """``faces``: of an epoch, for lengths in epochs."""
    return Baseline(recipe.name, json.loads(recipe.train(faces).model_dump_json()))


def recipe_of_run(run: Run) -> Baseline | None:
    """The recipe that the run's command names, as it is now; None if there is none, or it is missing or invalid."""
    try:
        words = shlex.split(str(run.record.get("command", "")))
        name = words[words.index("--recipe") + 1] if "--recipe" in words else _argument_of_run(words)
        return recipe_baseline(read_recipe(name), run.record["dataset"]["faces"]) if name else None
    except (FaceganError, ValueError, IndexError):
        return None


def _argument_of_run(words: list[str]) -> str:
    """RECIPE of ``facegan run RECIPE``: the first word that is neither an option nor the value of one."""
    rest = iter(words[2:] if words[1:2] == ["run"] else [])
    for word in rest:
        if word in ("--set", "--to"):
            next(rest, "")
        elif not word.startswith("-"):
            return word
    return ""

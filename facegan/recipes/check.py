"""Whether recipes can be run, found out without running them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from facegan.errors import FaceganError
from facegan.recipes.recipe import read_recipe
from facegan.recipes.stages import stages_of
from facegan.recipes.to_generator import Train


@dataclass(frozen=True)
class Checked:
    """``problem`` is empty where a recipe is well; ``not_tried`` is the code that it names, and that was not run."""

    recipe: str
    problem: str
    not_tried: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problem

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}


def check_recipe(text: str) -> Checked:
    """Settings, names, nets, and files that are named, but those that a packaged recipe leaves to its user."""
    try:
        recipe = read_recipe(text)
        stages = stages_of(recipe, Path())
        if not recipe.is_packaged:
            recipe.refuse_missing_files()
        for stage in stages:
            if isinstance(stage, Train) and recipe.prep:
                stage.refuse_unfit_nets(recipe.prep.size, recipe.prep.channels, try_code=False)
    except FaceganError as error:
        return Checked(text, str(error))
    return Checked(text, "", list(recipe.code.values()))

"""Which stages a recipe has, and where in the experiment's folder each of them works."""

from __future__ import annotations

import re
from pathlib import Path

from facegan.errors import SettingsError
from facegan.recipes.recipe import Recipe
from facegan.recipes.stage import Stage
from facegan.recipes.to_export import Export
from facegan.recipes.to_faces import Draw, Prep
from facegan.recipes.to_figures import Eval
from facegan.recipes.to_generator import Sample, Train
from facegan.recipes.to_page import Report

_MOST_PORTRAITS = 1_000_000


def stages_of(recipe: Recipe, to: Path, trust_code: bool = False) -> list[Stage]:
    """The stages that a recipe has, in their order, with all that they make in ``to``.

    Args:
        trust_code: generators may name nets other than the recipe's own.

    Raises:
        SettingsError: ``portraits:`` with what is no number of them.
    """
    stages: list[Stage] = []
    shards = recipe.faces.shards if recipe.faces else ""
    if recipe.photos and recipe.prep:
        out = Path(recipe.photos.out) if recipe.photos.out else to / "faces"
        photos, source, shards, drawn = recipe.photos, recipe.photos.source, str(out), ""
        if source.startswith("portraits:"):
            drawn, source = source, str(to / "portraits")
            count, seed = _portraits(recipe, drawn)
            # There may lie more of them, of a time when more were asked for.
            photos = photos.model_copy(update={"limit": min(count, photos.limit or count)})
            stages.append(Draw(Path(source), count, seed, dataset=out))
        stages.append(Prep(source, drawn, out, photos, recipe.prep))
    if recipe.faces:
        stages.append(Train(recipe, recipe.faces, shards, to / "run", trust_code))
        train = recipe.train()
        measured, trust = train.eval_every > 0, trust_code or frozenset({train.nets})
        stages.append(Sample(to / "run", to / "samples.png", recipe.faces.device, measured, trust))
        if recipe.means and recipe.measures:
            stages.append(Eval(to / "run", shards, recipe.means, recipe.measures, measured, trust))
        if recipe.export:
            stages.append(Export(to / "run", to / "export", recipe.export, measured, trust))
        if recipe.page:  # the last one, for it shows what the others made
            stages.append(Report(recipe, recipe.page, to / "run", to, trust))
    return stages


def _portraits(recipe: Recipe, source: str) -> tuple[int, int]:
    found = re.fullmatch(r"portraits:(\d{1,7})(?::(\d{1,18}))?", source, re.ASCII)
    if not found or not 0 < int(found[1]) <= _MOST_PORTRAITS:
        raise SettingsError(
            f"{recipe.line('prep', 'source')}{source}: write portraits:N with a number from 1 to "
            f"{_MOST_PORTRAITS:,}, or portraits:N:SEED."
        )
    return int(found[1]), int(found[2] or 0)

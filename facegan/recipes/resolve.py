"""A command's settings: its section of a recipe, if one is named; options win over that, and ``--set`` over both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from facegan.config import EvalConfig, ExportConfig, PrepConfig, Settings
from facegan.config.resources import SECTIONS, EvalResources, FacesConfig, PhotosConfig
from facegan.errors import FaceganError, SettingsError
from facegan.recipes.recipe import Recipe, apply_overrides, defaults_of, parse_recipe, read_recipe, subset_for
from facegan.recipes.stages import stages_of
from facegan.recipes.train_stage import TrainStage

# Whether recipes can be run, found out without running them.


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
            if isinstance(stage, TrainStage) and recipe.prep:
                stage.refuse_unfit_nets(recipe.prep.size, recipe.prep.channels, try_code=False)
    except FaceganError as error:
        return Checked(text, str(error))
    return Checked(text, "", list(recipe.code.values()))


Options = Mapping[str, Any]


def prep_settings(
    options: Options, sets: Options, recipe: str | None = None, *, trust_code: bool = False
) -> tuple[PhotosConfig, PrepConfig]:
    """
    Args:
        options: settings of the section that stand on the command line, by name; ``source`` among them.
        sets: those of ``--set``.
        recipe: a packaged name or a path to a ``.toml``.
        trust_code: that file may name modules and commands.

    Raises:
        SettingsError: there is no such recipe, it has no ``[prep]``, or what is said can't be, with its line.
    """
    read = _section("prep", options, sets, recipe, trust_code)
    with read.located("prep"):
        values = read.given["prep"]
        return PhotosConfig.of(subset_for(PhotosConfig, values)), PrepConfig.of(subset_for(PrepConfig, values))


def train_settings(
    options: Options, sets: Options, recipe: str | None = None, *, trust_code: bool = False
) -> tuple[FacesConfig, Recipe]:
    """As `prep_settings`. The second is asked for the `TrainConfig`, once it is known how many faces an epoch has."""
    read = _section("train", options, sets, recipe, trust_code)
    with read.located("train"):
        return FacesConfig.of(subset_for(FacesConfig, read.given["train"])), read


def eval_settings(options: Options, sets: Options, recipe: str | None = None) -> tuple[EvalResources, EvalConfig]:
    """As `prep_settings`."""
    read = _section("eval", options, sets, recipe)
    with read.located("eval"):
        values = read.given["eval"]
        return EvalResources.of(subset_for(EvalResources, values)), EvalConfig.of(subset_for(EvalConfig, values))


def export_settings(options: Options, sets: Options, recipe: str | None = None) -> ExportConfig:
    """As `prep_settings`."""
    read = _section("export", options, sets, recipe)
    with read.located("export"):
        return ExportConfig.of(read.given["export"])


def _section(section: str, options: Options, sets: Options, recipe: str | None, trust_code: bool = False) -> Recipe:
    read = parse_recipe(recipe) if recipe else Recipe("", Path(), "", {section: {}}, {}, None, None, None)
    if section not in read.given:
        raise SettingsError(f"--recipe {recipe}: it has no [{section}], and so no settings for facegan {section}.")
    read.given[section] |= options
    for name in options:
        read.lines.pop((section, name), None)
    apply_overrides(read, {section: sets})
    read.refuse_untrusted(trust_code, section)
    return read


# Units of settings, as ``facegan recipes show`` prints them. Those that are not here are names or bare numbers.

UNITS: dict[str, dict[str, str]] = {
    "prep": {
        "limit": "photographs",
        "workers": "processes",
        "size": "px",
        "margin": "×",
        "min_score": "0 to 1",
        "min_face": "px",
        "min_sharpness": "grey levels²",
        "max_outside": "share of 1",
        "shard_size": "photographs",
    },
    "train": {
        "workers": "threads",
        "width": "channels",
        "width_d": "channels",
        "latent": "numbers",
        "images": "images",
        "batch": "images",
        "grad_accum_steps": "parts",
        "penalty_every": "steps",
        "d_steps": "steps",
        "g_steps": "steps",
        "d_warmup_images": "images",
        "g_warmup_images": "images",
        "lr_g": "per step",
        "lr_d": "per step",
        "beta1": "per step",
        "beta2": "per step",
        "momentum": "per step",
        "ema_images": "images",
        "began_rate": "per step",
        "save_every": "images",
        "sample_every": "images",
        "log_every": "images",
        "eval_every": "images",
        "eval_n": "images",
        "keep": "checkpoints",
        "milestones": "images",
    },
    "eval": {
        "n": "images",
        "kid_subsets": "subsets",
        "neighbours": "samples",
    },
    "export": {
        "samples": "images",
        "compared": "images",
    },
    "report": {},
}


# Every setting of a recipe with its value, default, unit and meaning.


@dataclass(frozen=True)
class Shown:
    """One setting. ``set``: the recipe says it; else it has its default, which may be the method's or the nets'."""

    section: str
    name: str
    value: Any
    default: Any
    unit: str
    meaning: str
    set: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        """On one line; the default where it is another."""
        default = "" if self.value == self.default else f"default {_text(self.default)}"
        beside = "; ".join(filter(None, [self.unit, default]))
        return f"{self.name} = {_text(self.value)}{f' ({beside})' if beside else ''} — {self.meaning}"


def show_settings(recipe: Recipe) -> list[Shown]:
    """All settings of the sections that the recipe has."""
    shown = []
    for section, configs in SECTIONS.items():
        if section not in recipe.given:
            continue
        values, defaults = _values(recipe, section), defaults_of(recipe, section)
        for config in configs:
            for name in config.model_fields:
                unit, is_set = UNITS.get(section, {}).get(name, ""), name in recipe.given[section]
                shown.append(
                    Shown(section, name, values[name], _default(defaults[name]), unit, config.describe(name), is_set)
                )
    return shown


def _values(recipe: Recipe, section: str) -> dict[str, Any]:
    """As they will be; lengths in epochs as they are written."""
    settings: tuple[Settings | None, ...] = {
        "prep": lambda: (recipe.photos, recipe.prep),
        "train": lambda: (recipe.faces, recipe.train()),
        "eval": lambda: (recipe.eval_resources, recipe.measures),
        "export": lambda: (recipe.export,),
        "report": lambda: (recipe.page,),
    }[section]()
    values = {name: value for config in settings if config for name, value in config.model_dump(mode="json").items()}
    return values | {name: recipe.given[section][name] for name in recipe.in_epochs if section == "train"}


def _default(value: Any) -> Any:
    from pydantic_core import PydanticUndefined

    if value is PydanticUndefined:  # the recipe has to say it
        return None
    return list(value) if isinstance(value, tuple) else value


def _text(value: Any) -> str:
    if value is None or value in ("", []):
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)

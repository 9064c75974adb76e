"""A command's settings: its section of a recipe, if one is named; options win over that, and ``--set`` over both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from facegan.config import EvalConfig, ExportConfig, PrepConfig
from facegan.errors import SettingsError
from facegan.recipes.recipe import Recipe, of_class, read_written, set_over
from facegan.recipes.settings import FacesConfig, MeansConfig, PhotosConfig

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
        return PhotosConfig.of(of_class(PhotosConfig, values)), PrepConfig.of(of_class(PrepConfig, values))


def train_settings(
    options: Options, sets: Options, recipe: str | None = None, *, trust_code: bool = False
) -> tuple[FacesConfig, Recipe]:
    """As `prep_settings`. The second is asked for the `TrainConfig`, once it is known how many faces an epoch has."""
    read = _section("train", options, sets, recipe, trust_code)
    with read.located("train"):
        return FacesConfig.of(of_class(FacesConfig, read.given["train"])), read


def eval_settings(options: Options, sets: Options, recipe: str | None = None) -> tuple[MeansConfig, EvalConfig]:
    """As `prep_settings`."""
    read = _section("eval", options, sets, recipe)
    with read.located("eval"):
        values = read.given["eval"]
        return MeansConfig.of(of_class(MeansConfig, values)), EvalConfig.of(of_class(EvalConfig, values))


def export_settings(options: Options, sets: Options, recipe: str | None = None) -> ExportConfig:
    """As `prep_settings`."""
    read = _section("export", options, sets, recipe)
    with read.located("export"):
        return ExportConfig.of(read.given["export"])


def _section(section: str, options: Options, sets: Options, recipe: str | None, trust_code: bool = False) -> Recipe:
    read = read_written(recipe) if recipe else Recipe("", Path(), "", {section: {}}, {}, None, None, None)
    if section not in read.given:
        raise SettingsError(f"--recipe {recipe}: it has no [{section}], and so no settings for facegan {section}.")
    read.given[section] |= options
    for name in options:
        read.lines.pop((section, name), None)
    set_over(read, {section: sets})
    read.refuse_untrusted(trust_code, section)
    return read

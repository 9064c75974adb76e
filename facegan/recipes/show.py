"""Every setting of a recipe with its value, default, unit and meaning."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from facegan.config import Settings
from facegan.recipes.recipe import Recipe, defaults_of
from facegan.recipes.settings import SECTIONS
from facegan.recipes.units import UNITS


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
        "eval": lambda: (recipe.means, recipe.measures),
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

"""A run's settings, those marked that are not as its recipe or method has them; and the command that repeats it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from facegan.config import METHODS, TrainConfig, defaults_of_nets
from facegan.report.runs import Run


@dataclass(frozen=True)
class Baseline:
    """What a run's settings are held against: a recipe by its name, or "" and the method's defaults."""

    recipe: str
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"the recipe {self.recipe}" if self.recipe else "the method’s defaults"


@dataclass(frozen=True)
class Setting:
    """One setting as text. ``differs``: from the baseline."""

    name: str
    value: str
    default: str
    differs: bool
    meaning: str


def baseline_of(run: Run) -> Baseline:
    """The defaults of the run's method, with what its nets set apart."""
    values = json.loads(TrainConfig().model_dump_json())
    values |= defaults_of_nets(str(run.settings.get("nets"))) | METHODS.get(str(run.settings.get("method")), {})
    return Baseline("", values | {"method": run.settings.get("method"), "nets": run.settings.get("nets")})


def marked_settings(run: Run, baseline: Baseline) -> list[Setting]:
    """All settings of the training, those that differ first."""
    found = []
    for name in TrainConfig.model_fields:
        value = run.record["settings"].get(name, TrainConfig.default(name))
        default = baseline.settings.get(name, TrainConfig.default(name))
        differs = _plain(value) != _plain(default)
        found.append(Setting(name, _text(value), _text(default), differs, TrainConfig.describe(name)))
    return sorted(found, key=lambda setting: not setting.differs)


def repeating_command(run: Run) -> str:
    """The command that began the run; for one begun from Python, a command that begins the same."""
    if run.record.get("command"):
        return str(run.record["command"])
    base, settings = baseline_of(run), run.record["settings"]
    shards = run.record["dataset"]["path"] or "SHARDS"
    told = ["facegan", "train", "--shards", shards, "--run", str(run.folder), "--method", str(settings["method"])]
    for name in ("nets", *(name for name in settings if name not in ("method", "nets"))):
        default = TrainConfig.default("nets") if name == "nets" else base.settings.get(name)
        if name in settings and _plain(settings[name]) != _plain(default):
            told += ["--set", f"train.{name}={_bare(settings[name])}"]
    return shlex.join(told)


def _bare(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _text(value: Any) -> str:
    if value is None or value in ("", [], ()):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)

"""Sections of a run's page: its dataset, its metrics, its settings, and the command that repeats it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from facegan.config import METHODS, METRIC_TABLE, Settings, TrainConfig, defaults_of_nets
from facegan.console import shown
from facegan.errors import DatasetError
from facegan.evaluate.groups import read_audit
from facegan.manifests import completeness, known_datasets
from facegan.remote import is_url
from facegan.report.pictures import picture_file
from facegan.run_dir import EVALUATION, GROUPS, NEIGHBOURS, Evaluation, balance_of, count_of, read_evaluation
from facegan.shards.format import DATASET_FILE, PREVIEW_FILE, REASONS, DatasetInfo

if TYPE_CHECKING:
    from facegan.report.runs import Run

_SETTINGS = ("size", "channels", "crop", "margin", "detector", "faces", "min_score", "split")
_NOT_EVALUATED = "This run has not been evaluated. Do it with"
_BETTER = {"lower": "lower is better", "higher": "higher is better", "close to real": "best near that of real faces"}


def dataset_section(run: Run) -> dict[str, Any]:
    """The dataset of a run for the page. ``why``: only run.json's facts are shown; "" if all are."""
    record = run.record["dataset"]
    path = str(record["path"])
    info, why = _read_dataset(path)
    if info and record["fingerprint"] not in (info.faces_fingerprints(split)[-1] for split in info.splits):
        info, why = None, f"{path} has changed since this run started."
    facts = {name: record[name] for name in ("path", "faces", "size")}
    facts["balance"] = balance_of(run.record["settings"])
    facts |= {"name": Path(path).name or "faces in memory", "channels": record.get("channels", 3)}
    if info is None:
        return {**facts, "why": why, "terms": "", "preview": None}
    known = known_datasets().get(info.data_set)
    return {
        **facts,
        "why": "",
        "photos": info.totals.photos,
        "kept": info.totals.kept,
        "rejected": reasons_of(info),
        "settings": {name: info.settings[name] for name in _SETTINGS if name in info.settings},
        "of": completeness(known, info.totals.photos) if known else "",
        "terms": known.terms if known else "",
        "preview": picture_file(Path(path) / PREVIEW_FILE),
    }


def reasons_of(info: DatasetInfo) -> list[tuple[str, str, int]]:
    """Why photographs were rejected, what that means, and how many, the most frequent first."""
    rejected = info.totals.rejected
    order = sorted(rejected, key=lambda reason: (rejected[reason], reason), reverse=True)
    return [(reason, REASONS.get(reason, ""), rejected[reason]) for reason in order if rejected[reason]]


def _read_dataset(path: str) -> tuple[DatasetInfo | None, str]:
    if not path:
        return None, "The faces were in memory: nothing more is known about them."
    with suppress(OSError):  # an impossible name
        if not is_url(path) and (Path(path) / DATASET_FILE).is_file():
            try:
                return DatasetInfo.read(Path(path)), ""
            except DatasetError as error:
                return None, str(error)
    return None, f"{path} is not available here, so kept and rejected photographs are not shown."


class MetricRow(NamedTuple):
    """A metric's value and that of real faces; ``what`` is "" for unknown metrics."""

    name: str
    value: float
    real_vs_real: float | None
    what: str


def metrics_section(run: Path) -> dict[str, Any]:
    """What `facegan eval` wrote; or ``why`` there are no metrics, and the command that computes them."""
    path, found = run / EVALUATION, read_evaluation(run)
    if found is None or not (found.metrics or found.absent):
        why = f"{path} cannot be read. Write it again with" if path.is_file() else _NOT_EVALUATED
        return {"why": why, "command": f"facegan eval {shlex.quote(str(run))} --shards OUT"}
    return {
        "why": "",
        "metrics": [
            MetricRow(name, value, found.real_vs_real.get(name), _what(name)) for name, value in found.metrics.items()
        ],
        "skipped": list(found.absent.items()),
        "warnings": found.warnings,
        "protocol": _flatten(found.measured) + _flatten(found.protocol),
        "neighbours": picture_file(run / NEIGHBOURS) if found.neighbours else None,  # else it is of other samples
        "groups": _groups(run, found),
    }


def _groups(run: Path, found: Evaluation) -> dict[str, Any] | None:
    """Shares of groups for the page, those that are missed first; None if they were not compared."""
    audit, dataset = read_audit(found.groups), found.protocol.get("dataset")
    if not audit or not audit.groups:
        return None
    rest = sorted(
        (group for group in audit.groups if not group.is_missed and len(group.terms) == 1),
        key=lambda group: -group.real,
    )
    words = ["facegan", "train", "--shards", str(dataset.get("path")) if isinstance(dataset, dict) else "OUT"]
    method, images = str(found.measured.get("method")), count_of(found.measured.get("images_trained"))
    known = (["--method", method] if method in METHODS else []) + (["--images", str(images)] if images else [])

    def command(option: str, value: str) -> str:
        name = "conditional" if option == "--condition" else "balanced"
        return shown(shlex.join([*words, "--run", f"{run}-{name}", *known, option, value]))

    commands = [[command(*remedy) for remedy in group.remedies] for group in audit.missed]
    return {
        "rows": [*audit.missed, *rest],
        "missed": list(zip(audit.sentences, commands, strict=True)),
        "obedience": audit.obedience,
        "left_out": [f"{', '.join(map(shown, names))}: {why}" for why, names in audit.reasons.items()],
        "picture": picture_file(run / GROUPS) if audit.missed else None,
    }


def _what(name: str) -> str:
    known = METRIC_TABLE.get(name)
    if known is None and name.startswith("swd_"):
        return f"of details at {name.removeprefix('swd_')} px"
    return f"{known.what}; {_BETTER.get(known.better, known.better)}" if known else ""


def _flatten(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Names and texts: ``{"a": {"b": 1}}`` → ``[("a.b", "1")]``."""
    if not isinstance(value, dict):
        return [(name, ", ".join(map(str, value)) if isinstance(value, list) else str(value))]
    return [pair for key, part in value.items() for pair in _flatten(part, f"{name}.{key}" if name else str(key))]


@dataclass(frozen=True)
class Baseline:
    """Settings to compare with: those of a recipe, or the method's defaults if ``recipe`` is ""."""

    recipe: str
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"the recipe {self.recipe}" if self.recipe else "the method’s defaults"


class Setting(NamedTuple):
    """One setting as text. ``differs``: from the baseline."""

    name: str
    value: str
    default: str
    differs: bool
    meaning: str


def baseline_of(run: Run) -> Baseline:
    """The defaults of the run's method and nets."""
    method, nets = run.settings.get("method"), run.settings.get("nets")
    values = json.loads(TrainConfig().model_dump_json())
    values |= defaults_of_nets(str(nets)) | METHODS.get(str(method), {})
    return Baseline("", values | {"method": method, "nets": nets})


def settings_diff(run: Run, baseline: Baseline) -> list[Setting]:
    """All settings of the training, those that differ first."""
    return compared_settings(TrainConfig, {**run.settings, **run.record["settings"]}, baseline.settings)


def compared_settings(config: type[Settings], values: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[Setting]:
    """All settings of a class, those that differ first."""
    found = []
    for name in config.model_fields:
        value, default = values[name], defaults[name]
        found.append(Setting(name, _text(value), _text(default), value != default, config.describe(name)))
    return sorted(found, key=lambda setting: not setting.differs)


def repeating_command(run: Run) -> str:
    """The command that started the run, or an equivalent one for a run started from Python."""
    if run.record.get("command"):
        # A length that was a time: as the number of images that was measured.
        number = f" --set train.images={run.record['settings']['images']}" if run.record.get("time") else ""
        return f"{run.record['command']}{number}"
    baseline, settings = baseline_of(run), run.record["settings"]
    shards = run.record["dataset"]["path"] or "SHARDS"
    words = ["facegan", "train", "--shards", shards, "--run", str(run.folder), "--method", str(settings["method"])]
    for name, value in {"nets": settings["nets"], **settings}.items():
        default = TrainConfig.default("nets") if name == "nets" else baseline.settings.get(name)
        if name != "method" and value != default:
            words += ["--set", f"train.{name}={_option(value)}"]
    return shlex.join(words)


def _option(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _text(value: Any) -> str:
    if value is None or value in ("", [], ()):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)

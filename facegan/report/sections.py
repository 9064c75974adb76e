"""Sections of a run's page: its dataset, its metrics, its settings, and the command that repeats it."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facegan.config import METHODS, METRIC_TABLE, TrainConfig, defaults_of_nets
from facegan.errors import DatasetError
from facegan.manifests import completeness, known_datasets
from facegan.remote import is_url
from facegan.report.pictures import Picture, picture_file
from facegan.report.runs import Run
from facegan.run_dir import EVALUATION, NEIGHBOURS, read_evaluation
from facegan.shards.format import DATASET_FILE, PREVIEW_FILE, REASONS, DatasetInfo

_SETTINGS = ("size", "channels", "crop", "margin", "detector", "faces", "min_score", "split")
_BETTER = {"less": "less is better", "more": "more is better", "as real": "best near the value of real faces"}


@dataclass(frozen=True)
class DatasetSection:
    """The dataset of a run.

    Attributes:
        path: "" for faces in memory.
        why: why only run.json's facts are shown, "" if all are.
        rejected: reason, meaning and count, the most frequent first.
        of: how complete it is, if it is a known data set.
        terms: those of the photographs, if known.
    """

    path: str
    faces: int
    size: int
    channels: int
    why: str = ""
    photos: int = 0
    kept: int = 0
    rejected: list[tuple[str, str, int]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    of: str = ""
    terms: str = ""
    preview: Picture | None = None

    @property
    def name(self) -> str:
        return Path(self.path).name or "faces in memory"


def dataset_section(run: Run) -> DatasetSection:
    record = run.record["dataset"]
    facts: dict[str, Any] = {name: record[name] for name in ("path", "faces", "size", "channels") if name in record}
    facts = {"channels": 3, **facts}
    path = str(record["path"])
    info, why = _read_dataset(path)
    if info is None:
        return DatasetSection(**facts, why=why)
    if not _has_fingerprint(info, record["fingerprint"]):
        return DatasetSection(**facts, why=f"{path} has changed since this run started.")
    known = known_datasets().get(info.data_set)
    rejected = sorted(((count, reason) for reason, count in info.totals.rejected.items() if count), reverse=True)
    return DatasetSection(
        **facts,
        photos=info.totals.photos,
        kept=info.totals.kept,
        rejected=[(reason, REASONS.get(reason, ""), count) for count, reason in rejected],
        settings={name: info.settings[name] for name in _SETTINGS if name in info.settings},
        of=completeness(known, info.totals.photos) if known else "",
        terms=known.terms if known else "",
        preview=picture_file(Path(path) / PREVIEW_FILE),
    )


def _read_dataset(path: str) -> tuple[DatasetInfo | None, str]:
    if not path:
        return None, "The faces were in memory: nothing more is known about them."
    file = Path(path) / DATASET_FILE
    with suppress(OSError):  # an impossible name
        if not is_url(path) and file.is_file():
            try:
                return DatasetInfo.read(Path(path)), ""
            except DatasetError as error:
                return None, str(error)
    return None, f"{path} is not available here, so kept and rejected photographs are not shown."


def _has_fingerprint(info: DatasetInfo, fingerprint: str) -> bool:
    """Whether a run saw one of its splits; a fingerprint is a checksum of the shards' checksums."""
    for split in info.splits:
        checksums = "".join(shard.sha256 for shard in info.split_shards(split))
        if fingerprint in (hashlib.sha256(f"{checksums}{end}".encode()).hexdigest() for end in ("", " 1")):
            return True
    return False


@dataclass(frozen=True)
class MetricRow:
    """A metric's value and that of real faces; ``what`` is "" for unknown metrics."""

    name: str
    value: float
    real_vs_real: float | None
    what: str = ""


@dataclass(frozen=True)
class MetricsSection:
    """What `facegan eval` wrote.

    Attributes:
        why, command: why there are no metrics, and the command that computes them; "" if there are.
        measured, protocol: names and texts; nested names are joined by dots.
    """

    why: str = ""
    command: str = ""
    metrics: list[MetricRow] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    measured: list[tuple[str, str]] = field(default_factory=list)
    protocol: list[tuple[str, str]] = field(default_factory=list)
    neighbours: Picture | None = None


def metrics_section(run: Path) -> MetricsSection:
    path = run / EVALUATION
    command = f"facegan eval {shlex.quote(str(run))} --shards OUT"
    if not path.is_file():
        return MetricsSection("This run has not been evaluated. Do it with", command)
    found = read_evaluation(run)
    if found is None or not (found.metrics or found.absent):
        return MetricsSection(f"{path} cannot be read. Write it again with", command)
    return MetricsSection(
        metrics=[MetricRow(name, value, found.floors.get(name), _what(name)) for name, value in found.metrics.items()],
        skipped=list(found.absent.items()),
        warnings=list(found.warnings),
        measured=_flatten(found.measured),
        protocol=_flatten(found.protocol),
        neighbours=picture_file(run / NEIGHBOURS) if found.neighbours else None,  # else it is of other samples
    )


def _what(name: str) -> str:
    known = METRIC_TABLE.get(name)
    if known is None and name.startswith("swd_"):
        return f"of details at {name.removeprefix('swd_')} px"
    return f"{known.what}; {_BETTER.get(known.better, known.better)}" if known else ""


def _flatten(value: Any, name: str = "") -> list[tuple[str, str]]:
    """``{"a": {"b": 1}}`` → ``[("a.b", "1")]``."""
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


@dataclass(frozen=True)
class Setting:
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
    found = []
    for name in TrainConfig.model_fields:
        value = run.record["settings"].get(name, TrainConfig.default(name))
        default = baseline.settings.get(name, TrainConfig.default(name))
        differs = _plain(value) != _plain(default)
        found.append(Setting(name, _text(value), _text(default), differs, TrainConfig.describe(name)))
    return sorted(found, key=lambda setting: not setting.differs)


def repeating_command(run: Run) -> str:
    """The command that started the run, or an equivalent one for a run started from Python."""
    if run.record.get("command"):
        return str(run.record["command"])
    baseline, settings = baseline_of(run), run.record["settings"]
    shards = run.record["dataset"]["path"] or "SHARDS"
    words = ["facegan", "train", "--shards", shards, "--run", str(run.folder), "--method", str(settings["method"])]
    for name in ("nets", *(name for name in settings if name not in ("method", "nets"))):
        default = TrainConfig.default("nets") if name == "nets" else baseline.settings.get(name)
        if name in settings and _plain(settings[name]) != _plain(default):
            words += ["--set", f"train.{name}={_option(settings[name])}"]
    return shlex.join(words)


def _option(value: Any) -> str:
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

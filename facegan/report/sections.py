"""What a run was trained on, as far as it can still be looked at from here."""

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
from facegan.shards.format import DATASET_FILE, PREVIEW_FILE, DatasetInfo

_MEANINGS = {
    "unreadable": "no image, or a damaged one",
    "truncated": "rows are missing",
    "too_large": "over the limit of pixels",
    "too_small": "smaller than its crop",
    "no_face": "no face was found",
    "low_score": "a face, but an uncertain one",
    "bad_keypoints": "eyes and mouth in no order that a face has",
    "several_faces": "more than one face",
    "off_edge": "too much of the crop lies outside",
    "blurry": "less sharp than asked for",
    "duplicate": "the same file as another",
    "unreachable": "its server stayed away",
    "crashed": "its decoder died of it",
}
_SETTINGS = ("size", "channels", "crop", "margin", "detector", "faces", "min_score", "split")


@dataclass(frozen=True)
class DatasetSection:
    """The dataset of a run.

    Attributes:
        path: as the run was told it; "" for faces in memory.
        why: why no more can be said than what run.json tells; "" where all can.
        rejected: reason, meaning and count, the most frequent first.
        terms: what may be done with the photographs, where facegan knows them.
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
    told = run.record["dataset"]
    found: dict[str, Any] = {name: told[name] for name in ("path", "faces", "size", "channels") if name in told}
    found = {"channels": 3, **found}
    path = str(told["path"])
    info, why = _dataset(path)
    if info is None:
        return DatasetSection(**found, why=why)
    if not _is_same(info, told["fingerprint"]):
        why = f"{path} has changed since this run began: what stands there now is another dataset."
        return DatasetSection(**found, why=why)
    known = known_datasets().get(info.data_set)
    rejected = sorted(((count, reason) for reason, count in info.totals.rejected.items() if count), reverse=True)
    return DatasetSection(
        **found,
        photos=info.totals.photos,
        kept=info.totals.kept,
        rejected=[(reason, _MEANINGS.get(reason, ""), count) for count, reason in rejected],
        settings={name: info.settings[name] for name in _SETTINGS if name in info.settings},
        of=completeness(known, info.totals.photos) if known else "",
        terms=known.terms if known else "",
        preview=picture_file(Path(path) / PREVIEW_FILE),
    )


def _dataset(path: str) -> tuple[DatasetInfo | None, str]:
    if not path:
        return None, "The faces lay in memory: nothing more is known of them."
    if is_url(path) or not _is_file(Path(path) / DATASET_FILE):
        return None, f"{path} can’t be looked at from here, so what was kept and rejected is not shown."
    try:
        return DatasetInfo.read(Path(path)), ""
    except DatasetError as error:
        return None, str(error)


def _is_file(path: Path) -> bool:
    with suppress(OSError):  # of a name that no file can have
        return path.is_file()
    return False


def _is_same(info: DatasetInfo, fingerprint: str) -> bool:
    """Whether one of its splits is what the run saw, whose fingerprint is of the shards' sums."""
    for split in info.splits:
        sums = "".join(shard.sha256 for shard in info.split_shards(split))
        if fingerprint in (hashlib.sha256(f"{sums}{end}".encode()).hexdigest() for end in ("", " 1")):
            return True
    return False


# What ``facegan eval`` left beside a run: eval.json and neighbours.png.


@dataclass(frozen=True)
class Metric:
    """One metric: its value, and what real faces come to beside other real ones.

    Attributes:
        what: in a few words, and which way is better; "" where this facegan does not know the metric.
    """

    name: str
    value: float
    floor: float | None
    what: str = ""


@dataclass(frozen=True)
class MetricsSection:
    """What is shown of it.

    Attributes:
        why: why nothing is; "" where something is.
        command: what would mend that.
        measured, protocol: names and texts, nested ones joined by dots.
    """

    why: str = ""
    command: str = ""
    metrics: list[Metric] = field(default_factory=list)
    absent: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    measured: list[tuple[str, str]] = field(default_factory=list)
    protocol: list[tuple[str, str]] = field(default_factory=list)
    neighbours: Picture | None = None


def metrics_section(run: Path) -> MetricsSection:
    path = run / EVALUATION
    command = f"facegan eval {shlex.quote(str(run))} --shards OUT"
    if not path.is_file():
        return MetricsSection("This run was not measured yet. Its numbers stand here after", command)
    found = read_evaluation(run)
    if found is None or not (found.metrics or found.absent):
        return MetricsSection(f"{path} can’t be read. It is written anew by", command)
    return MetricsSection(
        metrics=[Metric(name, value, found.floors.get(name), _what(name)) for name, value in found.metrics.items()],
        absent=list(found.absent.items()),
        warnings=list(found.warnings),
        measured=_flat(found.measured),
        protocol=_flat(found.protocol),
        # One that an earlier evaluation left is of other samples.
        neighbours=picture_file(run / NEIGHBOURS) if found.neighbours else None,
    )


def _what(name: str) -> str:
    known = METRIC_TABLE.get(name)
    if known is None and name.startswith("swd_"):
        return f"of details at {name.removeprefix('swd_')} px"
    better = {"less": "less is better", "more": "more is better", "as real": "as real faces have it"}
    return f"{known.what}; {better[known.better]}" if known else ""


def _flat(told: Any, before: str = "") -> list[tuple[str, str]]:
    """``{"a": {"b": 1}}`` → ``[("a.b", "1")]``."""
    if not isinstance(told, dict):
        text = ", ".join(map(str, told)) if isinstance(told, list) else str(told)
        return [(before, text)]
    return [pair for name, value in told.items() for pair in _flat(value, f"{before}.{name}" if before else str(name))]


# A run's settings, those marked that are not as its recipe or method has them; and the command that repeats it.


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

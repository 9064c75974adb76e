"""The files of a run's folder, for rooms that do not import training: their names, and their content.

Anyone may have edited these files: a value of an unexpected type is dropped, and the rest is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

from facegan.errors import CheckpointError, DamagedFile, SettingsError
from facegan.files import parsing, read_json

RECORD, CHECKPOINTS, STATE = "run.json", "checkpoints", "state.json"  # each checkpoint has a state
EVALUATION, NEIGHBOURS, GROUPS, BEST = "eval.json", "neighbours.png", "groups.png", "best.json"
REPORT, DATASET_PAGE = "report.html", "dataset.html"  # the latter beside the report of a recipe's run
_MOST_BYTES = 10_000_000
_GRID_NAME = re.compile(r"\d{1,18}\.png", re.ASCII)


def report_path(folder: Path, explore: bool) -> Path:
    """The page of a run or a dataset; with ``explore`` the folder of a page that draws new faces."""
    return folder / ("explorer" if explore else REPORT)


def check_report_path(out: Path, explore: bool = False) -> None:
    """Raise SettingsError unless a page is named .html and an explorer's folder is not."""
    is_page = out.suffix.lower() in (".html", ".htm")
    if explore == is_page:
        rule = f"with --explore it is a folder. Remove {out.suffix}." if explore else "use a name that ends in .html."
        raise SettingsError(f"--out {out}: {rule}")


def newest_images(run: Path) -> int | None:
    """The images of a run's newest checkpoint, from which the run's generator was written."""
    return next((int(path.name) for path in checkpoint_folders(run)), None)


def best_images(run: Path) -> int:
    """The images of the run's best checkpoint; 0 if it was not evaluated, or best.json is damaged."""
    return count_of(read_facts(run / BEST).get("images")) or 0


def checkpoint_folders(run: Path) -> list[Path]:
    """Folders of the run's checkpoints, named by the images trained on, the newest first."""
    folders = [path for path in (run / CHECKPOINTS).glob("*") if path.name.isdecimal() and path.is_dir()]
    return sorted(folders, key=lambda path: int(path.name), reverse=True)


def run_title(folder: Path) -> str:
    """The folder's name; ``EXPERIMENT/run`` for a run of ``facegan run``."""
    *_, above, name = ("", *folder.resolve().parts)
    return f"{above}/{name}" if name == "run" else name


def sample_grids(run: Path) -> list[tuple[int, Path]]:
    """The number of images and the file of every grid of a run, in order."""
    found = [(int(path.stem), path) for path in (run / "samples").glob("*.png") if _GRID_NAME.fullmatch(path.name)]
    return sorted(found)


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number that fits a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e300


def count_of(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 2**63 else None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _valid(is_valid: Callable[[Any], bool]) -> BeforeValidator:
    """Keeps the valid values of an object."""
    return BeforeValidator(lambda value: {name: each for name, each in _mapping(value).items() if is_valid(each)})


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _lines(value: Any) -> tuple[str, ...]:
    return tuple(filter(_is_text, value)) if isinstance(value, list) else ()


Mapping = Annotated[dict[str, Any], BeforeValidator(_mapping)]
Text = Annotated[str, BeforeValidator(lambda value: value if _is_text(value) else "")]
Texts = Annotated[dict[str, str], _valid(_is_text)]
Numbers = Annotated[dict[str, float], _valid(is_number)]
Count = Annotated[int | None, BeforeValidator(count_of)]
Counts = Annotated[dict[str, int], _valid(lambda value: count_of(value) is not None)]


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class DatasetFacts(_Facts):
    """The dataset of a run."""

    path: Text = ""
    fingerprint: Text = ""
    faces: Count = None
    size: Count = None


class RunFacts(_Facts):
    """The valid values of run.json."""

    settings: Mapping = {}
    precision: Text = ""
    parameters: Counts = {}
    versions: Texts = {}
    dataset: Annotated[DatasetFacts, BeforeValidator(_mapping)] = DatasetFacts()


class Evaluation(_Facts):
    """The valid values of eval.json."""

    metrics: Numbers = {}
    real_vs_real: Numbers = Field({}, alias="floors")
    absent: Texts = {}
    warnings: Annotated[tuple[str, ...], BeforeValidator(_lines)] = ()
    measured: Mapping = {}
    protocol: Mapping = {}
    neighbours: Any = None
    groups: Mapping = {}


def balance_of(settings: dict[str, Any]) -> str:
    """The shares of attributes that a training chose, as text; "" if none."""
    by = settings.get("balance_by")
    texts = [str(settings.get("balance") or ""), f"{by} in equal parts" if by else ""]
    return ", ".join(text for text in texts if text)


def read_facts(path: Path) -> dict[str, Any]:
    """A JSON object; empty if it is missing or damaged."""
    try:
        return _mapping(read_json(path)) if path.stat().st_size < _MOST_BYTES else {}
    except (OSError, DamagedFile):
        return {}


def read_run(run: Path) -> RunFacts | None:
    """None if run.json is missing or damaged."""
    facts = read_facts(run / RECORD)
    return RunFacts.model_validate(facts) if facts else None


def read_evaluation(folder: Path) -> Evaluation | None:
    """None if eval.json is missing or has no metrics."""
    facts = read_facts(folder / EVALUATION)
    return Evaluation.model_validate(facts) if isinstance(facts.get("metrics"), dict) else None


@dataclass(frozen=True)
class Best:
    """The lowest value of the metric so far, and the images of its checkpoint."""

    metric: str
    value: Annotated[float, Field(ge=-1e300, le=1e300, strict=True)]
    images: Annotated[int, Field(ge=0, lt=2**63, strict=True)]


def read_best(run: Path) -> Best | None:
    """The content of best.json; None if there was no evaluation, CheckpointError if it is damaged."""
    path = run / BEST
    try:
        values = read_json(path)
        with parsing(path):
            return TypeAdapter(Best).validate_python(values)
    except FileNotFoundError:
        return None
    except (OSError, DamagedFile):
        raise CheckpointError(f"{path} is damaged. The run's next checkpoint rewrites it.") from None

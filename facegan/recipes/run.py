"""`run_recipe`: the stages of an experiment that are out of date, one after the other."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import TypeAdapter

from facegan import __version__
from facegan.console import Console
from facegan.errors import CheckpointError, DamagedFile, DatasetError, FaceganError, SettingsError
from facegan.files import exclusive, make_folder, parsing, read_json, write_json
from facegan.recipes.fingerprint import GONE, signature
from facegan.recipes.recipe import Recipe, is_local, read_recipe
from facegan.recipes.stages import PrepStage, Stage, stages_of
from facegan.recipes.train_stage import TrainStage
from facegan.report.runs import Run
from facegan.report.sections import Baseline

# By which recipe a run was begun, and what that says of its training.


def recipe_of_run(run: Run) -> Baseline | None:
    """What the run's settings are held against: the recipe that its command names, as it stands now; else None."""
    try:
        words = shlex.split(str(run.record.get("command", "")))
        name = words[words.index("--recipe") + 1] if "--recipe" in words else _of_run(words)
        return recipe_baseline(read_recipe(name), run.record["dataset"]["faces"]) if name else None
    except (FaceganError, ValueError, IndexError):  # it has gone, or is not what it was
        return None


def recipe_baseline(recipe: Recipe, faces: int) -> Baseline:
    """``faces``: how many an epoch shows, where a length is given in epochs."""
    return Baseline(recipe.name, json.loads(recipe.train(faces).model_dump_json()))


def _of_run(words: list[str]) -> str:
    """``facegan run RECIPE``: the first word behind ``run`` that is neither an option nor one's value."""
    behind = words[2:] if words[1:2] == ["run"] else []
    valued = {"--set", "--to"}
    return next(
        (word for i, word in enumerate(behind) if not word.startswith("-") and (i == 0 or behind[i - 1] not in valued)),
        "",
    )


# What an experiment's folder tells of its stages: from what each was made, what came of it, and so what is to be done.
#
# One small file, written anew after each stage. Where it is gone or damaged every stage is asked again, and finds out
# by itself what it has: nothing of it is lost.

FORMAT = 1
RECORD_FILE = ".facegan-run.json"
SUMS = (
    "photographs",
    "faces",
    "generator",
    "code of nets",
    "code of loss",
)  # inputs that are digests, and so mean nothing to people


@dataclass(frozen=True)
class StageRecord:
    """A stage that was done.

    Attributes:
        version: the facegan that did it; another one asks the stage again, which knows its formats.
        inputs: settings and what there was to see of files, by name, as plain values.
        outputs: size and time of each file that has to stay.
        digest: of all of these, so that a record which was edited or cut is not believed.
        result: what came of it.
    """

    version: str
    inputs: dict[str, Any]
    outputs: dict[str, list[int]]
    result: dict[str, Any]
    seconds: float
    digest: str = ""

    def digest_of(self) -> str:
        told = json.dumps([FORMAT, self.version, self.inputs, self.outputs, self.result], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()

    def why_again(self, inputs: dict[str, Any], outputs: dict[str, list[int]]) -> str:
        """Why it is out of date beside what there is now, in a few words; "" where it is not."""
        if self.digest != self.digest_of():
            return "its record is damaged"
        if self.version != __version__:
            return f"it was made by facegan {self.version}"
        for name in {**inputs, **self.inputs}:
            then, now = self.inputs.get(name), inputs.get(name)
            if then != now:
                return f"{name} changed" if name in SUMS else f"{name} is {now}, and was {then}"
        for name, told in outputs.items():
            if self.outputs.get(name) != told:
                return f"{name} has changed" if told else f"{name} is gone"
        return ""


_STAGES = TypeAdapter(dict[str, StageRecord])


@dataclass
class Record:
    """The stages of an experiment that were done, by name."""

    folder: Path
    stages: dict[str, StageRecord] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self:
        try:
            told = read_json(folder / RECORD_FILE)
            with parsing(folder / RECORD_FILE):
                stages = _STAGES.validate_python(told["stages"] if told["format"] == FORMAT else {})
        except (OSError, DamagedFile):
            stages = {}
        return cls(folder, stages)

    def add(self, name: str, recipe: str, made: StageRecord) -> None:
        """
        Raises:
            DiskError: the record can't be written.
        """
        self.stages[name] = StageRecord(**{**vars(made), "digest": made.digest_of()})
        stages = {name: vars(made) for name, made in self.stages.items()}
        write_json(self.folder / RECORD_FILE, {"format": FORMAT, "recipe": recipe, "stages": stages})


_LOCK = ".facegan-run.lock"
# Ways out that prep and train name where other work stands in their folder, and that this command has not.
_ELSEWHERE = ("--force", "--resume never")


@dataclass(frozen=True)
class Row:
    """A stage in the table at the end.

    Attributes:
        told: what came of it, or would be done, in a few words.
        why: it is to be done; "" where it is not.
        seconds: of this start.
        result: what came of it, as prep and train give it.
    """

    stage: str
    state: Literal["done", "up to date", "to do"]
    told: str
    why: str
    seconds: float
    where: str
    result: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def default_folder(recipe: Recipe) -> Path:
    return Path("runs") / recipe.name


def run_recipe(
    recipe: Recipe,
    to: Path,
    *,
    console: Console | None = None,
    command: list[str] | None = None,
    trust_code: bool = False,
) -> list[Row]:
    """Brings every stage of an experiment up to date. Stopped, the same call goes on.

    A stage is up to date where its settings, what there is to see of what it is made from, and what has to stay of it
    are as they were when it was done, by this version of facegan. Seen of files are their names, sizes and times
    (`facegan.recipes.run`); of a dataset the sums in its dataset.json; nothing of what lies behind a URL: photographs
    that came there are added by ``facegan prep``.

    Args:
        to: the experiment's folder: ``faces``, ``run``, ``samples.png``, and the record of what was done.
        command: recorded in run.json.
        trust_code: modules and commands that the recipe's file and generators name may run; those of ``--set`` always
            may.

    Raises:
        SettingsError: the recipe can't be run: it names code that is not trusted, a file is missing, or settings do not
            go with what stands in ``to``.
        FaceganError: whatever a stage raises.
    """
    console, stages = console or Console(quiet=True), stages_of(recipe, to, trust_code)
    _refuse_many_processes(recipe, to)
    if not _to_do(stages, Record.read(to)):
        record = Record.read(to)
        return [_standing(stage, record) for stage in stages]
    recipe.refuse_untrusted(trust_code)
    _check(recipe, stages, to)
    make_folder(to)
    with exclusive(to / _LOCK, f"Another facegan run is at work in {to}"):
        record, rows = Record.read(to), []
        for number, stage in enumerate(stages, 1):
            why, inputs = _why(stage, record)
            if not why:
                rows.append(_standing(stage, record))
                continue
            console.note(f"{number} of {len(stages)}: {stage.title()}")
            start = time.monotonic()
            with _way_out(stage, to):
                result = stage.do(console, command or [])
            seconds = round(time.monotonic() - start, 1)
            record.add(stage.name, recipe.name, StageRecord(__version__, inputs, _seen(stage), result, seconds))
            rows.append(Row(stage.name, "done", stage.tell(result), why, seconds, stage.where, result))
        return rows


def plan_recipe(recipe: Recipe, to: Path) -> list[Row]:
    """What `run_recipe` would do with the same arguments. Touches nothing, and runs no code that ``recipe.code`` names;
    raises what it would before it begins."""
    stages, record, rows = stages_of(recipe, to), Record.read(to), []
    _refuse_many_processes(recipe, to)
    todo = _to_do(stages, record)
    if todo:
        _check(recipe, stages, to, try_code=False)
    for stage in stages:
        if stage.name in todo:
            with _way_out(stage, to):
                rows.append(Row(stage.name, "to do", stage.plan(), todo[stage.name], 0.0, stage.where, {}))
        else:
            rows.append(_standing(stage, record))
    return rows


def _to_do(stages: list[Stage], record: Record) -> dict[str, str]:
    """Stages that are out of date, and those that come after them, with the reason."""
    todo: dict[str, str] = {}
    for stage in stages:
        if todo:
            todo[stage.name] = f"after {next(reversed(todo))}"
        elif why := _why(stage, record)[0]:
            todo[stage.name] = why
    return todo


def _why(stage: Stage, record: Record) -> tuple[str, dict[str, Any]]:
    """Why a stage is out of date ("" where it is not), and what it is now made from."""
    made, inputs = record.stages.get(stage.name), stage.inputs()
    if made is None:
        return "not done yet", inputs
    try:
        with parsing(RECORD_FILE):
            stage.tell(made.result)
    except DamagedFile:
        return "its record is damaged", inputs
    if inputs.get("photographs") == GONE:  # whoever deletes the photographs keeps their faces
        inputs["photographs"] = made.inputs.get("photographs")
    return made.why_again(inputs, _seen(stage)), inputs


def _seen(stage: Stage) -> dict[str, list[int]]:
    return {path.name: signature(path) or [] for path in stage.outputs()}


def _standing(stage: Stage, record: Record) -> Row:
    result = record.stages[stage.name].result
    return Row(stage.name, "up to date", stage.tell(result), "", 0.0, stage.where, result)


def _check(recipe: Recipe, stages: list[Stage], to: Path, *, try_code: bool = True) -> None:
    """All that can be known to fail before anything is done.

    Raises:
        SettingsError: a file is missing, the nets do not fit the size, or the folder lies among the photographs.
    """
    record = Record.read(to)
    prep = next((stage for stage in stages if isinstance(stage, PrepStage)), None)
    stands = prep is not None and prep.name in record.stages and not _why(prep, record)[0]
    recipe.refuse_missing_files(frozenset({("prep", "source")}) if stands else frozenset())
    if prep and not prep.drawn and is_local(prep.source) and Path(prep.source).is_dir():
        photos = Path(prep.source).resolve()
        if to.resolve().is_relative_to(photos):
            raise SettingsError(
                f"{to} lies in {prep.source}, among the photographs: the training's pictures would be taken for some.\n"
                "Choose another folder with --to."
            )
    train = next((stage for stage in stages if isinstance(stage, TrainStage)), None)
    if prep and train and not stands:
        train.refuse_unfit_nets(prep.config.size, prep.config.channels, try_code)


@contextlib.contextmanager
def _way_out(stage: Stage, to: Path) -> Iterator[None]:
    """Where other work stands in a stage's folder it refuses; what to do about it here is told behind its sentence."""
    try:
        yield
    except (DatasetError, SettingsError, CheckpointError) as error:
        if not any(option in str(error) for option in _ELSEWHERE):
            raise
        raise type(error)(
            f"{error}\nWith facegan run: another folder by --to, or delete {stage.where} and start again."
        ) from None


def _refuse_many_processes(recipe: Recipe, to: Path) -> None:
    """torchrun starts every process with the whole command: each would prepare the photographs.

    Raises:
        SettingsError: there are several.
    """
    if recipe.faces and os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        raise SettingsError(
            "facegan run is one process. For several GPUs make the faces by it, and start the training by hand:\n"
            f"torchrun --nproc-per-node N -m -- facegan train --shards {to / 'faces'} --set train.NAME=VALUE …"
        )

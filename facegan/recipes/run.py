"""`run_recipe`: the stages of an experiment that are out of date, one after the other."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from facegan import __version__
from facegan.console import Console
from facegan.errors import CheckpointError, DamagedFile, DatasetError, SettingsError
from facegan.files import exclusive, make_folder, parsing
from facegan.recipes.recipe import Recipe, is_local
from facegan.recipes.record import RECORD_FILE, Made, Record
from facegan.recipes.seen import GONE, signature
from facegan.recipes.stage import Stage
from facegan.recipes.stages import stages_of
from facegan.recipes.to_faces import Prep
from facegan.recipes.to_generator import Train

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
    (`facegan.recipes.seen`); of a dataset the sums in its dataset.json; nothing of what lies behind a URL: photographs
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
            record.add(stage.name, recipe.name, Made(__version__, inputs, _seen(stage), result, seconds))
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
    prep = next((stage for stage in stages if isinstance(stage, Prep)), None)
    stands = prep is not None and prep.name in record.stages and not _why(prep, record)[0]
    recipe.refuse_missing_files(frozenset({("prep", "source")}) if stands else frozenset())
    if prep and not prep.drawn and is_local(prep.source) and Path(prep.source).is_dir():
        photos = Path(prep.source).resolve()
        if to.resolve().is_relative_to(photos):
            raise SettingsError(
                f"{to} lies in {prep.source}, among the photographs: the training's pictures would be taken for some.\n"
                "Choose another folder with --to."
            )
    train = next((stage for stage in stages if isinstance(stage, Train)), None)
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

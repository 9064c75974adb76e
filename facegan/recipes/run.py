"""`run_recipe`: the stages of an experiment that are out of date, one after the other."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from facegan import __version__
from facegan.console import Console
from facegan.errors import CheckpointError, DatasetError, FaceganError, SettingsError
from facegan.files import exclusive, make_folder, write_json
from facegan.recipes.recipe import MISSING, Recipe, is_local, read_recipe, size_and_time
from facegan.recipes.stages import Stage, refuse_unfit_nets, stages_of
from facegan.run_dir import read_facts

RECORD_FILE, _LOCK = ".facegan-run.json", ".facegan-run.lock"
# Inputs that are digests, which mean nothing to people.
_DIGESTS = ("photographs", "faces", "generator", "metrics", "code of nets", "code of loss")
# Remedies in errors of prep and train that this command does not have.
_OTHER_REMEDIES = ("--force", "--resume never")
Records = dict[str, dict[str, Any]]  # by stage: version of facegan, inputs, outputs (size and time by name), result


@dataclass(frozen=True)
class Row:
    """A stage in the table at the end."""

    stage: str
    state: Literal["done", "up to date", "to do"]
    summary: str  # of the result, or of the plan
    why: str  # it is out of date; "" if it is not
    seconds: float  # of this call
    where: str
    result: dict[str, Any]  # plain values, as prep and train return them


def run_recipe(
    recipe: Recipe,
    to: Path,
    *,
    console: Console | None = None,
    command: list[str] | None = None,
    trust_code: bool = False,
) -> list[Row]:
    """Brings every stage of an experiment up to date. After an interruption, the same call continues.

    A stage is up to date if its settings, the fingerprints of its inputs and its outputs are unchanged since this
    version of facegan ran it.

    ``to`` is the output folder: ``faces``, ``run``, ``samples.png``, and the record of the stages; ``command`` is for
    run.json. ``trust_code``: modules and commands that files name may run; those of ``--set`` always may.
    """
    console, stages = console or Console(quiet=True), stages_of(recipe, to, trust_code)
    _refuse_many_processes(recipe, to)
    todo = _out_of_date(stages, records := _read_records(to))
    if not todo:
        return [_up_to_date(stage, records) for stage in stages]
    recipe.refuse_untrusted(trust_code)
    _check(recipe, to, "prep" in todo)
    make_folder(to)
    with exclusive(to / _LOCK, f"Another facegan run is at work in {to}"):
        records, rows = _read_records(to), []
        for number, stage in enumerate(stages, 1):
            why, inputs = _why(stage, records)
            if not why:
                rows.append(_up_to_date(stage, records))
                continue
            console.note(f"{number} of {len(stages)}: {stage.name}, into {stage.where}")
            start = time.monotonic()
            with _remedy(stage):
                result = stage.run(console, command or [])
            seconds = round(time.monotonic() - start, 1)
            record = {"version": __version__, "inputs": inputs, "outputs": _outputs(stage), "result": result}
            records[stage.name] = {**record, "seconds": seconds}
            write_json(to / RECORD_FILE, {"recipe": recipe.name, "stages": records, "sha256": _sha256(records)})
            rows.append(Row(stage.name, "done", stage.summary(result), why, seconds, str(stage.where), result))
        return rows


def plan_recipe(recipe: Recipe, to: Path) -> list[Row]:
    """What `run_recipe` would do. Touches nothing, and runs no code that the recipe names; raises what `run_recipe`
    would raise before it starts."""
    stages, records, rows = stages_of(recipe, to), _read_records(to), []
    _refuse_many_processes(recipe, to)
    todo = _out_of_date(stages, records)
    if todo:
        _check(recipe, to, "prep" in todo, try_code=False)
    for stage in stages:
        if stage.name not in todo:
            rows.append(_up_to_date(stage, records))
            continue
        with _remedy(stage):
            rows.append(Row(stage.name, "to do", stage.plan(), todo[stage.name], 0.0, str(stage.where), {}))
    return rows


def check_recipe(text: str) -> tuple[str, list[str]]:
    """The problem of a recipe, "" if it is valid, and the code that it names, which is not run.

    Checks settings, names, nets, and files, but those that a packaged recipe leaves to its user.
    """
    try:
        recipe = read_recipe(text)
        stages_of(recipe, Path())
        if not recipe.is_packaged:
            recipe.refuse_missing_files()
        if {"prep", "train"} <= recipe.values.keys():
            refuse_unfit_nets(recipe, try_code=False)
    except FaceganError as error:
        return str(error), []
    return "", list(recipe.code.values())


def _read_records(folder: Path) -> Records:
    """Without a record, or with an edited one, each stage runs again, and keeps finished work."""
    record = read_facts(folder / RECORD_FILE)
    records = record.get("stages", {})
    return records if record.get("sha256") == _sha256(records) else {}


def _sha256(records: Records) -> str:
    return hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()


def _out_of_date(stages: list[Stage], records: Records) -> dict[str, str]:
    """The first stage that is out of date and all after it, with the reason."""
    todo: dict[str, str] = {}
    for stage in stages:
        if todo:
            todo[stage.name] = f"after {next(reversed(todo))}"
        elif why := _why(stage, records)[0]:
            todo[stage.name] = why
    return todo


def _why(stage: Stage, records: Records) -> tuple[str, dict[str, Any]]:
    """Why a stage is out of date, in a few words, "" if it is not; and its inputs."""
    record, inputs = records.get(stage.name), stage.inputs()
    if record is None:
        return "not done yet", inputs
    if inputs.get("photographs") == MISSING:  # deleted photographs keep their faces
        inputs["photographs"] = record["inputs"].get("photographs")
    if record["version"] != __version__:
        return f"it was made by facegan {record['version']}", inputs
    for name in {**inputs, **record["inputs"]}:
        then, now = record["inputs"].get(name), inputs.get(name)
        if then != now:
            return f"{name} changed" if name in _DIGESTS else f"{name} is {now}, and was {then}", inputs
    for name, status in _outputs(stage).items():
        if record["outputs"].get(name) != status:
            return f"{name} has changed" if status else f"{name} is missing", inputs
    return "", inputs


def _outputs(stage: Stage) -> dict[str, list[int]]:
    return {path.name: size_and_time(path) for path in stage.outputs()}


def _up_to_date(stage: Stage, records: Records) -> Row:
    result = records[stage.name]["result"]
    return Row(stage.name, "up to date", stage.summary(result), "", 0.0, str(stage.where), result)


def _check(recipe: Recipe, to: Path, prepares: bool, *, try_code: bool = True) -> None:
    """Raise SettingsError if a file is missing, the nets do not fit the faces, or ``to`` is among the photographs."""
    recipe.refuse_missing_files(need_source=prepares)
    if "prep" not in recipe.values:
        return
    source = str(recipe.values["prep"]["source"])
    if is_local(source) and Path(source).is_dir() and to.resolve().is_relative_to(Path(source).resolve()):
        raise SettingsError(
            f"{to} is in {source}, among the photographs: the training's pictures would be taken for photographs.\n"
            "Choose another folder with --to."
        )
    if "train" in recipe.values and prepares:
        refuse_unfit_nets(recipe, try_code)


@contextlib.contextmanager
def _remedy(stage: Stage) -> Iterator[None]:
    """Adds the remedy of this command to errors about other work in a stage's folder."""
    try:
        yield
    except (DatasetError, SettingsError, CheckpointError) as error:
        if not any(option in str(error) for option in _OTHER_REMEDIES):
            raise
        raise type(error)(
            f"{error}\nWith facegan run: choose another folder with --to, or delete {stage.where} and run it again."
        ) from None


def _refuse_many_processes(recipe: Recipe, to: Path) -> None:
    """torchrun starts the whole command in each process, so each would prepare the photographs."""
    if "train" in recipe.values and os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        raise SettingsError(
            "facegan run is a single process. For several GPUs make the faces with it, then train separately:\n"
            f"torchrun --nproc-per-node N -m -- facegan train --shards {to / 'faces'} --set train.NAME=VALUE …"
        )

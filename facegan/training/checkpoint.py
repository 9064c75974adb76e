"""A checkpoint: a folder of safetensors and JSON that appears complete or not at all.

checkpoints/000050048/state.safetensors        every tensor of the training
                      generator.safetensors    the moving average, as the run's own: `facegan sample` takes the folder
                      state.json               every other value; size and SHA-256 of both files, and of itself
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Predicate
from pydantic import ConfigDict, Field, create_model
from safetensors.torch import save
from torch import Tensor

from facegan.errors import CheckpointError, DamagedFile
from facegan.files import (
    TEMPORARY,
    disk_errors,
    fsync,
    make_folder,
    parse_tensors,
    parsing,
    read_json,
    remove_partials,
    write_bytes,
    write_json,
)
from facegan.nets import Generator, save_generator
from facegan.nets.weights import FILE_NAME, is_spec, plain_tensors
from facegan.run_dir import CHECKPOINTS, STATE, checkpoint_folders

FORMAT = 2
TENSORS = "state.safetensors"
REPLACED = ".replaced"  # suffix of a checkpoint while a newer one of the same images replaces it


class Damaged(Exception):
    """Why a checkpoint cannot be used."""


_Count = Annotated[int, Field(strict=True, ge=0, lt=2**62)]
_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Flag = Annotated[bool, Field(strict=True)]
_Best = create_model("best", __config__=ConfigDict(extra="forbid"), metric=str, value=_Number, images=_Count)
_File = create_model("file", bytes=_Count, sha256=str)
_EarlierAt = tuple[Annotated[int, Field(strict=True, ge=-1, lt=2**62)], Annotated[int, Field(strict=True)]]

# The entries of state.json that are read again.
_State = create_model(
    STATE,
    images=_Count,
    rounds=_Count,
    counts=create_model("counts", d=_Count, g=_Count, gp=_Count),
    lr_scale=_Number,
    scaler=create_model("scaler", generator=dict[str, _Number], discriminator=dict[str, _Number]),
    spec=Annotated[dict[str, Any], Predicate(is_spec)],
    stream=dict[str, Any],
    health=create_model(
        "health",
        real_diversity=_Number,
        stretch=list[tuple[_Number, _Number]],
        lasting=list[str],
        was_diverse=_Flag,
        earlier_at=_EarlierAt,
    ),
    rolled_back=dict[str, Any] | None,
    best=_Best | None,  # pyrefly: ignore - as seen at run time
    seconds=_Number,
    logged_at=tuple[_Count, _Number],
    log=dict[str, _Count],
    scheduled=_Flag,
    files=create_model("files", tensors=(_File, Field(alias=TENSORS)), generator=(_File, Field(alias=FILE_NAME))),
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint with correct checksums."""

    path: Path
    images: int
    state: dict[str, Any]
    tensors: dict[str, Tensor]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors ``NAME.…`` under the names that they have in their net."""
        prefix = f"{name}."
        return {key.removeprefix(prefix): tensor for key, tensor in self.tensors.items() if key.startswith(prefix)}


@dataclass(frozen=True)
class CheckpointManager:
    """The checkpoints of a run: which one to resume from, to roll back to, and to keep."""

    run: Path

    @property
    def folder(self) -> Path:
        return self.run / CHECKPOINTS

    def path(self, images: int) -> Path:
        return self.folder / f"{images:09d}"

    def save(self, images: int, tensors: dict[str, Tensor], state: dict[str, Any], generator: Generator) -> None:
        """Writes under a temporary name, flushes, renames. After a DiskError nothing of it is left."""
        remove_partials(make_folder(self.folder))
        data = save(plain_tensors(tensors))
        path = self.path(images)
        temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
        with disk_errors(self.folder, need_bytes=len(data)):
            try:
                temporary.mkdir()
                write_bytes(temporary / TENSORS, data)
                save_generator(temporary / FILE_NAME, generator)
                files = {TENSORS: _facts(data), FILE_NAME: _facts((temporary / FILE_NAME).read_bytes())}
                about = {"format": FORMAT, "images": images, **state, "files": files}
                write_json(temporary / STATE, {**about, "sha256": _checksum(about)})
                replace_folder(temporary, path)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
            fsync(self.folder)

    def prune(self, keep: int, milestones: Collection[int]) -> None:
        """Deletes all but the newest, the ``keep`` newest scheduled ones, and those at ``milestones``."""
        paths = checkpoint_folders(self.run)
        scheduled = [path for path in paths if _is_scheduled(path)]
        kept = {*paths[:1], *scheduled[:keep], *(self.path(images) for images in milestones)}
        self._delete(path for path in paths if path not in kept)

    def delete_after(self, images: int) -> None:
        self._delete(path for path in checkpoint_folders(self.run) if int(path.name) > images)

    def _delete(self, paths: Iterator[Path]) -> None:
        with disk_errors(self.folder):
            for path in paths:
                shutil.rmtree(path)

    def newest(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """The newest undamaged checkpoint. Damaged ones after it are renamed to ``*.damaged`` with a warning."""
        for old in self.folder.glob(f"*{REPLACED}"):  # a process was killed within `replace_folder`
            path = old.with_name(old.name.removesuffix(REPLACED))
            with disk_errors(self.folder):
                if path.exists():
                    shutil.rmtree(old)
                else:
                    old.rename(path)
        damaged: dict[Path, Damaged] = {}
        for path in checkpoint_folders(self.run):
            try:
                checkpoint = read_checkpoint(path)
            except Damaged as problem:
                damaged[path] = problem
                continue
            for bad, problem in damaged.items():
                warn(f"the checkpoint {bad} is damaged ({problem}): using the one before.")
                with disk_errors(self.folder):
                    renamed = bad.with_name(f"{bad.name}.damaged")
                    shutil.rmtree(renamed, ignore_errors=True)
                    bad.rename(renamed)
            return checkpoint
        if damaged:
            first, problem = next(iter(damaged.items()))
            raise CheckpointError(
                f"All checkpoints in {self.folder} are damaged ({first.name}: {problem}).\n"
                "Restore an undamaged copy, or start again with --resume never."
            )
        return None

    def latest_scheduled(self) -> Checkpoint | None:
        """The one to roll back to: it must not depend on when somebody pressed Ctrl-C."""
        for path in filter(_is_scheduled, checkpoint_folders(self.run)):
            try:
                return read_checkpoint(path)
            except Damaged:
                continue
        return None


def replace_folder(new: Path, path: Path) -> None:
    """At every moment, one of the two exists under its name or under ``REPLACED``."""
    if path.exists():
        path.rename(path.with_name(path.name + REPLACED))
    new.rename(path)
    shutil.rmtree(path.with_name(path.name + REPLACED), ignore_errors=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """Raises Damaged where a file is missing or damaged, CheckpointError for an unknown format."""
    state = _read_state(path)
    data = {}
    for name in (TENSORS, FILE_NAME):
        with _reading(name):
            data[name] = (path / name).read_bytes()
        if _facts(data[name]) != state["files"][name]:
            raise Damaged(f"{name} has another size or SHA-256")
    with _reading(TENSORS):
        return Checkpoint(path, state["images"], state, parse_tensors(data[TENSORS], path / TENSORS))


def _read_state(path: Path) -> dict[str, Any]:
    with _reading(STATE):
        state = read_json(path / STATE)
    found = state.get("format") if isinstance(state, dict) else None
    if isinstance(found, int) and found != FORMAT:
        raise CheckpointError(unknown_format(path, found, FORMAT))
    if not isinstance(state, dict) or state.pop("sha256", None) != _checksum(state):
        raise Damaged(f"{STATE} has another SHA-256")
    with _reading(STATE), parsing(path / STATE):
        _State.model_validate(state)
    return state


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turns what reading a file raises into `Damaged`."""
    try:
        yield
    except FileNotFoundError:
        raise Damaged(f"{name} is missing") from None
    except (OSError, DamagedFile) as error:
        why = error.why if isinstance(error, DamagedFile) else error.strerror
        raise Damaged(f"{name} cannot be read: {why}") from None


def unknown_format(path: Path, found: object, known: int) -> str:
    """The error for files of another version of facegan."""
    older = isinstance(found, int) and found < known
    advice = "Use another --run folder or --resume never" if older else "Update facegan"
    return f"{path} has format {found!s:.40}, and this facegan reads format {known}. {advice}."


def _facts(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _checksum(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _is_scheduled(path: Path) -> bool:
    try:
        return _read_state(path)["scheduled"]
    except Damaged:
        return False

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
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
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
from facegan.run_dir import STATE

FORMAT = 2
TENSORS = "state.safetensors"
REPLACED = ".replaced"  # suffix of a checkpoint while a newer one of the same images replaces it


class Damaged(Exception):
    """Why a checkpoint cannot be used."""


def _valid_spec(spec: dict[str, Any]) -> dict[str, Any]:
    if not is_spec(spec):
        raise ValueError("not a spec of nets")
    return spec


_Count = Annotated[int, Field(strict=True, ge=0, lt=2**62)]
_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Flag = Annotated[bool, Field(strict=True)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _File(_Part):
    bytes: _Count
    sha256: str


class _Files(_Part):
    tensors: _File = Field(alias=TENSORS)
    generator: _File = Field(alias=FILE_NAME)


class _Counts(_Part):
    d: _Count
    g: _Count
    gp: _Count


class _Scalers(_Part):
    generator: dict[str, _Number]
    discriminator: dict[str, _Number]


class _Health(_Part):
    real_diversity: _Number
    stretch: list[tuple[_Number, _Number]]
    lasting: list[str]
    was_diverse: _Flag
    earlier_at: tuple[Annotated[int, Field(strict=True, ge=-1, lt=2**62)], Annotated[int, Field(strict=True)]]


class _Best(_Part):
    model_config = ConfigDict(extra="forbid")

    metric: str
    value: _Number
    images: _Count


class _State(_Part):
    """The entries of state.json that are read again."""

    images: _Count
    rounds: _Count
    counts: _Counts
    lr_scale: _Number
    scaler: _Scalers
    spec: Annotated[dict[str, Any], AfterValidator(_valid_spec)]
    stream: dict[str, Any]
    health: _Health
    rolled_back: dict[str, Any] | None
    best: _Best | None
    seconds: _Number
    logged_at: tuple[_Count, _Number]
    log: dict[str, _Count]
    scheduled: _Flag
    files: _Files


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
    """``checkpoints/`` of a run: which checkpoint to resume from, to roll back to, and to keep."""

    folder: Path

    def path(self, images: int) -> Path:
        return self.folder / f"{images:09d}"

    def paths(self) -> list[Path]:
        """Folders of checkpoints, newest first."""
        folders = [path for path in self.folder.glob("*") if path.name.isdecimal() and path.is_dir()]
        return sorted(folders, key=lambda path: int(path.name), reverse=True)

    def save(self, images: int, tensors: dict[str, Tensor], state: dict[str, Any], generator: Generator) -> None:
        """Raises DiskError if it cannot be written; earlier checkpoints are unchanged."""
        remove_partials(make_folder(self.folder))
        write_checkpoint(self.path(images), tensors, {"images": images, **state}, generator)

    def prune(self, keep: int, milestones: Collection[int]) -> None:
        """Deletes all but the newest, the ``keep`` newest scheduled ones, and those at ``milestones``."""
        paths = self.paths()
        scheduled = [path for path in paths if _is_scheduled(path)]
        kept = {*paths[:1], *scheduled[:keep], *(self.path(images) for images in milestones)}
        with disk_errors(self.folder):
            for path in paths:
                if path not in kept:
                    shutil.rmtree(path)

    def newest(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """The newest undamaged checkpoint. Damaged ones after it are renamed to ``*.damaged`` with a warning.

        Raises:
            CheckpointError: all checkpoints are damaged, or one has an unknown format.
        """
        self._finish_replacing()
        damaged: dict[Path, Damaged] = {}
        for path in self.paths():
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
        for path in self.paths():
            try:
                if _is_scheduled(path):
                    return read_checkpoint(path)
            except Damaged:
                continue
        return None

    def delete_after(self, images: int) -> None:
        with disk_errors(self.folder):
            for path in self.paths():
                if int(path.name) > images:
                    shutil.rmtree(path)

    def _finish_replacing(self) -> None:
        """After a process that was killed between the two renames of `replace_folder`."""
        for old in self.folder.glob(f"*{REPLACED}"):
            path = old.with_name(old.name.removesuffix(REPLACED))
            with disk_errors(self.folder):
                if path.exists():
                    shutil.rmtree(old)
                else:
                    replace_folder(old, path)


def write_checkpoint(path: Path, tensors: dict[str, Tensor], state: dict[str, Any], generator: Generator) -> None:
    """Writes under a temporary name, flushes, renames; replaces a checkpoint of the same name.

    Raises:
        DiskError: it cannot be written; nothing of it is left.
    """
    data = save(plain_tensors(tensors))
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    with disk_errors(path.parent, need_bytes=len(data)):
        try:
            temporary.mkdir()
            write_bytes(temporary / TENSORS, data)
            save_generator(temporary / FILE_NAME, generator)
            files = {TENSORS: _facts(data), FILE_NAME: _facts((temporary / FILE_NAME).read_bytes())}
            about = {"format": FORMAT, **state, "files": files}
            write_json(temporary / STATE, {**about, "sha256": _checksum(about)})
            replace_folder(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        fsync(path.parent)


def replace_folder(new: Path, path: Path) -> None:
    """At every moment, one of the two exists under its name or under ``REPLACED``."""
    if path.exists():
        path.rename(path.with_name(path.name + REPLACED))
    new.rename(path)
    shutil.rmtree(path.with_name(path.name + REPLACED), ignore_errors=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """
    Raises:
        Damaged: a file is missing or damaged.
        CheckpointError: it has an unknown format.
    """
    state = _read_state(path)
    tensors: dict[str, Tensor] = {}
    for name in (TENSORS, FILE_NAME):
        facts = state["files"][name]
        try:
            data = (path / name).read_bytes()
        except FileNotFoundError:
            raise Damaged(f"{name} is missing") from None
        except OSError as error:
            raise Damaged(f"{name} cannot be read: {error}") from None
        if len(data) != facts["bytes"]:
            raise Damaged(f"{name} has {len(data):,} bytes of {facts['bytes']:,}")
        if hashlib.sha256(data).hexdigest() != facts["sha256"]:
            raise Damaged(f"{name} has another SHA-256")
        if name == TENSORS:
            try:
                tensors = parse_tensors(data, path / name)
            except DamagedFile as error:
                raise Damaged(f"{name} cannot be read: {error.why}") from None
    return Checkpoint(path, state["images"], state, tensors)


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = read_json(path / STATE)
    except FileNotFoundError:
        raise Damaged(f"{STATE} is missing") from None
    except DamagedFile as error:
        raise Damaged(f"{STATE} cannot be read: {error.why}") from None
    except OSError as error:
        raise Damaged(f"{STATE} cannot be read: {error.strerror}") from None
    if not isinstance(state, dict):
        raise Damaged(f"{STATE} is not a checkpoint's")
    if isinstance(state.get("format"), int) and state["format"] != FORMAT:
        raise CheckpointError(unknown_format(path, state["format"], FORMAT))
    if state.pop("sha256", None) != _checksum(state):
        raise Damaged(f"{STATE} has another SHA-256")
    try:
        with parsing(path / STATE):
            _State.model_validate(state)
    except DamagedFile as error:
        raise Damaged(f"{STATE} is invalid: {error.why}") from None
    return state


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

"""A checkpoint: a folder of safetensors and JSON, which appears whole or not at all.

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
REPLACED = ".replaced"  # suffix of a checkpoint that a newer one of the same image is about to replace


class Damaged(Exception):
    """Why a checkpoint can't be used; `facegan.training.checkpoint` looks for another."""


def _spec(told: dict[str, Any]) -> dict[str, Any]:
    if not is_spec(told):
        raise ValueError("no spec of nets")
    return told


_Count = Annotated[int, Field(strict=True, ge=0, lt=2**62)]
_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


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
    was_diverse: Annotated[bool, Field(strict=True)]
    earlier_at: tuple[Annotated[int, Field(strict=True, ge=-1, lt=2**62)], Annotated[int, Field(strict=True)]]


class _Best(_Part):
    model_config = ConfigDict(extra="forbid")

    metric: str
    value: _Number
    images: _Count


class _State(_Part):
    """What a checkpoint says of itself, as far as it is used again. What older checkpoints lack has a default."""

    images: _Count
    rounds: _Count
    counts: _Counts | None = None
    lr_scale: _Number = 1.0
    scaler: _Scalers
    spec: Annotated[dict[str, Any], AfterValidator(_spec)]
    stream: dict[str, Any]
    health: _Health
    rolled_back: dict[str, Any] | None
    best: _Best | None
    seconds: _Number
    logged_at: tuple[_Count, _Number]
    log: dict[str, _Count]
    scheduled: Annotated[bool, Field(strict=True)]
    files: _Files


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose checksums were right when it was read."""

    path: Path
    images: int
    state: dict[str, Any]
    tensors: dict[str, Tensor]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors ``NAME.…`` under the names that they have in their net."""
        prefix = f"{name}."
        return {key.removeprefix(prefix): tensor for key, tensor in self.tensors.items() if key.startswith(prefix)}


def write_checkpoint(path: Path, tensors: dict[str, Tensor], state: dict[str, Any], generator: Generator) -> None:
    """Under a temporary name, flushed, renamed; one that has the name already is replaced.

    Raises:
        DiskError: it can't be written; nothing of it is left.
    """
    data = save(plain_tensors(tensors))
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    with disk_errors(path.parent, need_bytes=len(data)):
        try:
            temporary.mkdir()
            write_bytes(temporary / TENSORS, data)
            save_generator(temporary / FILE_NAME, generator)
            sums = {TENSORS: _about(data), FILE_NAME: _about((temporary / FILE_NAME).read_bytes())}
            about = {"format": FORMAT, **state, "files": sums}
            write_json(temporary / STATE, {**about, "sha256": _sum_of(about)})
            replace_folder(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        fsync(path.parent)


def replace_folder(new: Path, path: Path) -> None:
    """At every moment one of the two is there under its name or under ``REPLACED``."""
    if path.exists():
        path.rename(path.with_name(path.name + REPLACED))
    new.rename(path)
    shutil.rmtree(path.with_name(path.name + REPLACED), ignore_errors=True)


def read_state(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Raises:
        Damaged: it can't be trusted.
        CheckpointError: it is of a format that is not read here.
    """
    try:
        state = read_json(path / STATE)
    except FileNotFoundError:
        raise Damaged(f"{STATE} is missing") from None
    except DamagedFile as error:
        raise Damaged(f"{STATE} can't be read: {error.why}") from None
    except OSError as error:
        raise Damaged(f"{STATE} can't be read: {error.strerror}") from None
    if not isinstance(state, dict):
        raise Damaged(f"{STATE} is no checkpoint's")
    if isinstance(state.get("format"), int) and state["format"] != FORMAT:
        raise CheckpointError(unknown_format(path, state["format"], FORMAT))
    if state.pop("sha256", None) != _sum_of(state):
        raise Damaged(f"the SHA-256 of {STATE} is another")
    try:
        with parsing(path / STATE):
            _State.model_validate(state)
    except DamagedFile as error:
        raise Damaged(f"{STATE} does not fit: {error.why}") from None
    return state


def read_checkpoint(path: Path) -> Checkpoint:
    """Raises what `read_state` does."""
    state = read_state(path)
    tensors: dict[str, Tensor] = {}
    for name in (TENSORS, FILE_NAME):
        about = state["files"][name]
        try:
            data = (path / name).read_bytes()
        except FileNotFoundError:
            raise Damaged(f"{name} is missing") from None
        except OSError as error:
            raise Damaged(f"{name} can't be read: {error}") from None
        if len(data) != about["bytes"]:
            raise Damaged(f"{name} has {len(data):,} bytes of {about['bytes']:,}")
        if hashlib.sha256(data).hexdigest() != about["sha256"]:
            raise Damaged(f"the SHA-256 of {name} is another")
        if name == TENSORS:
            try:
                tensors = parse_tensors(data, path / name)
            except DamagedFile as error:
                raise Damaged(f"{name} can't be read: {error.why}") from None
    return Checkpoint(path, state["images"], state, tensors)


def unknown_format(path: Path, found: object, known: int) -> str:
    """The sentence for files of another version of facegan."""
    older = isinstance(found, int) and found < known
    advice = "Begin anew with another --run folder or --resume never" if older else "Update facegan"
    return f"{path} has format {found!s:.40}, and this facegan reads format {known}. {advice}."


def _about(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _sum_of(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


# The folder of checkpoints: which is taken up, which is gone back to, and which are kept.


@dataclass(frozen=True)
class CheckpointManager:
    """``checkpoints/`` of a run."""

    folder: Path

    def path(self, images: int) -> Path:
        return self.folder / f"{images:09d}"

    def paths(self) -> list[Path]:
        """Folders of checkpoints, the newest first."""
        folders = [path for path in self.folder.glob("*") if path.name.isdecimal() and path.is_dir()]
        return sorted(folders, key=lambda path: int(path.name), reverse=True)

    def put(self, images: int, tensors: dict[str, Tensor], state: dict[str, Any], generator: Generator) -> None:
        """
        Raises:
            DiskError: it can't be written; the ones before stand.
        """
        remove_partials(make_folder(self.folder))
        write_checkpoint(self.path(images), tensors, {"images": images, **state}, generator)

    def thin_out(self, keep: int, milestones: Collection[int]) -> None:
        """Deletes all but the newest, the ``keep`` newest scheduled ones, and those at ``milestones``."""
        paths = self.paths()
        scheduled = [path for path in paths if _is_scheduled(path)]
        kept = {*paths[:1], *scheduled[:keep], *(self.path(images) for images in milestones)}
        with disk_errors(self.folder):
            for path in paths:
                if path not in kept:
                    shutil.rmtree(path)

    def newest(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """The newest whole checkpoint. Damaged ones after it are renamed to ``*.damaged`` with a warning.

        Raises:
            CheckpointError: there are checkpoints, but none is whole, or one is of a format unknown here.
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
                warn(f"the checkpoint {bad} is damaged ({problem}): taking the one before.")
                _put_aside(bad)
            return checkpoint
        if damaged:
            first, problem = next(iter(damaged.items()))
            raise CheckpointError(
                f"None of the checkpoints in {self.folder} is whole ({first.name}: {problem}).\n"
                "Start again with --resume never, or put an undamaged copy there."
            )
        return None

    def newest_scheduled(self) -> Checkpoint | None:
        """Where a roll-back goes: it may not depend on when somebody pressed Ctrl-C."""
        for path in self.paths():
            try:
                if _is_scheduled(path):
                    return read_checkpoint(path)
            except Damaged:
                continue
        return None

    def drop_after(self, images: int) -> None:
        """Deletes checkpoints of a future that will not be."""
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


def _is_scheduled(path: Path) -> bool:
    try:
        return read_state(path)["scheduled"]
    except Damaged:
        return False


def _put_aside(path: Path) -> None:
    aside = path.with_name(f"{path.name}.damaged")
    with disk_errors(path.parent):
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)

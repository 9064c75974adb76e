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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from facegan.errors import CheckpointError
from facegan.files import TEMPORARY, disk_errors, flush, write_bytes, write_json
from facegan.nets import Generator, save_generator
from facegan.nets.weights import FILE_NAME, plain_tensors
from facegan.run_folder import STATE

FORMAT = 2
TENSORS = "state.safetensors"
REPLACED = ".replaced"  # suffix of a checkpoint that a newer one of the same image is about to replace


class Damaged(Exception):
    """Why a checkpoint can't be used; `facegan.train.folder.shelf` looks for another."""


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
        flush(path.parent)


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
        state = json.loads((path / STATE).read_bytes())
    except FileNotFoundError:
        raise Damaged(f"{STATE} is missing") from None
    except (ValueError, OSError) as error:
        raise Damaged(f"{STATE} can't be read: {error}") from None
    if not isinstance(state, dict):
        raise Damaged(f"{STATE} is no checkpoint's")
    if isinstance(state.get("format"), int) and state["format"] != FORMAT:
        raise CheckpointError(unknown_format(path, state["format"], FORMAT))
    if state.pop("sha256", None) != _sum_of(state):
        raise Damaged(f"the SHA-256 of {STATE} is another")
    return state


def read_checkpoint(path: Path) -> Checkpoint:
    """Raises what `read_state` does."""
    state = read_state(path)
    tensors: dict[str, Tensor] = {}
    for name, about in state["files"].items():
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
            tensors = load(data)
    return Checkpoint(path, state["images"], state, tensors)


def unknown_format(path: Path, found: object, known: int) -> str:
    """The sentence for files of another version of facegan."""
    older = isinstance(found, int) and found < known
    advice = "Begin anew with another --run folder or --resume never" if older else "Update facegan"
    return f"{path} has format {found}, and this facegan reads format {known}. {advice}."


def _about(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _sum_of(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()

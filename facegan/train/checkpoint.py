"""Checkpoints: a folder of safetensors and JSON each, which appears whole or not at all.

checkpoints/000050048/state.safetensors    every tensor of the training
                      state.json           every other value, and the size and SHA-256 of the tensors' file
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from facegan.errors import CheckpointError, TrainingError
from facegan.files import TEMPORARY, disk_errors, flush, make_folder, write_bytes, write_json
from facegan.nets.weights import plain_tensors

FORMAT = 1
_TENSORS, _STATE = "state.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose checksum was right when it was read."""

    path: Path
    images: int
    state: dict[str, Any]
    tensors: dict[str, Tensor]


def folder_of(checkpoints: Path, images: int) -> Path:
    return checkpoints / f"{images:09d}"


def save_checkpoint(
    checkpoints: Path, images: int, tensors: dict[str, Tensor], state: dict[str, Any], keep: int
) -> Path:
    """Writes a checkpoint under a temporary name, flushes and renames it, and deletes all but the newest ``keep``.

    Raises:
        DiskError: it can't be written.
    """
    path = folder_of(make_folder(checkpoints), images)
    data = save(plain_tensors(tensors))
    about = {
        "format": FORMAT,
        "images": images,
        **state,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    temporary = checkpoints / f".{path.name}.{os.getpid()}{TEMPORARY}"
    _remove_partials(checkpoints)
    with disk_errors(checkpoints, need_bytes=len(data)):
        temporary.mkdir()
        write_bytes(temporary / _TENSORS, data)
        write_json(temporary / _STATE, about)
        if path.exists():  # of the same image, and so the same state: a run that saved twice without going on
            shutil.rmtree(path)
        temporary.rename(path)
        flush(checkpoints)
        for old in list_checkpoints(checkpoints)[keep:]:
            shutil.rmtree(old)
    return path


def list_checkpoints(checkpoints: Path) -> list[Path]:
    """Folders of checkpoints, the newest first."""
    folders = [path for path in checkpoints.glob("*") if path.name.isdecimal() and path.is_dir()]
    return sorted(folders, key=lambda path: int(path.name), reverse=True)


def refuse_non_finite(tensors: dict[str, Tensor], images: int) -> None:
    """TrainingError where a weight is NaN or infinite; waits for the device once."""
    finite = torch.stack([tensor.isfinite().all() for tensor in tensors.values()]).tolist()
    if not all(finite):
        name = list(tensors)[finite.index(False)]
        raise TrainingError(not_finite(f"{name} is not finite", images))


def not_finite(what: str, images: int) -> str:
    return (
        f"Training broke down at {images:,} images: {what}. Nothing of it was saved; the checkpoint before is whole.\n"
        "Try half the learning rates (--set train.lr_g=…, train.lr_d=…) or --precision fp32, in another --run folder."
    )


def newest_checkpoint(checkpoints: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint. A damaged one is renamed to ``*.damaged`` with a warning, and the one before taken.

    Raises:
        CheckpointError: there are checkpoints, but none is whole, or one is of a format unknown here.
    """
    paths = list_checkpoints(checkpoints)
    for path in paths:
        try:
            return _read(path)
        except _Damaged as problem:
            aside = path.with_name(f"{path.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            with disk_errors(checkpoints):
                path.rename(aside)
            warn(f"the checkpoint {path} is damaged ({problem}): taking the one before.")
    if paths:
        raise CheckpointError(
            f"None of the checkpoints in {checkpoints} is whole.\n"
            "Start again with --resume never, or put an undamaged copy there."
        )
    return None


class _Damaged(Exception):
    pass


def _read(path: Path) -> Checkpoint:
    try:
        state = json.loads((path / _STATE).read_bytes())
        data = (path / _TENSORS).read_bytes()
    except FileNotFoundError as error:
        raise _Damaged(f"{Path(error.filename).name} is missing") from None
    except ValueError:
        raise _Damaged(f"{_STATE} is no JSON") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else None
        raise CheckpointError(f"{path} has format {found}, and this facegan reads format {FORMAT}. Update facegan.")
    if len(data) != state["bytes"]:
        raise _Damaged(f"{_TENSORS} has {len(data):,} bytes of {state['bytes']:,}")
    if hashlib.sha256(data).hexdigest() != state["sha256"]:
        raise _Damaged(f"the SHA-256 of {_TENSORS} is another")
    return Checkpoint(path, state["images"], state, load(data))


def _remove_partials(checkpoints: Path) -> None:
    for path in checkpoints.glob(f".*{TEMPORARY}"):
        shutil.rmtree(path, ignore_errors=True)

"""run.json: the record of a run, so that it can be repeated, and resumed only as the same training."""

from __future__ import annotations

import json
import os
import platform
import shlex
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from facegan.config import TrainConfig
from facegan.console import shown
from facegan.errors import CheckpointError, DamagedFile, DatasetError, SettingsError
from facegan.files import disk_errors, read_json, write_json
from facegan.nets import count_parameters
from facegan.plugins import source_digests
from facegan.run_dir import RECORD
from facegan.system import cpu_name
from facegan.training.checkpoint import unknown_format
from facegan.training.precision import Precision
from facegan.training.request import TrainRequest
from facegan.training.trainer import Batches, Faces, Trainer

FORMAT = 1
_PACKAGES = ("facegan", "torch", "numpy", "safetensors", "opencv-contrib-python")
_OTHER_FOLDER = "Choose another --run folder, or --resume never to rename this one and start from scratch."


class _Part(BaseModel):
    """Entries of run.json that are read again; there may be others."""

    model_config = ConfigDict(strict=True, extra="ignore")


class _Settings(_Part):
    method: str
    nets: str


class _Parameters(_Part):
    generator: int
    discriminator: int


class _Dataset(_Part):
    path: str
    fingerprint: str
    faces: int = Field(ge=0, lt=2**63)
    size: int = Field(ge=0, lt=2**31)
    channels: int = Field(ge=1, le=4)


class _SourceFile(_Part):
    file: str
    sha256: str


class _Init(_Part):
    path: str


class _Record(_Part):
    settings: _Settings
    parameters: _Parameters
    dataset: _Dataset
    machine: dict[str, Any]
    versions: dict[str, Any]
    precision: str
    device: str
    resumed_at_images: list[int]
    own_code: dict[str, _SourceFile]
    init: _Init | None
    command: str


def read_record(run: Path) -> dict[str, Any] | None:
    """The record that an earlier start wrote, or None.

    Raises:
        CheckpointError: it is damaged, or there are checkpoints without it.
    """
    path = run / RECORD
    if not path.exists():
        if (run / "checkpoints").exists():
            raise CheckpointError(f"{run} holds checkpoints, but no {RECORD} with their settings.\n{_OTHER_FOLDER}")
        return None
    try:
        record = read_json(path)
    except DamagedFile:
        record = None
    if not isinstance(record, dict) or "settings" not in record:
        raise CheckpointError(f"{path} is not the record of a run: it is damaged, or not facegan's.\n{_OTHER_FOLDER}")
    if record.get("format") != FORMAT:
        raise CheckpointError(unknown_format(path, record.get("format"), FORMAT))
    if wrong := _wrong_entry(record):
        raise CheckpointError(
            f"{path} is damaged: {wrong} is missing or has the wrong type. Restore an undamaged copy.\n{_OTHER_FOLDER}"
        )
    return record


def _wrong_entry(record: dict[str, Any]) -> str:
    """The first entry that is missing or has the wrong type, or ""."""
    try:
        _Record.model_validate(record)
    except ValidationError as error:
        location = error.errors(include_url=False, include_input=False)[0]["loc"]
        return ".".join(str(part) for part in location if isinstance(part, str))[:100]
    return ""


def write_record(
    request: TrainRequest, trainer: Trainer, reals: Batches, init: dict[str, Any] | None, before: dict[str, Any] | None
) -> None:
    """
    Args:
        init: the origin of a new run's weights.
        before: the record that an earlier start wrote.
    """
    config, faces = trainer.config, request.faces
    record = {
        "format": FORMAT,
        "settings": config.model_dump(mode="json"),
        "own_code": source_digests({"nets": config.nets, "loss": config.loss}),
        "precision": trainer.precision,
        "device": str(trainer.device),
        "nets": trainer.spec.to_json(),
        "parameters": {
            "generator": count_parameters(trainer.generator),
            "discriminator": count_parameters(trainer.discriminator),
        },
        "dataset": {
            "path": _absolute(request.dataset),
            "fingerprint": faces.fingerprint,
            "faces": len(faces),
            "size": faces.size,
            "channels": faces.channels,
        },
        "stream": dict(reals.describe()),
        "machine": machine(trainer.device, trainer.world.size),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "init": init or (before or {}).get("init"),
        "command": shlex.join(request.command),
        "resumed_at_images": [*before["resumed_at_images"], trainer.images] if before else [],
    }
    with disk_errors(request.run):
        write_json(request.run / RECORD, record)


def _absolute(dataset: str) -> str:
    """A folder's absolute path, so that export and report find it from any folder; a URL or command unchanged."""
    is_folder = os.path.isdir(dataset)  # noqa: PTH112 - Path.is_dir raises where a command is too long for a name
    return str(Path(dataset).absolute()) if is_folder else dataset


def machine(device: torch.device, processes: int) -> dict[str, Any]:
    """What the last bits of a result depend on."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {"cpu": cpu_name(), "threads": torch.get_num_threads(), "gpu": gpu, "processes": processes}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def require_same_run(
    record: dict[str, Any], config: TrainConfig, precision: Precision, faces: Faces, run: Path
) -> None:
    """
    Raises:
        SettingsError: settings differ from the record's; names them with both values.
        DatasetError: the faces differ.
    """
    then = json.loads(TrainConfig().model_dump_json()) | record["settings"]
    now = config.model_dump(mode="json")
    # "auto" and its result are the same setting.
    then["precision"], now["precision"] = record["precision"], precision
    free = config.free_on_resume
    different = [name for name in {**now, **then} if name not in free and then.get(name) != now.get(name)]
    if different:
        before, after = (
            ", ".join(f"{shown(name)} = {shown(values.get(name)):.100}" for name in different) for values in (then, now)
        )
        raise SettingsError(
            f"The run {run} was started with {before}; this command asks for {after}.\n"
            f"Only {', '.join(sorted(free))}, the cache and the workers may change. {_OTHER_FOLDER}"
        )
    if record["dataset"]["fingerprint"] != faces.fingerprint:
        raise DatasetError(
            f"The run {run} was started on other faces ({record['dataset']['faces']:,} then, {len(faces):,} now,\n"
            f"from {shown(record['dataset']['path'] or 'memory')}). {_OTHER_FOLDER}"
        )


def require_same_init(record: dict[str, Any], init: str | Path | None, run: Path) -> None:
    """Raises SettingsError if the run was started from other weights."""
    then = (record.get("init") or {}).get("path")
    if init is not None and str(init) != then:
        raise SettingsError(
            f"The run {run} was started with {f'--init {shown(then)}' if then else 'no --init'}; this command asks for "
            f"--init {init}.\n{_OTHER_FOLDER}"
        )


def warn_other_machine(
    record: dict[str, Any], device: torch.device, processes: int, warn: Callable[[str], None]
) -> None:
    then, now = record["machine"], machine(device, processes)
    for key, value in now.items():
        if key in then and then[key] != value:
            warn(
                f"this run was last trained with {key} {then[key] or '(none)'} and continues with "
                f"{value or '(none)'}: its last bits will differ from an uninterrupted run."
            )


def warn_altered_code(record: dict[str, Any], config: TrainConfig, warn: Callable[[str], None]) -> None:
    """Warns if the source file of a user's own nets or loss has changed since the last start."""
    then = record["own_code"]
    for setting, now in source_digests({"nets": config.nets, "loss": config.loss}).items():
        if setting in then and then[setting]["sha256"] != now["sha256"]:
            warn(
                f"{now['file']} has changed since this run was last started (train.{setting} = "
                f"{getattr(config, setting)}): the run was trained with the old code until now."
            )

"""run.json: what a run is, so that it can be repeated, and taken up again only as what it was."""

from __future__ import annotations

import json
import os
import platform
import shlex
from collections.abc import Callable
from dataclasses import asdict
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
from facegan.training.precision import Precision, choose_precision
from facegan.training.trainer import Batches, Faces, Trainer

FORMAT = 1
_PACKAGES = ("facegan", "torch", "numpy", "safetensors", "opencv-contrib-python")


class _Part(BaseModel):
    """Entries of run.json that are read again; others may follow."""

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
    channels: int = Field(default=3, ge=1, le=4)


class _OwnFile(_Part):
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
    own_code: dict[str, _OwnFile] = {}
    init: _Init | None = None
    command: str = ""


def read_record(run: Path) -> dict[str, Any] | None:
    """What an earlier start wrote, or None.

    Raises:
        CheckpointError: it can't be read, or there are checkpoints without it.
    """
    path = run / RECORD
    if not path.exists():
        if (run / "checkpoints").exists():
            raise CheckpointError(
                f"{run} holds checkpoints, but no {RECORD} that says how they were made.\n"
                "Choose another --run folder, or --resume never to put this one aside."
            )
        return None
    try:
        record = read_json(path)
    except DamagedFile:
        record = None
    if not isinstance(record, dict) or "settings" not in record:
        raise CheckpointError(
            f"{path} is no record of a run: it was damaged, or is another program's.\n"
            "Choose another --run folder, or --resume never to put this one aside."
        )
    if record.get("format") != FORMAT:
        raise CheckpointError(unknown_format(path, record.get("format"), FORMAT))
    if wrong := _wrong(record):
        raise CheckpointError(
            f"{path} is damaged: {wrong} is missing, or is not what facegan train writes. Take an undamaged copy,\n"
            "or choose another --run folder, or --resume never to put this one aside."
        )
    return record


def _wrong(record: dict[str, Any]) -> str:
    """The first entry that is missing or of another kind; "" where there is none."""
    try:
        _Record.model_validate(record)
    except ValidationError as error:
        place = error.errors(include_url=False, include_input=False)[0]["loc"]
        return ".".join(str(part) for part in place if isinstance(part, str))[:100]
    return ""


def write_record(
    run: Path,
    trainer: Trainer,
    faces: Faces,
    reals: Batches,
    dataset: str,
    command: list[str] | None,
    init: dict[str, Any] | None,
    before: dict[str, Any] | None,
) -> None:
    """``init``: where the weights of a new run are from; ``before``: what an earlier start wrote."""
    resumed = [*before["resumed_at_images"], trainer.images] if before else []
    record = {
        "format": FORMAT,
        "settings": trainer.config.model_dump(mode="json"),
        "own_code": source_digests({"nets": trainer.config.nets, "loss": trainer.config.loss}),
        "precision": trainer.precision,
        "device": str(trainer.device),
        "nets": asdict(trainer.spec),
        "parameters": {
            "generator": count_parameters(trainer.generator),
            "discriminator": count_parameters(trainer.discriminator),
        },
        "dataset": {
            "path": _from_anywhere(dataset),
            "fingerprint": faces.fingerprint,
            "faces": len(faces),
            "size": faces.size,
            "channels": faces.channels,
        },
        "stream": dict(reals.describe()),
        "machine": machine(trainer.device, trainer.ranks.size),
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
        },
        "init": init or (before or {}).get("init"),
        "command": shlex.join(command) if command else "",
        "resumed_at_images": resumed,
    }
    with disk_errors(run):
        write_json(run / RECORD, record)


def _from_anywhere(dataset: str) -> str:
    """A folder by its absolute path, so that export and report find it from any folder; a URL or command as it is."""
    is_folder = os.path.isdir(dataset)  # noqa: PTH112 - Path.is_dir raises where a command is too long for a name
    return str(Path(dataset).absolute()) if is_folder else dataset


def machine(device: torch.device, processes: int) -> dict[str, Any]:
    """What the last bits of a result hang on."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {"cpu": cpu_name(), "threads": torch.get_num_threads(), "gpu": gpu, "processes": processes}


def resumed_precision(record: dict[str, Any] | None, asked: str, device: torch.device) -> Precision:
    """``auto`` is resolved once; a continuation keeps what it was resolved to, on any device that can."""
    kept = record["precision"] if record and asked == "auto" else asked
    return choose_precision(kept, device)


def require_same_run(
    record: dict[str, Any], config: TrainConfig, precision: Precision, faces: Faces, run: Path
) -> None:
    """Raises where the continuation would be another training than the one begun.

    Raises:
        SettingsError: names the setting and both values.
        DatasetError: the faces are others.
    """
    way_out = "Choose another --run folder, or --resume never to start again and put this run aside."
    begun = json.loads(TrainConfig().model_dump_json()) | record["settings"]
    now = config.model_dump(mode="json")
    # "auto" and what it was resolved to are the same setting.
    begun["precision"], now["precision"] = record["precision"], precision
    free = config.free_on_resume
    other = [name for name in {**now, **begun} if name not in free and begun.get(name) != now.get(name)]
    if other:
        before, after = (
            ", ".join(f"{shown(name)} = {shown(values.get(name)):.100}" for name in other) for values in (begun, now)
        )
        raise SettingsError(
            f"The run {run} was begun with {before}, and now {after} is asked for.\n"
            f"Only {', '.join(sorted(free))} may change, the cache and the workers. {way_out}"
        )
    if record["dataset"]["fingerprint"] != faces.fingerprint:
        raise DatasetError(
            f"The run {run} was begun on other faces than these ({record['dataset']['faces']:,} then, {len(faces):,} "
            f"now,\nfrom {shown(record['dataset']['path'] or 'memory')}). {way_out}"
        )


def require_same_init(record: dict[str, Any], init: str | Path | None, run: Path) -> None:
    """SettingsError where a run is to go on from weights that it was not begun with."""
    begun = (record.get("init") or {}).get("path")
    if init is not None and str(init) != begun:
        raise SettingsError(
            f"The run {run} was begun with {f'--init {shown(begun)}' if begun else 'no --init'}, and now --init "
            f"{init} is asked for:\na run starts from other weights only once. Choose another "
            "--run folder, or --resume never."
        )


def warn_other_machine(
    record: dict[str, Any], device: torch.device, processes: int, warn: Callable[[str], None]
) -> None:
    begun, now = record["machine"], machine(device, processes)
    for key, value in now.items():
        if key in begun and begun[key] != value:  # an older facegan did not write all of them
            warn(
                f"this run was last trained with {key} {begun[key] or '(none)'}, and goes on with "
                f"{value or '(none)'}: its last bits will differ from a run that never stopped."
            )


def warn_altered_code(record: dict[str, Any], config: TrainConfig, warn: Callable[[str], None]) -> None:
    """Says which file of a user's own nets or loss is another than when the run was last started."""
    begun = record.get("own_code", {})
    for setting, now in source_digests({"nets": config.nets, "loss": config.loss}).items():
        if setting in begun and begun[setting]["sha256"] != now["sha256"]:
            warn(
                f"{now['file']} was altered since this run was last started (train.{setting} = "
                f"{getattr(config, setting)}): what it learnt until now, it learnt by other code."
            )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""

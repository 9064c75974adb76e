"""run.json: what a run is, so that it can be repeated, and taken up again only as what it was."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from facegan.config import TrainConfig
from facegan.errors import CheckpointError, DatasetError, SettingsError
from facegan.files import disk_errors, write_json
from facegan.machine import cpu_name
from facegan.nets import count_parameters
from facegan.train.faces import Batches, Faces
from facegan.train.precision import Precision, choose_precision
from facegan.train.step import Trainer

FORMAT = 1
FILE_NAME = "run.json"
_PACKAGES = ("facegan", "torch", "numpy", "safetensors", "opencv-contrib-python")


def read_record(run: Path) -> dict[str, Any] | None:
    """What an earlier start wrote, or None.

    Raises:
        CheckpointError: it can't be read, or there are checkpoints without it.
    """
    path = run / FILE_NAME
    if not path.exists():
        if (run / "checkpoints").exists():
            raise CheckpointError(
                f"{run} holds checkpoints, but no {FILE_NAME} that says how they were made.\n"
                "Choose another --run folder, or --resume never to put this one aside."
            )
        return None
    try:
        record = json.loads(path.read_bytes())
    except ValueError:
        record = None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} can't be read by this facegan.\n"
            "Choose another --run folder, or --resume never to put this one aside."
        )
    return record


def write_record(
    run: Path,
    trainer: Trainer,
    faces: Faces,
    reals: Batches,
    dataset: str,
    command: list[str] | None,
    before: dict[str, Any] | None,
) -> None:
    resumed = [*before["resumed_at_images"], trainer.images] if before else []
    record = {
        "format": FORMAT,
        "settings": trainer.config.model_dump(),
        "precision": trainer.precision,
        "device": str(trainer.device),
        "nets": asdict(trainer.spec),
        "parameters": {
            "generator": count_parameters(trainer.generator),
            "discriminator": count_parameters(trainer.discriminator),
        },
        "dataset": {
            "path": dataset,
            "fingerprint": faces.fingerprint,
            "faces": len(faces),
            "size": faces.size,
            "channels": faces.channels,
        },
        "stream": dict(reals.describe()),
        "machine": machine(trainer.device),
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
        },
        "command": shlex.join(command) if command else "",
        "resumed_at_images": resumed,
    }
    with disk_errors(run):
        write_json(run / FILE_NAME, record)


def machine(device: torch.device) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {"cpu": cpu_name(), "threads": torch.get_num_threads(), "gpu": gpu}


def resumed_precision(record: dict[str, Any] | None, asked: str, device: torch.device) -> Precision:
    """``auto`` is resolved once; a continuation keeps what it was resolved to, on any device that can."""
    kept = record["precision"] if record and asked == "auto" else asked
    return choose_precision(kept, device)


def refuse_other_run(
    record: dict[str, Any], config: TrainConfig, precision: Precision, faces: Faces, run: Path
) -> None:
    """Raises where the continuation would be another training than the one begun.

    Raises:
        SettingsError: names the setting and both values.
        DatasetError: the faces are others.
    """
    way_out = "Choose another --run folder, or --resume never to start again and put this run aside."
    begun = {name: TrainConfig.default(name) for name in TrainConfig.model_fields} | record["settings"]
    now = config.model_dump()
    # "auto" and what it was resolved to are the same setting.
    begun["precision"], now["precision"] = record["precision"], precision
    for name in begun:
        if name not in TrainConfig.FREE_ON_RESUME and begun[name] != now.get(name):
            raise SettingsError(
                f"The run {run} was begun with {name} = {begun[name]}, and now {name} = {now.get(name)} is asked for.\n"
                f"{way_out}"
            )
    if record["dataset"]["fingerprint"] != faces.fingerprint:
        raise DatasetError(
            f"The run {run} was begun on other faces than these ({record['dataset']['faces']:,} then, {len(faces):,} "
            f"now,\nfrom {record['dataset']['path'] or 'memory'}). {way_out}"
        )


def warn_other_machine(record: dict[str, Any], device: torch.device, warn: Callable[[str], None]) -> None:
    begun, now = record["machine"], machine(device)
    for key, value in now.items():
        if begun.get(key) != value:
            warn(
                f"this run was begun with {key} {begun.get(key) or '(none)'}, and goes on with {value or '(none)'}: "
                "its last bits will differ from a run that never stopped."
            )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""

"""The arguments of a training, and run.json, their record: a run can be repeated, and resumed only as the same one."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field, ValidationError, create_model
from torch import Tensor

from facegan.config import TrainConfig
from facegan.config.base import seconds_of
from facegan.console import Console, shown
from facegan.errors import CheckpointError, DamagedFile, DatasetError, SettingsError
from facegan.files import disk_errors, read_json, write_json
from facegan.nets import count_parameters
from facegan.plugins import Trust, source_digests
from facegan.run_dir import CHECKPOINTS, RECORD
from facegan.system import cpu_name
from facegan.training.checkpoint import unknown_format
from facegan.training.precision import Precision
from facegan.training.run_state import Measure
from facegan.training.trainer import Batches, Faces, Trainer

FORMAT = 1
_PACKAGES = ("facegan", "torch", "numpy", "safetensors", "opencv-contrib-python")
_OTHER_FOLDER = "Choose another --run folder, or --resume never to rename this one and start from scratch."


@dataclass(frozen=True)
class TrainRequest:
    """Settings, faces and run folder, and everything that changes no weight."""

    config: TrainConfig  # ``images`` is rounded up to whole steps
    faces: Faces  # square uint8 images, such as `facegan.FaceShards`
    run: Path
    device: str = "auto"  # or ``cpu``, ``cuda``, ``cuda:N``, ``mps``
    resume: Literal["auto", "never"] = "auto"  # ``never`` renames an existing run folder and starts from scratch
    init: str | Path | None = None  # weights to start a new run from: a generator's file, a checkpoint or a run
    console: Console | None = None  # shows progress; silent if None
    dataset: str = ""  # recorded in run.json, as is ``command``
    command: Sequence[str] = ()
    stop: Callable[[], bool] | None = None  # called after each step; True stops as Ctrl-C does
    # Maps the generator (the moving average, in eval mode) to metrics. They become a row of stats.jsonl, and the best
    # checkpoint is kept and named in best.json. A `run_state.ReferenceMetric` also says what it compares with.
    measure: Measure | None = None
    eval_every: int | None = None  # images between evaluations; None: the setting, or 50,000 where that is 0
    best: str = ""  # the metric whose smallest value is best; "": the first that ``measure`` returns
    # Whether the generator of ``init`` may have a user's own nets (`facegan.load_generator`); those of ``config`` may.
    trust_code: Trust = False
    log: str = "none"  # or ``wandb`` or ``mlflow``, to which rows and grids are sent as well


_part = partial(create_model, __config__=ConfigDict(strict=True))
_Count = Annotated[int, Field(ge=0, lt=2**31)]
_File = _part("file", file=str, sha256=str)
_Init = _part("init", path=str)
_Time = _part("time", time=str, images=Annotated[int, Field(ge=1)])
# The entries of run.json that are read again; there may be others.
_Record = _part(
    RECORD,
    settings=_part("settings", method=str, nets=str),
    parameters=_part("parameters", generator=int, discriminator=int),
    dataset=_part(
        "dataset", path=str, fingerprint=str, faces=_Count, size=_Count, channels=Annotated[int, Field(ge=1, le=4)]
    ),
    machine=dict[str, Any],
    versions=dict[str, Any],
    precision=str,
    device=str,
    resumed_at_images=list[int],
    own_code=dict[str, _File],
    init=_Init | None,  # pyrefly: ignore - as seen at run time
    command=str,
    time=(_Time | None, None),  # pyrefly: ignore - as seen at run time
    ended=(str, ""),
)


def read_record(run: Path) -> dict[str, Any] | None:
    """The record that an earlier start wrote, or None. CheckpointError if it is damaged or lost."""
    path = run / RECORD
    if not path.exists():
        if (run / CHECKPOINTS).exists():
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
    try:
        _Record.model_validate(record)
    except ValidationError as error:
        name = ".".join(map(str, error.errors()[0]["loc"]))[:100]
        raise CheckpointError(f"{path} is damaged: {name} is missing or has the wrong type.\n{_OTHER_FOLDER}") from None
    return record


def settings_of(record: dict[str, Any]) -> dict[str, Any]:
    """The settings of the training, with the ``precision``, ``device`` and ``dataset`` that were used."""
    # Settings newer than the run had today's defaults.
    settings = TrainConfig().model_dump(mode="json") | record["settings"]
    settings |= {"precision": record["precision"], "device": record["device"]}
    settings["dataset"] = f"{record['dataset']['path'] or 'memory'} ({record['dataset']['fingerprint'][:8]})"
    return settings


def write_record(
    request: TrainRequest,
    trainer: Trainer,
    reals: Batches,
    labels: dict[str, str],
    init: dict[str, Any] | None,
    before: dict[str, Any] | None,
) -> None:
    """
    Args:
        labels: see `about_labels`.
        init: the origin of a new run's weights.
        before: the record that an earlier start wrote.
    """
    config, faces = trainer.config, request.faces
    asked = {"time": request.config.time, "images": config.images} if request.config.time else None
    time = asked or (before or {}).get("time")
    record = {
        "format": FORMAT,
        "settings": config.model_dump(mode="json"),
        "own_code": source_digests({"nets": config.nets, "loss": config.loss}),
        "precision": trainer.precision,
        "device": str(trainer.device),
        "nets": trainer.spec.to_json(),
        "parameters": {net: count_parameters(getattr(trainer, net)) for net in ("generator", "discriminator")},
        "dataset": {
            "path": _absolute(request.dataset),
            "fingerprint": faces.fingerprint,
            "faces": len(faces),
            "size": faces.size,
            "channels": faces.channels,
            **labels,
        },
        "stream": dict(reals.describe()),
        "machine": _machine(trainer),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "init": init or (before or {}).get("init"),
        "command": shlex.join(request.command),
        "resumed_at_images": [*before["resumed_at_images"], trainer.images] if before else [],
        **({"time": time} if time else {}),
    }
    with disk_errors(request.run):
        write_json(request.run / RECORD, record)


def record_end(run: Path, why: str) -> None:
    """Adds to the record why the training ended before all its images."""
    record = read_record(run)
    if record is not None:
        with disk_errors(run):
            write_json(run / RECORD, {**record, "ended": why})


def _absolute(dataset: str) -> str:
    """A folder's absolute path, so that export and report find it from any folder; a URL or command unchanged."""
    is_folder = os.path.isdir(dataset)  # noqa: PTH112 - Path.is_dir raises where a command is too long for a name
    return str(Path(dataset).absolute()) if is_folder else dataset


def _machine(trainer: Trainer) -> dict[str, Any]:
    """What the last bits of a result depend on."""
    gpu = torch.cuda.get_device_name(trainer.device) if trainer.device.type == "cuda" else ""
    return {"cpu": cpu_name(), "threads": torch.get_num_threads(), "gpu": gpu, "processes": trainer.world.size}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def at_recorded_length(config: TrainConfig, record: dict[str, Any]) -> TrainConfig:
    """The settings with the number of images that an earlier start measured, if they ask for the same time."""
    known = record.get("time")
    same = known and config.time and seconds_of(known["time"]) == seconds_of(config.time)
    return config.with_images(known["images"]) if same else config


def require_same_run(
    record: dict[str, Any], request: TrainRequest, precision: Precision, labels: dict[str, str]
) -> None:
    """Raises SettingsError or DatasetError where settings, faces or initial weights differ from the record's."""
    config, faces, run = at_recorded_length(request.config, record), request.faces, request.run
    then = json.loads(TrainConfig().model_dump_json()) | record["settings"]
    now = config.model_dump(mode="json")
    # "auto" and its result are the same setting.
    then["precision"], now["precision"] = record["precision"], precision
    now["images"] = config.time or config.images
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
    if any(record["dataset"].get(name) != digest for name, digest in labels.items()):
        names = ", ".join([*([config.condition] if config.condition else []), *config.shares])
        raise DatasetError(
            f"The run {run} was started when its faces had other values of {shown(names)}.\n"
            f"Restore them with facegan annotate. {_OTHER_FOLDER}"
        )
    init = (record.get("init") or {}).get("path")
    if request.init is not None and str(request.init) != init:
        raise SettingsError(
            f"The run {run} was started with {f'--init {shown(init)}' if init else 'no --init'}; this command asks for "
            f"--init {request.init}.\n{_OTHER_FOLDER}"
        )


def about_labels(labels: Tensor | None, epoch: np.ndarray | None) -> dict[str, str]:
    """SHA-256 of the faces' values, as a `Trainer` has them, and of the first epoch if its shares are chosen."""
    arrays = {"labels": None if labels is None else labels.numpy(), "epoch": epoch}
    return {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items() if array is not None}


def warn_other_machine(record: dict[str, Any], trainer: Trainer, warn: Callable[[str], None]) -> None:
    then = record["machine"]
    for key, value in _machine(trainer).items():
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

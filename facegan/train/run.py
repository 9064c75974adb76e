"""`train`: settings and faces to a trained generator, in a run folder that can be taken up at any time."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from facegan.config import TrainConfig
from facegan.console import Console
from facegan.errors import CheckpointError, SettingsError
from facegan.files import disk_errors, exclusive, make_folder
from facegan.nets import find_pair, save_generator
from facegan.nets.weights import FILE_NAME
from facegan.train.checkpoint import Checkpoint, folder_of, list_checkpoints, newest_checkpoint
from facegan.train.estimate import announce
from facegan.train.faces import Faces
from facegan.train.log import RunLog, read_stats
from facegan.train.loop import Clock, Session
from facegan.train.precision import Precision, choose_device
from facegan.train.record import read_record, refuse_other_run, resumed_precision, warn_other_machine, write_record
from facegan.train.signals import StopRequests
from facegan.train.step import Trainer, spec_of

Resume = Literal["auto", "never"]


@dataclass(frozen=True)
class TrainResult:
    """What a training came to. Losses are means of the last row of stats.jsonl."""

    run: Path
    images: int  # real images shown to the discriminator, over all starts of the run
    seconds: float  # of this start, wall time
    images_per_second: float  # without start-up, saving and sampling; of the last row where nothing was left to do
    loss_g: float
    loss_d: float
    checkpoint: Path
    generator: Path

    def to_json(self) -> dict[str, Any]:
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}


def train(
    config: TrainConfig,
    faces: Faces,
    run: str | Path,
    *,
    device: str = "auto",
    resume: Resume = "auto",
    console: Console | None = None,
    dataset: str = "",
    command: list[str] | None = None,
    stop: Callable[[], bool] | None = None,
) -> TrainResult:
    """Trains a generator of ``faces`` in the folder ``run``, or goes on with the run that lies there.

    Args:
        config: what to learn; ``images`` is rounded up to whole rounds.
        faces: square uint8 images, such as `facegan.FaceShards`.
        run: the run folder; DESIGN §6 lists what it holds.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        resume: ``never`` puts an existing run aside and starts anew.
        dataset, command: recorded in run.json; they change nothing.
        stop: asked after each round; true stops as Ctrl-C does.

    Raises:
        SettingsError: the settings can't be used here, or differ from those that the run was begun with.
        DatasetError: the faces differ from those that the run was begun with.
        CheckpointError: the run's checkpoints can't be used.
        TrainingError: a loss or weight is not finite.
        Interrupted: Ctrl-C, SIGTERM or ``stop``; all is saved.
    """
    started, run, console = time.perf_counter(), Path(run), console or Console(quiet=True)
    place, precision, record = _check(config, faces, run, device, resume)
    trainer = Trainer(config, spec_of(config, faces.size, faces.channels), place, precision)
    total_rounds = -(-config.images // trainer.round_images)
    total_images = total_rounds * trainer.round_images

    if resume == "never":
        _put_aside(run, console)
    checkpoint = newest_checkpoint(run / "checkpoints", console.warn) if record else None
    if checkpoint and checkpoint.images >= total_images:
        console.note(f"The run {run} is finished: it has {checkpoint.images:,} images. A larger --images goes on.")
        _restore_generator(run, trainer, checkpoint)
        return _result(run, checkpoint.images, started, None)

    make_folder(run)
    with (
        exclusive(run / ".lock", f"Another facegan train is writing into {run}"),
        closing(RunLog(run, checkpoint.images if checkpoint else 0, console)) as log,
        closing(faces.batches(config.batch, seed=config.seed, device=str(place))) as reals,
        StopRequests(stop) as stopped,
    ):
        if record:
            warn_other_machine(record, place, log.warn)
        session = Session(run, trainer, reals, log, total_rounds, Clock(place), stopped)
        if checkpoint:
            session.take_up(checkpoint)
            log.note(f"Going on with {run} from {checkpoint.images:,} images.")
        write_record(run, trainer, faces, reals, dataset, command, record)
        log.note(announce(trainer, total_images))
        before_images, before_seconds = trainer.images, session.clock.seconds
        session.rounds()
    rate = (trainer.images - before_images) / max(session.clock.seconds - before_seconds, 1e-9)
    return _result(run, trainer.images, started, rate)


def plan_train(
    config: TrainConfig, faces: Faces, run: str | Path, *, device: str = "auto", resume: Resume = "auto"
) -> dict[str, Any]:
    """What `train` would do with the same arguments, as plain values. Touches nothing; raises what `train` would."""
    run = Path(run)
    place, precision, record = _check(config, faces, run, device, resume)
    folders = list_checkpoints(run / "checkpoints") if record else []
    round_images = config.batch * config.d_steps
    return {
        "run": str(run),
        "faces": len(faces),
        "size": faces.size,
        "device": str(place),
        "from_images": int(folders[0].name) if folders else 0,
        **config.model_dump(),
        "images": -(-config.images // round_images) * round_images,
        "precision": precision,
    }


def _check(
    config: TrainConfig, faces: Faces, run: Path, device: str, resume: Resume
) -> tuple[torch.device, Precision, dict[str, Any] | None]:
    """Device, precision, and the record of the run that is to be taken up, if there is one."""
    if resume not in ("auto", "never"):
        raise SettingsError(f"--resume {resume} is not offered: choose auto or never.")
    place = choose_device(device)
    _refuse_large_batch(config, faces)
    find_pair(spec_of(config, faces.size, faces.channels))
    record = read_record(run) if resume == "auto" else None
    precision = resumed_precision(record, config.precision, place)
    if record:
        refuse_other_run(record, config, precision, faces, run)
    return place, precision, record


def _refuse_large_batch(config: TrainConfig, faces: Faces) -> None:
    if config.batch > len(faces):
        raise SettingsError(
            f"--batch {config.batch} is larger than the dataset ({len(faces):,} faces): choose {len(faces)} or less."
        )


def _restore_generator(run: Path, trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Writes the generator of a finished run where somebody deleted it."""
    if not (run / FILE_NAME).exists():
        trainer.load(str(checkpoint.path), checkpoint.tensors, checkpoint.state)
        save_generator(run / FILE_NAME, trainer.ema.generator(trainer.config.seed))


def _put_aside(run: Path, console: Console) -> None:
    if not run.exists():
        return
    number = 1
    while (aside := run.with_name(f"{run.name}.old-{number}")).exists():
        number += 1
    with disk_errors(run.parent):
        run.rename(aside)
    console.note(f"The run that lay in {run} is now in {aside}.")


def _result(run: Path, images: int, started: float, rate: float | None) -> TrainResult:
    rows = read_stats(run)
    if not rows:
        raise CheckpointError(f"{run} is trained, but its stats.jsonl is gone: put a copy back, or use --resume never.")
    last = rows[-1]
    return TrainResult(
        run=run,
        images=images,
        seconds=time.perf_counter() - started,
        images_per_second=last["images_per_second"] if rate is None else rate,
        loss_g=last["loss_g"],
        loss_d=last["loss_d"],
        checkpoint=folder_of(run / "checkpoints", images),
        generator=run / FILE_NAME,
    )

"""`train`: from settings and faces to a trained generator, in a run folder that can be resumed at any time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from facegan.config import TrainConfig
from facegan.config.base import seconds_of
from facegan.console import Console, shown
from facegan.errors import CheckpointError, SettingsError
from facegan.files import disk_errors, exclusive, make_folder, remove_partials, write_bytes
from facegan.nets.weights import FILE_NAME
from facegan.plugins import Trust, is_import_path
from facegan.run_dir import CHECKPOINTS, Best, checkpoint_folders, read_best
from facegan.system import affinity_cpus, choose_device, usable_cpus
from facegan.training.checkpoint import CheckpointManager
from facegan.training.distributed import World, init_distributed, local_device
from facegan.training.estimate import Estimate, explain_out_of_memory, measured_rate, two_digits
from facegan.training.init import InitWeights, read_weights, start_from
from facegan.training.log import STATS, NullLog, RunLog, read_stats
from facegan.training.loop import StopRequests, TrainLoop, fresh_state, stalled
from facegan.training.run_record import TrainRequest, read_record, warn_altered_code, warn_other_machine, write_record
from facegan.training.run_state import EVERY_IMAGES, Clock, PeriodicEval
from facegan.training.time_budget import images_in_time
from facegan.training.trackers import tracked
from facegan.training.trainer import Faces, Trainer, condition_of, epoch_of, spec_of
from facegan.training.validate import validate_run


@dataclass(frozen=True)
class TrainResult:
    """The outcome of a training. Losses are means of the last training row in stats.jsonl."""

    run: Path
    images: int  # real images shown to the discriminator, over all starts of the run
    seconds: float  # of this start, wall time
    images_per_second: float  # without start-up, saving and sampling; of the last row if nothing was left to do
    loss_g: float
    loss_d: float
    checkpoint: Path
    generator: Path
    best: Best | None  # so far, with evaluations
    ended: str = ""  # why ``--stop-after`` ended it before all its images

    def to_json(self) -> dict[str, Any]:
        values = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}
        return {key: value for key, value in values.items() if value or key not in ("best", "ended")}


def train(config: TrainConfig, faces: Faces, run: str | Path, **options: Any) -> TrainResult:
    """Trains a generator of ``faces`` in the folder ``run``, or resumes the run in that folder.

        train(TrainConfig.for_method("dcgan", images="4ep", faces=len(faces)), faces, "runs/mine", device="cpu")

    In a container with a CPU quota it lowers torch's number of threads to the quota, unless you chose another number.
    ``options``: other fields of `facegan.training.run_record.TrainRequest` (``device``, ``resume``, ``measure``, …).

    Raises:
        SettingsError, DatasetError: unusable here, or different from those of the run to resume.
        CheckpointError: the run's checkpoints, or the weights of ``init``, cannot be used.
        TrainingError: a loss or weight is not finite for the second time.
        DiskError: the run folder cannot be written at the start, or the last checkpoint could not be saved.
        Interrupted: Ctrl-C, SIGTERM or ``stop``; everything is saved.
    """
    started = time.perf_counter()
    request = TrainRequest(config, faces, Path(run), **options)
    run = request.run
    _limit_threads()
    evaluation = _periodic_eval(request)
    with init_distributed(choose_device(local_device(request.device))) as world:
        console = (request.console if world.is_main else None) or Console(quiet=True)
        plan = validate_run(request)
        config, device, record = plan.config, plan.device, plan.record
        if record:
            warn_altered_code(record, config, console.warn)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # for calls that name no device, such as the current stream
        world.barrier()  # all have read before the main process writes
        trainer = Trainer(config, plan.spec, device, plan.precision, world, plan.labels)
        log_to = request.log if world.is_main else "none"
        with closing(trainer), _exclusive_run(request, world, console), tracked(log_to, run, console):
            if not world.is_main:
                world.barrier()  # until the main process has renamed damaged checkpoints
            checkpoint = CheckpointManager(run).newest(console.warn) if record else None
            if world.is_main:
                world.barrier()
            finished = _finished(run, config, record or {}, checkpoint.images) if checkpoint else ""
            if checkpoint and finished:
                console.note(finished)
                if world.is_main and not (run / FILE_NAME).exists():  # somebody deleted it
                    write_bytes(run / FILE_NAME, (checkpoint.path / FILE_NAME).read_bytes())
                return _result(run, checkpoint.images, started, None)
            trusted = request.trust_code or frozenset({config.nets})
            weights = None if checkpoint else _initial_weights(record, request.init, trusted)
            if weights:
                start_from(trainer, weights)
            images, lengths = (checkpoint.images, checkpoint.state["log"]) if checkpoint else (-1, None)
            share: dict[str, Any] = {"rank": world.rank, "world_size": world.size} if world.size > 1 else {}
            share |= {"balance": config.shares} if config.shares else {}
            with (
                closing(RunLog(run, console, images, lengths) if world.is_main else NullLog()) as log,
                closing(faces.batches(config.batch, seed=config.seed, device=str(device), **share)) as reals,
                explain_out_of_memory(trainer),
                trainer.math(),
            ):
                if record:
                    warn_other_machine(record, trainer, log.warn)
                measured = 0.0
                if length := config.time:
                    images, measured = images_in_time(trainer, reals, run, evaluation, started)
                    config = trainer.config = config.with_images(images)
                    finished = _finished(run, config, record or {}, checkpoint.images) if checkpoint else ""
                    after = "." if finished else "; a resumed run keeps this number."
                    log.note(f"--images {length} on this machine is {images:,} images{after}")
                    if checkpoint and finished:
                        log.note(finished)
                        return _result(run, checkpoint.images, started, None)
                total_images = _total_images(config)
                clock = Clock(device, checkpoint.state["seconds"] if checkpoint else 0.0)
                state = fresh_state(run, trainer, reals, log, clock)
                if checkpoint:
                    state.load_checkpoint(checkpoint)
                    log.note(f"Resuming {run} from {checkpoint.images:,} images.")
                if world.is_main:
                    if evaluation:
                        state.log_reference(evaluation)
                    state.write_best()
                    write_record(
                        request, trainer, reals, plan.about_labels, weights.record() if weights else None, record
                    )
                    log.note(f"Run: {run} (sample grids: {run / 'samples'})")
                    if plan.spec.condition:
                        log.note(f"Rows of the sample grids: {shown(', '.join(plan.spec.condition.contrasts()))}.")
                    estimate = Estimate.of(trainer, trainer.images, total_images, measured)
                    for line in filter(None, (estimate.announcement(), "" if measured else estimate.advice())):
                        log.note(line)
                    for caution in [] if record else plan.cautions:
                        log.warn(caution)
                before_images, before_seconds = trainer.images, clock.seconds
                with (
                    StopRequests(request.stop, state.unsaved_images, quiet=console.quiet) as stop,
                    console.progress(total_images, "images", trainer.images) as progress,
                ):
                    TrainLoop(state, total_images // config.step_images, stop, progress, evaluation).run()
        rate = (trainer.images - before_images) / max(clock.seconds - before_seconds, 1e-9)
        return _result(run, trainer.images, started, rate)


def plan_train(config: TrainConfig, faces: Faces, run: str | Path, **options: Any) -> dict[str, Any]:
    """What `train` would do with the same arguments, as plain values. Touches nothing; raises what `train` would.

    Imports no user module: ``not_tried`` names what was not checked for that reason.
    """
    request = TrainRequest(config, faces, Path(run), **options)
    plan = validate_run(request, try_code=False)
    checkpoints = checkpoint_folders(request.run) if plan.record else []
    finished = _finished(request.run, plan.config, plan.record or {}, int(checkpoints[0].name)) if checkpoints else ""
    weights = None if checkpoints else _initial_weights(plan.record, request.init, None)
    config, code = plan.config, [name for name in (config.nets, config.loss) if is_import_path(name)]
    if weights and not code:
        start_from(Trainer(config, plan.spec, plan.device, plan.precision, labels=plan.labels), weights)
    return {
        "run": str(request.run),
        "faces": len(faces),
        "size": faces.size,
        "device": str(plan.device),
        "from_images": int(checkpoints[0].name) if checkpoints else 0,
        "init": str(weights.file) if weights else "",
        **config.model_dump(),
        "images": _total_images(config),
        **config.unmeasured,
        "precision": plan.precision,
        "not_tried": code + [name for name in ([weights.spec["name"]] if weights else []) if is_import_path(name)],
        **({"finished": finished} if finished else {}),
    }


def sentence_of(plan: dict[str, Any], config: TrainConfig, faces: Faces) -> tuple[str, str]:
    """The result of `plan_train` as one sentence, with its measured time; and advice, or "".

    Measures nothing where that would import a module of the user's own.
    """
    run, done, total, time = Path(plan["run"]), plan["from_images"], plan["images"], plan.get("time", "")
    if plan.get("finished"):
        return plan["finished"], ""
    if plan["not_tried"]:
        return f"Would train {config.method} in {run}: {time or f'{total - done:,} images'}.", ""
    condition, labels = condition_of(config, faces, epoch_of(config, faces))
    spec = spec_of(config, faces.size, faces.channels, condition)
    trainer = Trainer(config, spec, torch.device(plan["device"]), plan["precision"], labels=labels)
    with closing(trainer), explain_out_of_memory(trainer):
        rate = measured_rate(trainer)
        total = total or two_digits(rate * (seconds_of(time) or 0))
        if finished := _finished(run, config.with_images(total), {}, done):
            return finished, ""
        if total < config.step_images:
            raise SettingsError(
                f"--images {time} is too short for a step here.\nUse a longer time, or a number of images."
            )
        estimate = Estimate.of(trainer, done, total, rate)
    return estimate.plan(run, time), "" if time else estimate.advice()


def _total_images(config: TrainConfig) -> int:
    """Whole steps."""
    return -(-config.images // config.step_images) * config.step_images


def _limit_threads() -> None:
    """torch counts the CPUs of the affinity mask (or their cores, with two threads each); a quota may allow fewer."""
    all_cpus = affinity_cpus()
    is_default = torch.get_num_threads() in (all_cpus, all_cpus // 2)
    if is_default and os.environ.keys().isdisjoint(("OMP_NUM_THREADS", "MKL_NUM_THREADS")):
        torch.set_num_threads(min(torch.get_num_threads(), usable_cpus()))


def _periodic_eval(request: TrainRequest) -> PeriodicEval | None:
    """Raises SettingsError if the settings ask for evaluations, and there is no measure."""
    every = request.config.eval_every if request.eval_every is None else request.eval_every
    if request.measure and request.eval_every is not None and every < 1:
        raise SettingsError(f"eval_every {every} is not a number of images. Choose 1 or more.")
    if request.measure:
        return PeriodicEval(request.measure, every or EVERY_IMAGES, request.best)
    if request.config.eval_every:
        raise SettingsError(f"train.eval_every = {every} needs a measure. Pass facegan.train(..., measure=...).")
    return None


def _initial_weights(
    record: dict[str, Any] | None, init: str | Path | None, trust_code: Trust | None
) -> InitWeights | None:
    """Weights of a new run, or of a run that was stopped before its first checkpoint."""
    recorded = (record or {}).get("init")
    path = init or (recorded["path"] if recorded else None)
    return read_weights(path, trust_code) if path else None


@contextmanager
def _exclusive_run(request: TrainRequest, world: World, console: Console) -> Iterator[None]:
    """The run folder for this start alone, for all of its processes."""
    if not world.is_main:
        world.barrier()
        yield
        return
    run = request.run
    locked = f"Another facegan train is writing into {run}"
    if request.resume == "never" and run.exists():
        with exclusive(run / ".lock", locked), disk_errors(run.parent):
            number = 1
            while (renamed := run.with_name(f"{run.name}.old-{number}")).exists():
                number += 1
            run.rename(renamed)
        console.note(f"The old run in {run} is now in {renamed}.")
    make_folder(run)
    with exclusive(run / ".lock", locked):
        for folder in (run, run / "samples", run / CHECKPOINTS):
            remove_partials(folder)
        world.barrier()
        yield


def _finished(run: Path, config: TrainConfig, record: dict[str, Any], images: int) -> str:
    """The sentence of a run that needs no more steps after its newest checkpoint; "" of all others.

    One that ``--stop-after`` ended continues if that is larger now, or if something else is measured.
    """
    if not config.time and images >= _total_images(config):
        return f"The run {run} is finished: it has {images:,} images. Use a larger --images to continue."
    same = all(record.get("settings", {}).get(name) == getattr(config, name) for name in ("eval_n", "eval_metrics"))
    rows = [row for row in read_stats(run) if row["images"] <= images] if same and config.stop_after else []
    why = stalled(config, rows, read_best(run)) if rows else ""
    more = "Use a larger --stop-after, or none, to continue."
    return f"The run {run} is finished at {images:,} images: {why}. {more}" if why else ""


def _result(run: Path, images: int, started: float, rate: float | None) -> TrainResult:
    rows = [row for row in read_stats(run) if "loss_g" in row]
    if not rows:
        raise CheckpointError(f"{run / STATS} is missing. Restore a copy, or start again with --resume never.")
    last = rows[-1]
    return TrainResult(
        run=run,
        images=images,
        seconds=time.perf_counter() - started,
        images_per_second=(last.get("images_per_second") or 0.0) if rate is None else rate,
        loss_g=last["loss_g"],
        loss_d=last["loss_d"],
        checkpoint=CheckpointManager(run).path(images),
        generator=run / FILE_NAME,
        best=read_best(run),
        ended=(read_record(run) or {}).get("ended", ""),
    )

"""`train`: settings and faces to a trained generator, in a run folder that can be taken up at any time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from facegan.config import TrainConfig
from facegan.console import Console
from facegan.errors import CheckpointError
from facegan.files import disk_errors, exclusive, make_folder, remove_partials, write_bytes
from facegan.nets.weights import FILE_NAME
from facegan.plugins import Trust, is_import_path
from facegan.run_dir import Best, read_best
from facegan.system import affinity_cpus, choose_device, usable_cpus
from facegan.training.checkpoint import Checkpoint, CheckpointManager
from facegan.training.distributed import World, init_distributed, own_device
from facegan.training.estimate import Estimate, explain_out_of_memory
from facegan.training.init import InitWeights, read_weights, start_from
from facegan.training.log import NullLog, RunLog, read_stats
from facegan.training.loop import GRID_IMAGES, StopRequests, TrainLoop
from facegan.training.monitor import Monitor
from facegan.training.periodic_eval import Measure, periodic_eval, write_best
from facegan.training.run_record import warn_altered_code, warn_other_machine, write_record
from facegan.training.run_state import Clock, RunState
from facegan.training.trainer import Batches, Faces, Trainer, spec_of
from facegan.training.validate import Resume, validate_run


@dataclass(frozen=True)
class TrainResult:
    """What a training came to. Losses are means of the last row of the training in stats.jsonl."""

    run: Path
    images: int  # real images shown to the discriminator, over all starts of the run
    seconds: float  # of this start, wall time
    images_per_second: float  # without start-up, saving and sampling; of the last row where nothing was left to do
    loss_g: float
    loss_d: float
    checkpoint: Path
    generator: Path
    best: Best | None  # so far, where something is measured

    def to_json(self) -> dict[str, Any]:
        told = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}
        return told if self.best else {key: value for key, value in told.items() if key != "best"}


def train(
    config: TrainConfig,
    faces: Faces,
    run: str | Path,
    *,
    device: str = "auto",
    resume: Resume = "auto",
    init: str | Path | None = None,
    console: Console | None = None,
    dataset: str = "",
    command: list[str] | None = None,
    stop: Callable[[], bool] | None = None,
    measure: Measure | None = None,
    eval_every: int | None = None,
    best: str = "",
    trust_code: Trust = False,
) -> TrainResult:
    """Trains a generator of ``faces`` in the folder ``run``, or goes on with the run that lies there.

    In a container with a CPU quota it lowers torch's number of threads to the quota, unless you chose another number.

    Args:
        config: what to learn; ``images`` is rounded up to whole rounds.
        faces: square uint8 images, such as `facegan.FaceShards`.
        run: the run folder; DESIGN §6 lists what it holds.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        resume: ``never`` puts an existing run aside and starts anew.
        init: trained weights to start a new run from: a generator's file, a checkpoint or a run. A continuation has
            its own.
        dataset, command: recorded in run.json; they change nothing.
        stop: asked after each round; true stops as Ctrl-C does.
        measure: given the generator (the moving average, in eval mode), gives metrics; what it gives becomes a row of
            stats.jsonl, and the checkpoint that is best so far is kept and named in best.json. One that is a
            `facegan.training.periodic_eval.Referenced` also tells what it compares with.
        eval_every: images between measurements; None: those of ``config``, or 50,000 where it has none.
        best: the metric by which the best is chosen, by its smallest value; "": the first that ``measure`` gives.
        trust_code: a generator's file that is named by ``init`` may have nets of its own (`facegan.load_generator`);
            those that ``config`` names always may.

    Raises:
        SettingsError: the settings can't be used here, or differ from those that the run was begun with.
        DatasetError: the faces differ from those that the run was begun with.
        CheckpointError: the run's checkpoints, or the weights of ``init``, can't be used.
        TrainingError: a loss or weight is not finite, for the second time.
        DiskError: the run's folder can't be written at the start, or its last checkpoint could not be saved.
        Interrupted: Ctrl-C, SIGTERM or ``stop``; all is saved.
    """
    started, run = time.perf_counter(), Path(run)
    _limit_threads()
    judge = periodic_eval(config, measure, eval_every, best)
    with init_distributed(choose_device(own_device(device))) as ranks:
        console = (console or Console(quiet=True)) if ranks.writes else Console(quiet=True)
        place, precision, record, cautions = validate_run(config, faces, run, device, resume, init)
        if record:
            warn_altered_code(record, config, console.warn)
        if place.type == "cuda":
            torch.cuda.set_device(place)  # what names no device, such as the current stream, shall mean this one
        ranks.wait()  # all have read before the first writes
        trainer = Trainer(config, spec_of(config, faces.size, faces.channels), place, precision, ranks)
        total_rounds = -(-config.images // trainer.round_images)
        total_images = total_rounds * trainer.round_images
        with closing(trainer), _taken(run, resume, ranks, console):
            checkpoint = _newest(run, ranks, console) if record else None
            if checkpoint and checkpoint.images >= total_images:
                console.note(
                    f"The run {run} is finished: it has {checkpoint.images:,} images. A larger --images goes on."
                )
                _restore_generator(run, checkpoint, ranks)
                return _result(run, checkpoint.images, started, None)
            trusted = trust_code or frozenset({config.nets})
            weights = _initial_weights(record, init, trusted) if checkpoint is None else None
            if weights:
                start_from(trainer, weights)
            with (
                closing(_log(run, ranks, console, checkpoint)) as log,
                closing(_batches(faces, config, place, ranks)) as reals,
                explain_out_of_memory(trainer),
                trainer.math(),
            ):
                trainer.warn = log.warn
                if record:
                    warn_other_machine(record, place, ranks.size, log.warn)
                clock = Clock(place, checkpoint.state["seconds"] if checkpoint else 0.0)
                state = RunState(run, trainer, reals, log, monitor_for(trainer), clock)
                if checkpoint:
                    state.take_up(checkpoint)
                    log.note(f"Going on with {run} from {checkpoint.images:,} images.")
                if ranks.writes:
                    if judge:
                        state.introduce(judge)
                    write_best(run, state.best)
                    write_record(
                        run, trainer, faces, reals, dataset, command, weights.record() if weights else None, record
                    )
                    log.note(f"Run: {run} (sample grids: {run / 'samples'})")
                    estimate = Estimate.of(trainer, trainer.images, total_images)
                    log.note(estimate.announcement())
                    if advice := estimate.advice():
                        log.note(advice)
                    for caution in cautions if not record else []:
                        log.warn(caution)
                before_images, before_seconds = trainer.images, clock.seconds
                with StopRequests(stop, quiet=console.quiet) as stopped:
                    TrainLoop(state, total_rounds, stopped, judge).rounds()
        rate = (trainer.images - before_images) / max(clock.seconds - before_seconds, 1e-9)
        return _result(run, trainer.images, started, rate)


def _limit_threads() -> None:
    """Torch counts the CPUs (or their cores, of two threads each) of the affinity, where a quota may allow fewer."""
    all_cpus = affinity_cpus()
    is_default = torch.get_num_threads() in (all_cpus, all_cpus // 2)
    if is_default and os.environ.keys().isdisjoint(("OMP_NUM_THREADS", "MKL_NUM_THREADS")):
        torch.set_num_threads(min(torch.get_num_threads(), usable_cpus()))


def plan_train(
    config: TrainConfig,
    faces: Faces,
    run: str | Path,
    *,
    device: str = "auto",
    resume: Resume = "auto",
    init: str | Path | None = None,
) -> dict[str, Any]:
    """What `train` would do with the same arguments, as plain values. Touches nothing; raises what `train` would.

    No module of the user's own is imported: ``not_tried`` names what was therefore not checked.
    """
    run = Path(run)
    place, precision, record, _ = validate_run(config, faces, run, device, resume, init, try_code=False)
    folders = CheckpointManager(run / "checkpoints").paths() if record else []
    weights = _initial_weights(record, init, None) if not folders else None
    code = [name for name in (config.nets, config.loss) if is_import_path(name)]
    if weights and not code:
        start_from(Trainer(config, spec_of(config, faces.size, faces.channels), place, precision), weights)
    return {
        "run": str(run),
        "faces": len(faces),
        "size": faces.size,
        "device": str(place),
        "from_images": int(folders[0].name) if folders else 0,
        "init": str(weights.file) if weights else "",
        **config.model_dump(),
        "images": -(-config.images // config.round_images) * config.round_images,
        "precision": precision,
        "not_tried": code + [name for name in ([weights.spec["name"]] if weights else []) if is_import_path(name)],
    }


def sentence_of(plan: dict[str, Any], config: TrainConfig, faces: Faces) -> tuple[str, str]:
    """What `plan_train` planned as one sentence, with its measured time; and advice, or "".

    Nothing is measured where that would import a module of the user's own.
    """
    run, done, total = Path(plan["run"]), plan["from_images"], plan["images"]
    if done >= total:
        return f"The run {run} is finished: it has {done:,} images. A larger --images continues it.", ""
    if plan["not_tried"]:
        return f"Would train {config.method} in {run}: {total - done:,} images.", ""
    spec = spec_of(config, faces.size, faces.channels)
    trainer = Trainer(config, spec, torch.device(plan["device"]), plan["precision"])
    with closing(trainer), explain_out_of_memory(trainer):
        estimate = Estimate.of(trainer, done, total)
    return estimate.plan(run), estimate.advice()


def _initial_weights(
    record: dict[str, Any] | None, init: str | Path | None, trust_code: Trust | None
) -> InitWeights | None:
    """Those of a new run, or of one that was stopped before its first checkpoint."""
    begun = (record or {}).get("init")
    path = init or (begun["path"] if begun else None)
    return read_weights(path, trust_code) if path else None


def monitor_for(trainer: Trainer) -> Monitor:
    spec = trainer.spec
    shape = (GRID_IMAGES, spec.channels, spec.size, spec.size)
    return Monitor(not trainer.work.loss.critic, shape)


@contextmanager
def _taken(run: Path, resume: Resume, ranks: World, console: Console) -> Iterator[None]:
    """The run's folder for this start alone, for all of its processes."""
    if not ranks.writes:
        ranks.wait()
        yield
        return
    if resume == "never":
        _put_aside(run, console)
    make_folder(run)
    with locked(run):
        for folder in (run, run / "samples", run / "checkpoints"):
            remove_partials(folder)
        ranks.wait()
        yield


def _newest(run: Path, ranks: World, console: Console) -> Checkpoint | None:
    """The first process puts damaged checkpoints aside before the others look."""
    shelf = CheckpointManager(run / "checkpoints")
    if not ranks.writes:
        ranks.wait()
        return shelf.newest(lambda text: None)
    checkpoint = shelf.newest(console.warn)
    ranks.wait()
    return checkpoint


def _log(run: Path, ranks: World, console: Console, checkpoint: Checkpoint | None) -> RunLog:
    if not ranks.writes:
        return NullLog(run)
    at, lengths = (checkpoint.images, checkpoint.state["log"]) if checkpoint else (None, None)
    return RunLog(run, console, at, lengths)


def _batches(faces: Faces, config: TrainConfig, place: torch.device, ranks: World) -> Batches:
    share = {"rank": ranks.rank, "world_size": ranks.size} if ranks.size > 1 else {}
    return faces.batches(config.batch, seed=config.seed, device=str(place), **share)


def _restore_generator(run: Path, checkpoint: Checkpoint, ranks: World) -> None:
    """Writes the generator of a finished run where somebody deleted it."""
    if ranks.writes and not (run / FILE_NAME).exists():
        write_bytes(run / FILE_NAME, (checkpoint.path / FILE_NAME).read_bytes())


def _put_aside(run: Path, console: Console) -> None:
    if not run.exists():
        return
    with locked(run), disk_errors(run.parent):
        number = 1
        while (aside := run.with_name(f"{run.name}.old-{number}")).exists():
            number += 1
        run.rename(aside)
    console.note(f"The run that lay in {run} is now in {aside}.")


def locked(run: Path) -> AbstractContextManager[None]:
    return exclusive(run / ".lock", f"Another facegan train is writing into {run}")


def _result(run: Path, images: int, started: float, rate: float | None) -> TrainResult:
    rows = [row for row in read_stats(run) if "loss_g" in row]
    if not rows:
        raise CheckpointError(f"{run} is trained, but its stats.jsonl is gone: put a copy back, or use --resume never.")
    last = rows[-1]
    return TrainResult(
        run=run,
        images=images,
        seconds=time.perf_counter() - started,
        images_per_second=(last.get("images_per_second") or 0.0) if rate is None else rate,
        loss_g=last["loss_g"],
        loss_d=last["loss_d"],
        checkpoint=CheckpointManager(run / "checkpoints").path(images),
        generator=run / FILE_NAME,
        best=read_best(run),
    )

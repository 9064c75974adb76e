"""The training loop: a list of named steps, and what each of them does to the run folder."""

from __future__ import annotations

import contextlib
import copy
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self

import torch

from facegan.config import TrainConfig
from facegan.console import Progress, around_bar, counted
from facegan.errors import DiskError, Interrupted
from facegan.files import human_bytes
from facegan.run_dir import Best, sample_grids
from facegan.sample.generate import grid, images_of, sample_images
from facegan.sample.latents import contrast_inputs
from facegan.system import advice_if_overloaded
from facegan.training.log import RunLog, unimproved
from facegan.training.losses import rank_accuracy
from facegan.training.monitor import Monitor, problem_of
from facegan.training.optim import schedule_factor
from facegan.training.run_record import record_end
from facegan.training.run_state import Clock, NotFinite, PeriodicEval, RunState
from facegan.training.trainer import Batches, Trainer

GRID_IMAGES, GRID_COLUMNS = 64, 8
EARLY_GRIDS = (500, 1_000, 2_000, 5_000)  # images; those below ``sample_every``
PATIENCE = 10.0  # seconds after the first signal in which further signals lose nothing
_LOAD_SECONDS = 60.0  # that the machine's load averages over
_LONG_STEP = 2.0  # seconds; a stop does not wait for longer steps


def stalled(config: TrainConfig, rows: list[dict[str, Any]], best: Best | None) -> str:
    """Why ``--stop-after`` ends the training after these rows of its log; "" if it does not."""
    count = unimproved(rows)
    if not 0 < config.stop_after <= count:
        return ""
    if best is None:
        return f"no evaluation of {count} was finite"
    return f"{best.metric} has not improved for {counted(count, 'evaluation')}, since {best.images:,} images"


def fresh_state(run: Path, trainer: Trainer, reals: Batches, log: RunLog, clock: Clock) -> RunState:
    """The state before the first step."""
    has_accuracy = trainer.gan_step.loss.accuracy is not rank_accuracy
    monitor = Monitor(has_accuracy, (GRID_IMAGES, trainer.spec.channels, trainer.spec.size, trainer.spec.size))
    return RunState(run, trainer, reals, log, monitor, clock)


@dataclass
class TrainLoop:
    """One start of a run, from the loaded checkpoint to its end or interruption."""

    state: RunState
    total_steps: int
    stop: StopRequests
    progress: Progress
    evaluation: PeriodicEval | None = None
    step_seconds: float = float("inf")  # of the last step; inf: unknown
    ended: str = ""  # why the training stopped before `total_steps`
    advised: bool = False  # about the machine's load

    def __post_init__(self) -> None:
        self.trainer, self.config = self.state.trainer, self.state.trainer.config
        self.started = time.monotonic()

    def run(self) -> None:
        """Trains to the end. Raises Interrupted, TrainingError and DiskError as `facegan.train` does."""
        state, trainer = self.state, self.trainer
        if state.saved_at < 0:
            self.begin()
        if trainer.world.any(self.stop.signalled()):
            self.interrupt()
        self.show_newest()
        state.clock.start()
        while trainer.steps < self.total_steps and not self.ended:
            try:
                self.iterate()
            except NotFinite as problem:
                self.set_ended("")
                at = state.images
                self.progress.advance(state.roll_back(str(problem)) - at)
        if state.saved_at != state.images:
            raise state.unsaved_error()

    def begin(self) -> None:
        """Shows real faces to the monitor, and saves the state before the first step, as a point to roll back to."""
        reals = self.state.reals
        position, faces = dict(reals.state_dict()), [next(reals).cpu()]
        while sum(map(len, faces)) < GRID_IMAGES:
            faces.append(next(reals).cpu())
        reals.load_state_dict(position)
        self.state.monitor.set_real(torch.cat(faces)[:GRID_IMAGES])
        self.sample()
        self.save(scheduled=True)

    def iterate(self) -> None:
        """One step, and all that is due after it."""
        state, config, evaluation = self.state, self.config, self.evaluation
        before = state.images
        if not self.train_step():
            self.interrupt()
        self.progress.advance(config.step_images)
        last = self.trainer.steps == self.total_steps
        if last or self.due(config.log_every):
            self.write_row()
        if last or self.due(config.sample_every):
            self.sample(last=last)
        elif any(before < images <= state.images for images in EARLY_GRIDS if images < config.sample_every):
            self.sample(early=True)
        is_best = False
        if evaluation and (last or self.due(evaluation.every_images)):
            is_best = self.evaluate(evaluation)
            why = "" if last else stalled(config, state.log.rows, state.best)
            if self.trainer.world.any(bool(why)):
                self.end_early(why)
        scheduled = self.due(config.save_every) or state.images in state.milestones
        if last or self.ended or scheduled or is_best:
            self.save(scheduled)
        if not (last or self.ended) and self.trainer.world.any(self.stop()):  # all stop at the same step
            self.interrupt()

    def train_step(self) -> bool:
        """False: a signal came, and the step, which takes long, was discarded. Several processes finish each step."""
        trainer, start, finished = self.trainer, time.monotonic(), True
        no_graphs = trainer.no_graphs_reason
        if self.step_seconds > _LONG_STEP and trainer.world.size == 1 and trainer.device.type != "cuda":
            with self.stop.during("discardable step"):
                finished = trainer.train_step_unless(self.stop.signalled, self.state.reals)
        else:
            trainer.train_step(self.state.reals)
        if trainer.no_graphs_reason != no_graphs:
            self.state.log.warn(f"this training runs without CUDA graphs, and slower: {trainer.no_graphs_reason}.")
        self.step_seconds = time.monotonic() - start
        return finished

    def save(self, scheduled: bool) -> bool:
        with self.stop.during("save"):
            return self.state.save(scheduled)

    def due(self, images: int) -> bool:
        """Whether the last step reached or passed a multiple of ``images``."""
        return self.state.images // images > (self.state.images - self.config.step_images) // images

    def write_row(self) -> None:
        state, trainer = self.state, self.trainer
        means = trainer.means()
        if problem := problem_of(means, min(net.scaler.get_scale() for net in (trainer.g, trainer.d))):
            raise NotFinite(problem)
        images, seconds, (images_before, seconds_before) = state.images, state.clock.seconds, state.logged_at
        rate = (images - images_before) / max(seconds - seconds_before, 1e-9)
        row: dict[str, float] = {"images": images, "rounds": trainer.steps, **means, "lr_scale": trainer.lr_scale}
        row |= {"images_per_second": round(rate, 2), "seconds": round(seconds, 3)}
        shown = [f"D {row['loss_d']:.3f}", f"G {row['loss_g']:.3f}", f"D right {row['d_accuracy']:.0%}"]
        if trainer.device.type == "cuda":
            row["gpu_bytes"] = torch.cuda.memory_reserved(trainer.device)
            shown.append(human_bytes(row["gpu_bytes"]))
        state.log.row(row)
        self.progress.advance(0, " · ".join(shown))
        trainer.clear_means()
        state.logged_at = images, seconds
        state.report(state.monitor.update(row))
        self.check_load()

    def check_load(self) -> None:
        """Advice, once, if other programs slow the training down."""
        if self.advised or self.trainer.device.type != "cpu" or self.trainer.world.size > 1:
            return
        if time.monotonic() - self.started < _LOAD_SECONDS:  # what ran before the training still counts
            return
        if advice := advice_if_overloaded(torch.get_num_threads()):
            self.advised = True
            self.state.log.warn(advice)

    def sample(self, *, early: bool = False, last: bool = False) -> None:
        """A grid from fixed latents, the same as `facegan sample` draws for the run's seed; with a condition, the first
        of them in rows of different attributes.

        Early grids are only for people: the monitor compares grids that are ``sample_every`` images apart.
        """
        state, trainer, config = self.state, self.trainer, self.config
        if not trainer.world.is_main:
            return
        with state.clock.stopped():
            generator = state.generator()
            samples = sample_images(generator, GRID_IMAGES, config.seed)
            shown = samples
            if trainer.spec.condition:
                shown = images_of(generator, contrast_inputs(trainer.spec, config.seed, GRID_COLUMNS))
            state.log.grid(grid(shown, GRID_COLUMNS), state.images)
            if not early:
                # While only D learns in its warm-up, unchanged samples are no failure.
                waits = config.d_warmup_images > 0 and state.images <= config.d_warmup_images
                rate = 0.0 if waits else schedule_factor(config.schedule, state.images, config.images)
                state.report(state.monitor.update_grid(samples, state.images, trainer.steps, rate))
            state.log.draw(now=last)
            self.show_newest()

    def evaluate(self, evaluation: PeriodicEval) -> bool:
        """Whether the generator is the best so far."""
        state, trainer, before = self.state, self.trainer, self.state.best
        if trainer.world.is_main:
            with state.clock.stopped():
                generator = copy.deepcopy(state.generator())  # a user's measure may change it
                floor = next((row["floor"] for row in reversed(state.log.rows) if "floor" in row), {})
                values, state.best = evaluation.evaluate(generator, state.images, before, floor)
                is_best = state.best != before
                state.log_row(measured=values, best=is_best)
                found = ", ".join(_texts(values))
                state.log.note(f"{state.images:,} images: {found}{' (best so far)' if is_best else ''}")
                self.show_newest()
        return trainer.world.any(state.best != before)

    def show_newest(self) -> None:
        """The newest grid's file and the first metric of the last evaluation, below the progress bar."""
        grids = [str(path) for _, path in sample_grids(self.state.run)[-1:]]
        row = next((row for row in reversed(self.state.log.rows) if row.get("measured")), None)
        measured = [f"{_texts(row['measured'])[0]} at {row['images']:,} images"] if row else []
        self.progress.below = " · ".join(grids + measured)

    def end_early(self, why: str) -> None:
        """The last row, grid and curves, which the next steps would have brought."""
        state = self.state
        if not self.due(self.config.log_every):
            self.write_row()
        if not self.due(self.config.sample_every):
            self.sample()
        self.set_ended(why or "the main process has stopped")
        state.log_row(ended=why)
        state.log.note(f"Stopped at {state.images:,} images: {why}. The best checkpoint is kept.")
        state.log.draw(now=True)

    def set_ended(self, why: str) -> None:
        """``why`` is "" where a roll-back begins again."""
        if self.ended != why and self.trainer.world.is_main:
            with contextlib.suppress(DiskError):  # the log says it as well
                record_end(self.state.run, why)
        self.ended = why

    def interrupt(self) -> None:
        state = self.state
        try:
            if state.saved_at != state.images and not self.save(scheduled=False):
                raise state.unsaved_error()
        except NotFinite as problem:  # the resumed run meets it again, and rolls back
            raise Interrupted(
                f"Stopped at {state.images:,} images without saving, because {problem}.\n"
                f"The same command resumes from {state.saved_at:,} images."
            ) from None
        raise Interrupted(f"Stopped at {state.images:,} images and saved in {state.run}. The same command resumes it.")


def _texts(measured: Mapping[str, float | None]) -> list[str]:
    return [f"{name} {'not finite' if value is None else f'{value:.4g}'}" for name, value in measured.items()]


class StopRequests:
    """Inside this context, Ctrl-C and SIGTERM set a flag that the loop reads, and print at once what will happen.

    Later signals change nothing within `PATIENCE` and during a save; after that, a signal does what it did before, and
    everything since the last save is lost: ``unsaved_images``. Outside the main thread no signals arrive, and only
    ``also``, another reason to stop, is called.
    """

    def __init__(
        self, also: Callable[[], bool] | None, unsaved_images: Callable[[], int], *, quiet: bool = False
    ) -> None:
        self._also, self._unsaved_images, self._quiet = also, unsaved_images, quiet
        self._since: float | None = None  # of the first signal
        self._doing = ""
        self._before: dict[int, signal.Handlers | Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyrefly: ignore - as signal.signal returned it
        self._before = {}

    def __call__(self) -> bool:
        return self.signalled() or (self._also is not None and self._also())

    def signalled(self) -> bool:
        return self._since is not None

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """A ``save``, which is always finished, or a ``discardable step``, which a signal discards."""
        self._doing = what
        try:
            yield
        finally:
            self._doing = ""

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now, images = time.monotonic(), self._unsaved_images()
        if self._since is None:
            self._since = now
            when = "now, without this step," if self._doing == "discardable step" else "after this step"
            again = f"; press again after {PATIENCE:.0f} s to lose the last {images:,} images" if images else ""
            self._print(f"Stopping {when} and saving{again}.")
        elif self._doing == "save":
            self._print("Finishing the save first.")
        elif now - self._since < PATIENCE:
            self._print("Stopping and saving. Please wait.")
        else:
            self._print(f"Stopping without saving: the last {images:,} images are lost.")
            self.__exit__()
            signal.raise_signal(number)

    def _print(self, text: str) -> None:
        """One write without Python's buffers: the signal may have interrupted another print."""
        if self._quiet or sys.__stderr__ is None:
            return
        with contextlib.suppress(OSError, ValueError):
            stderr = sys.__stderr__.fileno()
            before, after = around_bar() if os.isatty(stderr) else ("", "\n")
            os.write(stderr, f"{before}{text}{after}".encode())

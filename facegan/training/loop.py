"""The loop: a list of named steps, and what each of them does to the run folder."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any, Self

import torch

from facegan.console import Progress
from facegan.errors import Interrupted
from facegan.files import human_bytes
from facegan.sample.generate import grid, sample_images
from facegan.training.monitor import diversity, first_not_finite, overflows
from facegan.training.optim import schedule_factor
from facegan.training.periodic_eval import PeriodicEval
from facegan.training.run_state import NotFinite, RunState

# Ctrl-C and SIGTERM as a question that the loop asks.

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 10.0  # seconds after the first signal in which no other one loses anything


class StopRequests:
    """While entered, a signal sets a flag and prints at once what will happen.

    Later signals change nothing within `PATIENCE` and during a save; after that one does what it always did, and
    everything since the last save is lost. Outside the main thread no signals arrive, and only ``also`` is asked.

    Args:
        also: another reason to stop.
        quiet: print nothing.
    """

    def __init__(self, also: Callable[[], bool] | None = None, *, quiet: bool = False) -> None:
        self._also, self._quiet = also, quiet
        self._since: float | None = None  # of the first signal
        self._saving = False
        self._before: dict[int, signal.Handlers | Callable[[int, FrameType | None], object] | int | None] = {}
        self.unsaved: Callable[[], int] = lambda: 0  # images that a stop without a save would lose
        self.discards = False  # the step that is running is not finished, but discarded

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def __call__(self) -> bool:
        return self.signalled() or (self._also is not None and self._also())

    def signalled(self) -> bool:
        return self._since is not None

    @contextmanager
    def saving(self) -> Iterator[None]:
        """A save is always finished."""
        self._saving = True
        try:
            yield
        finally:
            self._saving = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now, images = time.monotonic(), self.unsaved()
        if self._since is None:
            self._since = now
            when = "now, without this step," if self.discards else "after this step"
            again = f"; press again after {PATIENCE:.0f} s to lose the last {images:,} images" if images else ""
            self._say(f"Stopping {when} and saving{again}.")
        elif self._saving:
            self._say("Saving. This is finished first.")
        elif now - self._since < PATIENCE:
            self._say("Stopping and saving. Please wait.")
        else:
            self._say(f"Stopping without saving: the last {images:,} images are lost.")
            self._restore()
            signal.raise_signal(number)

    def _say(self, text: str) -> None:
        """One write without Python's buffers: the signal may have come in the middle of another print."""
        if self._quiet or sys.__stderr__ is None:
            return
        with contextlib.suppress(OSError, ValueError):
            place = sys.__stderr__.fileno()
            start = "\r\x1b[K" if os.isatty(place) else ""  # over a progress bar, which is drawn again below
            os.write(place, f"{start}{text}\n".encode())

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType] - as signal.signal returned it
        self._before = {}


GRID_IMAGES = 64
EARLY_GRIDS = (500, 1_000, 2_000, 5_000)  # images; those below ``sample_every``
_LONG_STEP = 2.0  # seconds; a stop does not wait for longer ones


@dataclass
class TrainLoop:
    """One start of a run, from the checkpoint that it takes up to its end or interruption."""

    state: RunState
    total_rounds: int
    stop: StopRequests
    judge: PeriodicEval | None = None
    progress: Progress = field(init=False)
    step_seconds: float = field(init=False, default=float("inf"))  # of the last step; inf: not known

    def rounds(self) -> None:
        """Trains to the end.

        Raises:
            Interrupted: stop was asked for; all is saved.
            TrainingError: a loss or weight is not finite, and was so before; nothing of it is saved.
            DiskError: the last checkpoint could not be saved.
        """
        state, trainer = self.state, self.state.trainer
        total_images = self.total_rounds * trainer.round_images
        self.stop.unsaved = lambda: state.images - max(state.saved_at, 0)
        with state.log.console.progress(total_images, "images", state.images) as self.progress:
            if state.saved_at < 0:
                self.begin()
            if trainer.ranks.any(self.stop.signalled()):
                self.interrupt()
            state.clock.start()
            while trainer.rounds < self.total_rounds:
                try:
                    self.round()
                except NotFinite as problem:
                    at = state.images
                    self.progress.advance(state.roll_back(str(problem)) - at)
        if state.saved_at != state.images:
            raise state.unsaved()

    def begin(self) -> None:
        """What real faces are like, and the state before the first round, to which a run can be rolled back."""
        state = self.state
        position, faces = dict(state.reals.state_dict()), [next(state.reals).cpu()]
        while sum(map(len, faces)) < GRID_IMAGES:
            faces.append(next(state.reals).cpu())
        state.reals.load_state_dict(position)
        state.health.real_diversity = diversity(torch.cat(faces)[:GRID_IMAGES])
        self.sample()
        self.save(scheduled=True)

    def round(self) -> None:
        state, trainer, config = self.state, self.state.trainer, self.state.trainer.config
        if not self.step():
            self.interrupt()
        self.progress.advance(trainer.round_images)
        last = trainer.rounds == self.total_rounds
        if last or self.due(config.log_every):
            self.write_row()
        if last or self.due(config.sample_every):
            self.sample(last=last)
        elif any(self.due(images, once=True) for images in EARLY_GRIDS if images < config.sample_every):
            self.sample(early=True)
        is_best = self.judge is not None and (last or self.due(self.judge.every_images)) and self.measure(self.judge)
        scheduled = self.due(config.save_every) or state.images in state.milestones()
        if last or scheduled or is_best:
            self.save(scheduled)
        if not last and trainer.ranks.any(self.stop()):  # all stop at the same round
            self.interrupt()

    def step(self) -> bool:
        """False: a signal came, and the step, which takes long, was discarded. Several processes finish each step."""
        state, trainer, start = self.state, self.state.trainer, time.monotonic()
        self.stop.discards = (
            self.step_seconds > _LONG_STEP and trainer.ranks.size == 1 and trainer.device.type != "cuda"
        )
        if self.stop.discards:
            finished = trainer.round_unless(self.stop.signalled, state.reals)
        else:
            finished = True
            trainer.round(state.reals)
        self.stop.discards, self.step_seconds = False, time.monotonic() - start
        return finished

    def save(self, scheduled: bool) -> bool:
        with self.stop.saving():
            return self.state.save(scheduled)

    def due(self, images: int, *, once: bool = False) -> bool:
        """Whether the round just done passed a multiple of ``images``, or the first one."""
        after = self.state.images
        before = after - self.state.trainer.round_images
        return before < images <= after if once else after // images > before // images

    def write_row(self) -> None:
        state, trainer = self.state, self.state.trainer
        means = trainer.means()
        scalers = (trainer.g.scaler, trainer.d.scaler)
        problem = first_not_finite(means) or overflows(means, min(scaler.get_scale() for scaler in scalers))
        if problem:
            raise NotFinite(problem)
        images, seconds, (images_before, seconds_before) = state.images, state.clock.seconds, state.logged_at
        rate = (images - images_before) / max(seconds - seconds_before, 1e-9)
        row = {"images": images, "rounds": trainer.rounds, **means, "lr_scale": trainer.lr_scale}
        row |= {"images_per_second": round(rate, 2), "seconds": round(seconds, 3)}
        if trainer.device.type == "cuda":
            row["gpu_bytes"] = torch.cuda.memory_reserved(trainer.device)
        state.log.row(row)
        self.progress.advance(0, progress_text(row))
        trainer.clear_means()
        state.logged_at = images, seconds
        state.tell(state.health.see_row(row))

    def sample(self, *, early: bool = False, last: bool = False) -> None:
        """A grid from fixed latents: those that `facegan sample` takes for the run's seed.

        Early ones are for people alone: `Health` compares grids that are ``sample_every`` images apart.
        """
        state, config = self.state, self.state.trainer.config
        seed = config.seed
        if not state.trainer.ranks.writes:
            return
        with state.clock.stopped():
            pictures = sample_images(state.trainer.ema.generator(seed), GRID_IMAGES, seed)
            state.log.grid(grid(pictures), state.images)
            if not early:
                # While D warms up, G does not learn: its sameness is no failure.
                waits = config.d_warmup_images > 0 and state.images <= config.d_warmup_images
                rate = 0.0 if waits else schedule_factor(config.schedule, state.images, config.images)
                state.tell(state.health.see_grid(pictures, state.images, state.trainer.rounds, rate))
            state.log.draw(now=last)

    def measure(self, judge: PeriodicEval) -> bool:
        """Whether it is the best so far."""
        state, trainer = self.state, self.state.trainer
        if not trainer.ranks.writes:
            return trainer.ranks.any(False)
        with state.clock.stopped():
            before = state.best
            values, state.best = judge.judge(trainer.ema.generator(trainer.config.seed), state.images, before)
            is_best = state.best != before
            state.log.row({"images": state.images, "rounds": trainer.rounds, "measured": values, "best": is_best})
            found = ", ".join(
                f"{name} {value:.4g}" if value is not None else f"{name} not finite" for name, value in values.items()
            )
            state.log.note(f"{state.images:,} images: {found}{' (best so far)' if is_best else ''}")
        return trainer.ranks.any(is_best)

    def interrupt(self) -> None:
        state = self.state
        try:
            if state.saved_at != state.images and not self.save(scheduled=False):
                raise state.unsaved()
        except NotFinite as problem:  # the continuation comes to it again, and rolls back
            raise Interrupted(
                f"Stopped at {state.images:,} images, which are not saved, for {problem}.\n"
                f"The same command goes on from {state.saved_at:,} images."
            ) from None
        raise Interrupted(
            f"Stopped at {state.images:,} images and saved in {state.run}. The same command goes on from there."
        )


def progress_text(row: dict[str, Any]) -> str:
    """A row as the live line has it."""
    parts = [f"D {row['loss_d']:.3f}", f"G {row['loss_g']:.3f}", f"D right {row['d_accuracy']:.0%}"]
    return " · ".join(parts + ([human_bytes(row["gpu_bytes"])] if "gpu_bytes" in row else []))

"""The state of a run at one moment, how it is evaluated, saved and loaded, and which checkpoint is its best."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from facegan.config import METRIC_TABLE
from facegan.errors import DiskError, SettingsError, TrainingError
from facegan.files import parsing, write_json
from facegan.nets import Generator, save_generator
from facegan.nets.weights import FILE_NAME
from facegan.run_dir import BEST, Best
from facegan.training.checkpoint import Checkpoint, CheckpointManager
from facegan.training.log import RunLog, reason_of
from facegan.training.monitor import Finding, Monitor
from facegan.training.trainer import Batches, Trainer

EVERY_IMAGES = 50_000  # between evaluations: the default with a measure and no train.eval_every
Measure = Callable[[Generator], Mapping[str, float]]


@runtime_checkable
class ReferenceMetric(Protocol):
    """A `Measure` that compares with a reference and can describe it. Only the main process calls it."""

    def protocol(self) -> Mapping[str, Any]:
        """All that the values depend on, before the first step; ``what`` is a phrase for people."""
        ...

    def real_vs_real(self) -> Mapping[str, float]:
        """The metrics of real images against other real images."""
        ...


@dataclass(frozen=True)
class PeriodicEval:
    """What is measured, how often, and the metric whose smallest finite value is best."""

    measure: Measure
    every_images: int
    metric: str = ""  # "": the first that ``measure`` returns

    def evaluate(
        self, generator: Generator, images: int, best: Best | None, floor: Mapping[str, float | None]
    ) -> tuple[dict[str, float | None], Best | None]:
        """All values (None: not finite), and the best so far. ``floor``: the values of real images."""
        values = {name: float(value) for name, value in self.measure(generator).items()}
        metric = self.metric or next(iter(values), "")
        if metric not in values:
            raise SettingsError(
                f"The best checkpoint is chosen by '{metric}', but measure returns {', '.join(values) or 'nothing'}."
            )
        value = values[metric]
        tolerance = METRIC_TABLE[metric].tolerance if metric in METRIC_TABLE else None
        as_real = tolerance is not None and value <= (floor.get(metric) or 0.0) + tolerance
        if math.isfinite(value) and (best is None or best.metric != metric or value < best.value or as_real):
            best = Best(metric, value, images)
        return {name: value if math.isfinite(value) else None for name, value in values.items()}, best


class Clock:
    """Seconds of training alone, without start-up, saving and sampling."""

    def __init__(self, device: torch.device, seconds: float = 0.0) -> None:
        self._device, self._before = device, seconds
        self._since: float | None = None  # None while it is stopped

    @property
    def seconds(self) -> float:
        return self._before + (time.perf_counter() - self._since if self._since is not None else 0.0)

    def start(self) -> None:
        self._since = time.perf_counter()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # queued work belongs to the training
        running, self._before, self._since = self._since is not None, self.seconds, None
        try:
            yield
        finally:
            if running:
                self.start()


class NotFinite(Exception):
    """Names the loss or tensor that is not finite."""


@dataclass
class RunState:
    """The parts whose states together are a checkpoint."""

    run: Path
    trainer: Trainer
    reals: Batches
    log: RunLog
    monitor: Monitor
    clock: Clock
    best: Best | None = None
    best_saved: Best | None = None
    rolled_back: dict[str, Any] | None = None
    saved_at: int = -1  # images; -1: nothing is saved
    logged_at: tuple[int, float] = (0, 0.0)  # images, seconds
    _generator: tuple[int, Generator] | None = None  # of so many images

    def __post_init__(self) -> None:
        step = self.trainer.config.step_images
        self.checkpoints = CheckpointManager(self.run)
        self.milestones = {-(-images // step) * step for images in self.trainer.config.milestones}  # whole steps

    @property
    def images(self) -> int:
        return self.trainer.images

    def unsaved_images(self) -> int:
        return self.images - max(self.saved_at, 0)

    def load_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Restores everything but the clock. Raises CheckpointError if it belongs to other nets."""
        state = checkpoint.state
        own = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.startswith("health.")}
        self.trainer.load(str(checkpoint.path), own, state)
        with parsing(checkpoint.path, "Name an earlier checkpoint by --init in another --run folder."):
            self.monitor.load(checkpoint.part("health"), state["health"])
            self.reals.load_state_dict(state["stream"])
        self.best = self.best_saved = Best(**state["best"]) if state["best"] else None
        self.rolled_back = state["rolled_back"]
        self.saved_at = checkpoint.images
        self.logged_at = state["logged_at"][0], state["logged_at"][1] + self.clock.seconds - state["seconds"]
        self._generator = None

    def generator(self) -> Generator:
        """`Ema.generator`, made once after a step whose samples are drawn, measured and saved. Not to be changed."""
        if self._generator is None or self._generator[0] != self.images:
            self._generator = self.images, self.trainer.ema.generator(self.trainer.config.seed)
        return self._generator[1]

    def log_row(self, **values: Any) -> None:
        self.log.row({"images": self.images, "rounds": self.trainer.steps, **values})

    def log_reference(self, evaluation: PeriodicEval) -> None:
        """Logs once per run what is measured, and the values of real images against real images."""
        measure = evaluation.measure
        if not isinstance(measure, ReferenceMetric):
            return
        protocol = dict(measure.protocol())
        if [row["protocol"] for row in self.log.rows if "protocol" in row][-1:] == [protocol]:
            return
        floor = dict(measure.real_vs_real())
        self.best = None  # its value belongs to another protocol
        self.log_row(protocol=protocol, floor=floor)
        real = ", ".join(f"{name} {value:.4g}" for name, value in floor.items()) or "unknown (too few)"
        what = protocol.get("what", "")
        self.log.note(f"Measured every {evaluation.every_images:,} images: {what}. Real against real: {real}.")

    def write_best(self) -> None:
        """Writes best.json, or removes it; DiskError where that fails."""
        if self.best:
            write_json(self.run / BEST, asdict(self.best))
        else:
            (self.run / BEST).unlink(missing_ok=True)

    def save(self, scheduled: bool) -> bool:
        """Writes a checkpoint, after everything before it is on disk. Returns whether it worked; the next save retries.

        ``scheduled``: due by the settings alone, and therefore a point to roll back to. Raises NotFinite.
        """
        world = self.trainer.world
        with self.clock.stopped():
            self.trainer.share_totals()
            tensors = {**self.trainer.tensors(), **self.monitor.tensors()}
            finite = torch.stack([tensor.isfinite().all().cpu() for tensor in tensors.values()]).tolist()
            problem = "" if all(finite) else f"{list(tensors)[finite.index(False)]} is not finite"
            if world.any(bool(problem)):
                raise NotFinite(problem or "a weight in another process is not finite")
            saved = world.any(world.is_main and self._write(tensors, scheduled))
        if saved:
            self.saved_at, self.best_saved = self.images, self.best
        return saved

    def _write(self, tensors: dict[str, torch.Tensor], scheduled: bool) -> bool:
        generator, name = self.generator(), f"the checkpoint at {self.images:,} images"
        try:
            self.log.sync()
            state = {
                **self.trainer.scalars(),
                "stream": dict(self.reals.state_dict()),
                "health": self.monitor.scalars(),
                "rolled_back": self.rolled_back,
                "best": asdict(self.best) if self.best else None,
                "seconds": self.clock.seconds,
                "logged_at": self.logged_at,
                "log": self.log.lengths(),
                "scheduled": scheduled,
                "settings": self.trainer.config.model_dump(mode="json"),
            }
            save_generator(self.run / FILE_NAME, generator)
            self.checkpoints.save(self.images, tensors, state, generator)
        except DiskError as error:
            problem = f"{name} could not be saved ({reason_of(error)})"
            self.log.warn(f"{problem}. Training continues; the next save retries.")
            self.best = self.best_saved
            return False
        try:
            self.write_best()
            kept = self.milestones | ({self.best.images} if self.best else set())
            self.checkpoints.prune(self.trainer.config.keep, kept)
        except DiskError as error:
            self.log.warn(f"{name} is saved, but best.json or old checkpoints are not up to date ({reason_of(error)}).")
        return True

    def roll_back(self, problem: str) -> int:
        """Once per run, to the last scheduled checkpoint, with half the learning rates. Returns the images there."""
        at = self.images
        checkpoint = None if self.rolled_back else self.checkpoints.latest_scheduled()
        if checkpoint is None:
            again = "again, after a roll-back to half the learning rates"
            how = again if self.rolled_back else "and there is no checkpoint to return to"
            raise TrainingError(
                f"Training diverged at {at:,} images: {problem}, {how}. Nothing of it was saved.\n"
                "Try smaller learning rates (--set train.lr_g=…, train.lr_d=…) or --precision fp32 in another --run "
                f"folder;\n--init {self.run} starts from this run's last finite weights."
            )
        self.load_checkpoint(checkpoint)
        self.trainer.world.barrier()  # all have read before the main process writes
        self.trainer.lr_scale *= 0.5
        self.rolled_back = {"at_images": at, "to_images": checkpoint.images, "problem": problem}
        self.log.cut_back(checkpoint.images, checkpoint.state["log"])
        if self.trainer.world.is_main:
            self.checkpoints.delete_after(checkpoint.images)
        text = (
            f"{problem} at {at:,} images: rolled back to the checkpoint of {checkpoint.images:,} images, with half the "
            "learning rates. If it happens again, the run stops; then try smaller rates, or --precision fp32, in "
            "another --run."
        )
        self.report([Finding("rolled_back", at, text)])
        self.save(scheduled=True)  # replaces the old one: a resumed run must know of the roll-back
        return self.images

    def report(self, findings: list[Finding]) -> None:
        for finding in findings:
            self.log.warn(finding.text)
            self.log_row(health=finding.kind, value=finding.value, text=finding.text)

    def unsaved_error(self) -> DiskError:
        newest = f"the newest has {self.saved_at:,} images" if self.saved_at >= 0 else "there is none"
        return DiskError(
            f"The checkpoint at {self.images:,} images could not be saved; {newest}.\n"
            f"Free disk space for {self.run}, then start the same command again."
        )

"""Everything that a run is at one moment, and its ways to the disk and back."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from facegan.errors import DiskError, TrainingError
from facegan.files import parsing
from facegan.nets import save_generator
from facegan.nets.weights import FILE_NAME
from facegan.run_dir import Best
from facegan.training.checkpoint import Checkpoint, CheckpointManager
from facegan.training.log import RunLog
from facegan.training.monitor import Finding, Monitor
from facegan.training.periodic_eval import PeriodicEval, write_best
from facegan.training.trainer import Batches, Trainer

# Seconds of training alone.


class Clock:
    """Start-up, saving and sampling are left out."""

    def __init__(self, device: torch.device, seconds: float = 0.0) -> None:
        self._device, self._before = device, seconds
        self._since: float | None = None  # None while it stands still

    @property
    def seconds(self) -> float:
        return self._before + (time.perf_counter() - self._since if self._since is not None else 0.0)

    def start(self) -> None:
        self._since = time.perf_counter()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # work that is queued belongs to the training
        running, self._before, self._since = self._since is not None, self.seconds, None
        try:
            yield
        finally:
            if running:
                self.start()


class NotFinite(Exception):
    """What is not finite."""


@dataclass
class RunState:
    """The parts whose states together are a checkpoint."""

    run: Path
    trainer: Trainer
    reals: Batches
    log: RunLog
    health: Monitor
    clock: Clock
    best: Best | None = None
    best_saved: Best | None = None
    rolled_back: dict[str, Any] | None = None
    saved_at: int = -1  # images; -1: nothing is saved
    logged_at: tuple[int, float] = (0, 0.0)  # images, seconds

    @property
    def images(self) -> int:
        return self.trainer.images

    @property
    def shelf(self) -> CheckpointManager:
        return CheckpointManager(self.run / "checkpoints")

    def milestones(self) -> set[int]:
        """The images at which rounds reach them."""
        step = self.trainer.round_images
        return {-(-images // step) * step for images in self.trainer.config.milestones}

    def take_up(self, checkpoint: Checkpoint) -> None:
        """Everything but the clock is as it was.

        Raises:
            CheckpointError: it is of other nets.
        """
        state, own = checkpoint.state, {k: v for k, v in checkpoint.tensors.items() if not k.startswith("health.")}
        self.trainer.load(str(checkpoint.path), own, state)
        with parsing(checkpoint.path, "Name an earlier checkpoint by --init in another --run folder."):
            self.health.load(checkpoint.part("health"), state["health"])
            self.reals.load_state_dict(state["stream"])
        self.best = self.best_saved = Best(**state["best"]) if state["best"] else None
        self.rolled_back = state["rolled_back"]
        self.saved_at = checkpoint.images
        self.logged_at = state["logged_at"][0], state["logged_at"][1] + self.clock.seconds - state["seconds"]

    def introduce(self, judge: PeriodicEval) -> None:
        """Says once in a run what is measured, and how near real images come to one another."""
        row = judge.introduction(self.log.rows)
        if row is None:
            return
        self.best = None  # by another protocol: its value is not to be compared with those to come
        self.log.row({"images": self.images, "rounds": self.trainer.rounds, **row})
        floor = (
            ", ".join(f"{name} {value:.4g}" for name, value in row["floor"].items()) or "unknown, for there are too few"
        )
        what = row["protocol"].get("what", "")
        self.log.note(f"Measured every {judge.every_images:,} images: {what}. Real ones among themselves: {floor}.")

    def numbers(self, scheduled: bool) -> dict[str, Any]:
        """All that is not a tensor, as JSON has it."""
        return {
            **self.trainer.numbers(),
            "stream": dict(self.reals.state_dict()),
            "health": self.health.numbers(),
            "rolled_back": self.rolled_back,
            "best": asdict(self.best) if self.best else None,
            "seconds": self.clock.seconds,
            "logged_at": self.logged_at,
            "log": self.log.lengths(),
            "scheduled": scheduled,
            "settings": self.trainer.config.model_dump(mode="json"),
        }

    def save(self, scheduled: bool) -> bool:
        """Whether it worked. A checkpoint says that all before it is on disk; what fails, the next save tries again.

        Args:
            scheduled: by the settings alone, and so a place to roll back to.

        Raises:
            NotFinite: names the tensor.
        """
        ranks = self.trainer.ranks
        with self.clock.stopped():
            self.trainer.agree()
            tensors = {**self.trainer.tensors(), **self.health.tensors()}
            problem = first_not_finite_of(tensors)
            if ranks.any(bool(problem)):
                raise NotFinite(problem or "a weight in another process is not finite")
            saved = ranks.any(ranks.writes and self._write(tensors, scheduled))
        if saved:
            self.saved_at, self.best_saved = self.images, self.best
        return saved

    def _write(self, tensors: dict[str, torch.Tensor], scheduled: bool) -> bool:
        generator = self.trainer.ema.generator(self.trainer.config.seed)
        try:
            self.log.sync()
            save_generator(self.run / FILE_NAME, generator)
            self.shelf.put(self.images, tensors, self.numbers(scheduled), generator)
        except DiskError as error:
            where = f"the checkpoint at {self.images:,} images"
            self.log.warn(f"{where} could not be saved ({_why(error)}). Training goes on; the next save tries again.")
            self.best = self.best_saved
            return False
        try:
            write_best(self.run, self.best)
            kept = self.milestones() | ({self.best.images} if self.best else set())
            self.shelf.thin_out(self.trainer.config.keep, kept)
        except DiskError as error:
            where = f"The checkpoint at {self.images:,} images"
            self.log.warn(f"{where} is saved, but what belongs to it could not be ({_why(error)}): the next save does.")
        return True

    def roll_back(self, problem: str) -> int:
        """Once in a run, to the last scheduled checkpoint, with half the learning rates. Gives the images there.

        Raises:
            TrainingError: a second time, or without a checkpoint.
        """
        at = self.images
        checkpoint = None if self.rolled_back else self.shelf.newest_scheduled()
        if checkpoint is None:
            raise TrainingError(divergence_message(problem, at, self.run, again=self.rolled_back is not None))
        self.take_up(checkpoint)
        self.trainer.ranks.wait()  # all have read before the first writes
        self.trainer.lr_scale *= 0.5
        self.rolled_back = {"at_images": at, "to_images": checkpoint.images, "problem": problem}
        self.log.cut_back(checkpoint.images, checkpoint.state["log"])
        if self.trainer.ranks.writes:
            self.shelf.drop_after(checkpoint.images)
        text = (
            f"{problem} at {at:,} images: back to the checkpoint of {checkpoint.images:,} images, with half the "
            "learning rates. If it happens again the run stops; then try smaller ones, or --precision fp32, in another "
            "--run."
        )
        self.tell([Finding("rolled_back", at, text)])
        self.save(scheduled=True)  # in the place of the old one: a resumed run has to know
        return self.images

    def tell(self, findings: list[Finding]) -> None:
        for finding in findings:
            self.log.warn(finding.text)
            about = {"health": finding.kind, "value": finding.value, "text": finding.text}
            self.log.row({"images": self.images, "rounds": self.trainer.rounds, **about})

    def unsaved(self) -> DiskError:
        behind = f"the newest checkpoint is that of {self.saved_at:,} images" if self.saved_at >= 0 else "there is none"
        return DiskError(
            f"{self.images:,} images are trained, but their checkpoint could not be saved: {behind}.\n"
            f"Make room for {self.run}, then start the same command again."
        )


def _why(error: DiskError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)


def first_not_finite_of(tensors: dict[str, torch.Tensor]) -> str:
    """``"generator.x is not finite"``: the first tensor that holds NaN or an infinity, or ""; waits for the device."""
    finite = torch.stack([tensor.isfinite().all().cpu() for tensor in tensors.values()]).tolist()
    return "" if all(finite) else f"{list(tensors)[finite.index(False)]} is not finite"


def divergence_message(problem: str, images: int, run: Path, *, again: bool) -> str:
    how = "again, after a roll-back to half the learning rates" if again else "and there is no checkpoint to go back to"
    return (
        f"Training broke down at {images:,} images: {problem}, {how}. Nothing of it was saved.\n"
        "Try smaller learning rates (--set train.lr_g=…, train.lr_d=…) or --precision fp32, in another --run folder;\n"
        f"--init {run} starts it from this run's last whole weights."
    )

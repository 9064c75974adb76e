"""The loop: a list of named steps, and what each of them does to the run folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from facegan.errors import Interrupted, TrainingError
from facegan.nets import save_generator
from facegan.nets.weights import FILE_NAME
from facegan.train.checkpoint import Checkpoint, not_finite, refuse_non_finite, save_checkpoint
from facegan.train.faces import Batches
from facegan.train.grid import grid, sample_images
from facegan.train.log import RunLog
from facegan.train.step import Trainer

GRID_IMAGES = 64


class Clock:
    """Seconds of training: start-up, saving and sampling are left out."""

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


@dataclass
class Session:
    """One start of a run, from the checkpoint that it takes up to its end or interruption."""

    run: Path
    trainer: Trainer
    reals: Batches
    log: RunLog
    total_rounds: int
    clock: Clock
    stop: Callable[[], bool]
    saved_at: int = -1  # images
    logged_at: tuple[int, float] = field(default=(0, 0.0))  # images, seconds

    def take_up(self, checkpoint: Checkpoint) -> None:
        self.trainer.load(str(checkpoint.path), checkpoint.tensors, checkpoint.state)
        self.reals.load_state_dict(checkpoint.state["stream"])
        self.saved_at = checkpoint.images
        self.clock = Clock(self.trainer.device, checkpoint.state["seconds"])
        self.logged_at = tuple(checkpoint.state["logged_at"])

    def rounds(self) -> None:
        """Trains to the end.

        Raises:
            Interrupted: stop was asked for; all is saved.
            TrainingError: a loss or weight is not finite; nothing of it is saved.
        """
        trainer, config = self.trainer, self.trainer.config
        if trainer.images == 0:
            self.sample()
        self.clock.start()
        with self.log.console.progress(self.total_rounds * trainer.round_images, "images", trainer.images) as progress:
            while trainer.rounds < self.total_rounds:
                trainer.round(self.reals)
                progress.advance(trainer.round_images)
                last = trainer.rounds == self.total_rounds
                if last or self.due(config.log_every):
                    self.write_row()
                if last or self.due(config.sample_every):
                    self.sample()
                if last or self.due(config.save_every):
                    self.save()
                if not last and self.stop():
                    self.interrupt()

    def due(self, every_images: int) -> bool:
        """Whether the round just done passed a multiple of ``every_images``."""
        images = self.trainer.images
        return images // every_images > (images - self.trainer.round_images) // every_images

    def write_row(self) -> None:
        images, means = self.trainer.images, self.trainer.means()
        if not all(map(math.isfinite, means.values())):
            bad = next(name for name, value in means.items() if not math.isfinite(value))
            raise TrainingError(not_finite(f"{bad} is {means[bad]}", images))
        seconds, (images_before, seconds_before) = self.clock.seconds, self.logged_at
        rate = (images - images_before) / max(seconds - seconds_before, 1e-9)
        speed = {"images_per_second": round(rate, 2), "seconds": round(seconds, 3)}
        self.log.row({"images": images, "rounds": self.trainer.rounds, **means, **speed})
        self.trainer.clear_means()
        self.logged_at = images, seconds

    def sample(self) -> None:
        """A grid from fixed latents: those that `facegan sample` takes for the run's seed."""
        with self.clock.stopped():
            seed, images = self.trainer.config.seed, self.trainer.images
            self.log.grid(grid(sample_images(self.trainer.ema.generator(seed), GRID_IMAGES, seed)), images)
            self.log.draw()

    def save(self) -> None:
        """The generator first: a checkpoint says that all before it is on disk."""
        with self.clock.stopped():
            trainer, tensors = self.trainer, self.trainer.tensors()
            refuse_non_finite(tensors, trainer.images)
            save_generator(self.run / FILE_NAME, trainer.ema.generator(trainer.config.seed))
            state = {
                **trainer.numbers(),
                "stream": dict(self.reals.state_dict()),
                "seconds": self.clock.seconds,
                "logged_at": self.logged_at,
                "settings": trainer.config.model_dump(),
            }
            save_checkpoint(self.run / "checkpoints", trainer.images, tensors, state, trainer.config.keep)
            self.log.flush()
            self.saved_at = trainer.images

    def interrupt(self) -> None:
        images = self.trainer.images
        if self.saved_at != images:
            self.save()
        raise Interrupted(f"Stopped at {images:,} images and saved in {self.run}. The same command goes on from there.")

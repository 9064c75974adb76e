"""``--images 1h``: how many images a training shows in a time on this machine, measured by a short one that is thrown
away. A run's weights follow from the number of images alone, so a recorded number repeats them anywhere.
"""

from __future__ import annotations

import bisect
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from facegan.config import TrainConfig
from facegan.config.base import seconds_of
from facegan.console import Console, human_seconds
from facegan.errors import SettingsError, TrainingError
from facegan.files import TEMPORARY
from facegan.training.estimate import free_memory, probe_of
from facegan.training.log import NullLog, RunLog
from facegan.training.loop import EARLY_GRIDS, StopRequests, TrainLoop, fresh_state
from facegan.training.run_state import Clock, NotFinite, PeriodicEval
from facegan.training.trainer import Batches, Trainer

_SHARE, _MOST_SECONDS = 0.01, 20.0  # of the time, for the last and longest measurement of steps


@dataclass(frozen=True)
class Costs:
    """Seconds that the parts of a training take on this machine."""

    start: float  # before the first step, with this measurement
    step: float
    row: float
    grid: float
    save: float
    evaluation: float = 0.0
    evaluate_every: int = 0  # images; 0: never

    def seconds(self, config: TrainConfig, steps: int) -> float:
        """Of a whole training. Each evaluation may find a new best, which is saved."""
        images = steps * config.step_images

        def times(every: int) -> int:
            return min(steps, images // every) + 1 if every else 0  # + 1: at the end

        early = sum(at <= images for at in EARLY_GRIDS if at < config.sample_every)
        evaluations = times(self.evaluate_every)
        saves = 1 + times(config.save_every) + len(config.milestones) + evaluations
        pictures = (1 + early + times(config.sample_every)) * self.grid + saves * self.save
        return (
            self.start
            + steps * self.step
            + times(config.log_every) * self.row
            + pictures
            + (evaluations * self.evaluation)
        )

    def steps_in(self, config: TrainConfig, seconds: float) -> int:
        """The most steps of a training that ends in time."""
        most = int(max(seconds, 0) / self.step)
        return bisect.bisect_right(range(1, most + 1), seconds, key=lambda steps: self.seconds(config, steps))


class _Silent(Console):
    """Findings about steps that are thrown away are no news of the run."""

    def warn(self, *lines: str) -> None: ...


def images_in_time(
    trainer: Trainer, reals: Batches, run: Path, evaluation: PeriodicEval | None, started: float
) -> tuple[int, float]:
    """The images of whole steps that a training of ``trainer``'s settings shows in their time, the same in all
    processes, and how many a second that is, with all that happens between steps. Changes nothing of the run.

    ``started``: of this command, by `time.perf_counter`; what it took until now counts.

    Raises:
        SettingsError: the time is too short for a step.
        TrainingError: the steps diverged.
    """
    config, world, folder = trainer.config, trainer.world, run / f".time-budget{TEMPORARY}"
    position, probe = dict(reals.state_dict()), probe_of(trainer, world)
    try:
        with closing(probe):
            costs = _measure(probe, reals, folder, evaluation, seconds_of(config.time) or 0.0)
    except NotFinite as problem:
        raise TrainingError(
            f"The steps that measure --images {config.time} diverged: {problem}.\n"
            "Try smaller learning rates (--set train.lr_g=…, train.lr_d=…) or --precision fp32."
        ) from None
    finally:
        reals.load_state_dict(position)
        if world.is_main:
            shutil.rmtree(folder, ignore_errors=True)
    del probe
    free_memory(trainer.device)
    costs = replace(costs, start=costs.start + time.perf_counter() - started)
    steps = world.of_main(costs.steps_in(config, seconds_of(config.time) or 0.0))
    if steps < 1:
        least = human_seconds(costs.seconds(config, 1))
        raise SettingsError(
            f"--images {config.time} is too short for a step here: with the start, its checkpoints and grids it takes "
            f"{least}.\nUse a longer time, or a number of images."
        )
    images = steps * config.step_images
    return images, images / (costs.seconds(config, steps) - costs.start)


def _measure(probe: Trainer, reals: Batches, folder: Path, evaluation: PeriodicEval | None, seconds: float) -> Costs:
    """``start`` is that of `TrainLoop.begin` and of the evaluation's reference, which the run repeats."""
    config, world, limit = probe.config, probe.world, min(_MOST_SECONDS, _SHARE * seconds)
    with closing(RunLog(folder, _Silent(quiet=True)) if world.is_main else NullLog()) as log:
        clock = Clock(probe.device)
        state = fresh_state(folder, probe, reals, log, clock)
        stop = StopRequests(None, state.unsaved_images, quiet=True)
        with Console(quiet=True).progress(1, "images") as progress:
            loop = TrainLoop(state, 0, stop, progress)

        def timed(work: Callable[[], object], again: bool = True) -> float:
            """Of the second time, without first costs such as imports, unless the first took long."""
            start = time.perf_counter()
            work()
            probe.means()  # waits for the device
            took = time.perf_counter() - start
            return timed(work, again=False) if again and not world.any(took > 3 * limit) else took

        def steps(count: int) -> None:
            for _ in range(count):
                loop.train_step()

        start = timed(loop.begin)
        if evaluation:
            start += timed(lambda: state.log_reference(evaluation) if world.is_main else None, again=False)
        clock.start()
        count = config.penalty_every if config.regularisers else 1  # steps after which their kinds repeat
        timed(partial(steps, count), again=False)  # compilation, capture
        while True:
            count *= 2
            took = timed(partial(steps, count), again=False)
            if world.any(took >= limit):
                break
        row, grid = timed(loop.write_row), timed(lambda: loop.sample(last=True))
        save = timed(lambda: loop.save(scheduled=True))
        every = evaluation.every_images if evaluation else 0
        measured = timed(lambda: loop.evaluate(evaluation)) if evaluation else 0.0
        return Costs(start, took / count, row, grid, save, measured, every)

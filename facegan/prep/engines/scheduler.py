"""Run chunks on an engine, whatever happens to its workers.

A worker may die on a photograph: a crash in a decoder, too little memory, a library call that never returns. Its chunk
is tried once more, then bisected until the fatal photographs are found. Then the chunk is made without them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from facegan.console import Console, counted
from facegan.errors import FaceganError, Interrupted
from facegan.prep.chunk import Item
from facegan.prep.commit import ChunkOutcome, ChunkWork
from facegan.prep.engines.local import InlineEngine, LocalEngine, NodeLost, OnProgress, WorkerDied
from facegan.prep.engines.ray import RayEngine
from facegan.prep.engines.worker import Job
from facegan.prep.messages import warning_of_chunk
from facegan.prep.plan import ChunkPlan, Inputs, Plan
from facegan.prep.storage import OutputStore

# Each has ``slots``, and submits tasks, waits until some have ended, and gives their results or raises their errors.
Engine = InlineEngine | LocalEngine | RayEngine

_TRIES = 2  # of a whole chunk before it is bisected, and again without its fatal photographs
_MOST_LOST_NODES = 4  # that a chunk may meet before it is treated as their cause


@dataclass
class RunStats:
    """Totals of the chunks that this run made."""

    photos: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    first: float = float("inf")  # when the first photograph was taken, in seconds
    last: float = 0.0  # when the last file was named
    no_decoder: int = 0
    peak_bytes: int = 0
    nodes: int = 1

    @property
    def seconds(self) -> float:
        return self.last - self.first if self.photos else 0.0

    def add(self, outcome: ChunkOutcome) -> None:
        chunk = outcome.chunk
        self.photos += chunk.photos
        self.kept += chunk.kept
        self.rejected.update(chunk.rejected)
        self.no_decoder += chunk.no_decoder
        self.first, self.last = min(self.first, outcome.started), max(self.last, outcome.finished)
        self.peak_bytes = max(self.peak_bytes, outcome.peak_bytes)


def open_engine(inputs: Inputs, job: Job, chunks: int, console: Console) -> Engine:
    """The engine for so many chunks; to be closed."""
    if inputs.request.engine == "ray":
        return RayEngine(job, inputs.request.ray_address, inputs.workers, console)
    return LocalEngine(job, min(inputs.workers, chunks)) if inputs.workers else InlineEngine(job)


def run_engine(engine: Engine, plan: Plan, todo: list[ChunkPlan], store: OutputStore, console: Console) -> RunStats:
    """Make and commit the chunks ``todo`` of a plan, with progress and warnings; raises Interrupted at Ctrl-C."""
    stats, folder = RunStats(), store.state / plan.chunks_folder
    done_before = plan.new - sum(chunk.photos for chunk in todo)
    shown = 0

    def show(unfinished: int = 0) -> None:
        """Progress never goes back: photographs of a worker that died are counted once."""
        nonlocal shown
        now = max(shown, stats.photos + unfinished)
        reasons = "".join(f", {count:,} {reason}" for reason, count in stats.rejected.most_common(3))
        progress.advance(now - shown, f"{stats.kept / stats.photos:.1%} kept{reasons}" if stats.photos else "")
        shown = now

    warned, unreachable = False, ""  # the first error: one fault often affects many photographs
    try:
        with console.progress(plan.new, "photographs", done=done_before) as progress:
            for outcome in store.commit_all(run_chunks(engine, map(plan.work, todo), show), folder):
                stats.add(outcome)
                for crash in outcome.chunk.crashes:
                    console.warn(f"crashed on {crash}")
                if not warned and sum(outcome.chunk.rejected.values()) > outcome.chunk.photos / 2:
                    warned = True
                    console.warn(warning_of_chunk(outcome.chunk, plan.inputs.config))
                if outcome.chunk.unreachable and not unreachable:
                    unreachable = outcome.chunk.unreachable
                    console.warn(f"unreachable: {unreachable}")
                show()
            stats.nodes = len(engine.nodes) if isinstance(engine, RayEngine) else 1
    except KeyboardInterrupt:
        raise Interrupted(
            f"Stopped. Done: {done_before + stats.photos:,} of {counted(plan.new, 'photograph')}. "
            f"Run the same command to continue."
        ) from None
    if unreachable:
        count = counted(stats.rejected["unreachable"], "photograph")
        console.warn(f"Unreachable: {count}. Run the same command with --repair to retry.")
    if stats.no_decoder:
        console.warn(
            f"HEIC, which no installed library decodes: {counted(stats.no_decoder, 'photograph')}, counted as "
            "unreadable. Run: pip install 'facegan[heic]', then prepare again with --force."
        )
    return stats


@dataclass
class _ChunkAttempt:
    """A chunk until it is made."""

    work: ChunkWork
    crash_count: int = 0
    lost_nodes: int = 0
    fatal_photos: set[bytes] = field(default_factory=set)  # names
    trials: int = 0  # unfinished ones
    was_bisected: bool = False

    def without_fatal_photos(self) -> ChunkWork:
        items = tuple(
            item._replace(preset_reason="crashed") if item.entry.name in self.fatal_photos else item
            for item in self.work.chunk.items
        )
        return _with_items(self.work, items)

    def after_death(self, trial: ChunkWork | None, death: WorkerDied) -> list[ChunkWork]:
        """What to try out next, if anything, after a worker died on the whole chunk or on a part on trial."""
        if isinstance(death, NodeLost) and self.lost_nodes < _MOST_LOST_NODES:
            self.lost_nodes += 1
            return [] if trial is None else [trial]
        if trial is None:
            self.crash_count += 1
            if self.crash_count < _TRIES:
                return []
            if self.was_bisected:
                raise FaceganError(
                    f"Worker processes die on chunk {self.work.chunk.number}, but on no single photograph ({death}).\n"
                    f"Finished chunks are kept: start the same command again, with fewer --workers if memory ran out."
                )
            self.was_bisected, trial = True, self.work
        items = trial.chunk.items
        if len(items) == 1:
            self.fatal_photos.add(items[0].entry.name)
            return []
        middle = len(items) // 2
        return [_with_items(trial, part) for part in (items[:middle], items[middle:])]


def _with_items(work: ChunkWork, items: tuple[Item, ...]) -> ChunkWork:
    return replace(work, chunk=replace(work.chunk, items=items))


def run_chunks(
    engine: Engine, todo: Iterator[ChunkWork], on_progress: OnProgress | None = None
) -> Iterator[ChunkOutcome]:
    """Yield each chunk as it is made. ``todo`` is read only as far as the engine has use for it."""
    running: dict[Any, tuple[_ChunkAttempt, ChunkWork | None]] = {}  # task → its chunk, and the part on trial

    def start(attempt: _ChunkAttempt) -> None:
        running[engine.submit(attempt.without_fatal_photos())] = attempt, None

    while True:
        while len(running) < 2 * engine.slots and (work := next(todo, None)) is not None:
            start(_ChunkAttempt(work))
        if not running:
            return
        for task in engine.wait(on_progress):
            attempt, trial = running.pop(task)
            attempt.trials -= trial is not None
            try:
                outcome = engine.result(task)
            except WorkerDied as death:
                for part in attempt.after_death(trial, death):
                    attempt.trials += 1
                    running[engine.submit(part, is_trial=True)] = attempt, part
                outcome = None
            if outcome is not None:
                yield outcome
            elif not attempt.trials:
                if trial is not None:  # the last one: the fatal photographs are known
                    attempt.crash_count = 0
                start(attempt)

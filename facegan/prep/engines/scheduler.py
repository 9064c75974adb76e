"""Runs chunks on an engine, whatever becomes of its workers.

A worker may die of a photograph: a fault in a decoder, too little memory, a library that never comes back. Its chunk
is tried once more; then halves of it, and halves of those, until the fatal ones are single. Then the whole
chunk is made without them.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from facegan.console import Console
from facegan.errors import FaceganError, Interrupted
from facegan.prep.chunk import Chunk
from facegan.prep.commit import ChunkOutcome, ChunkWork
from facegan.prep.engines.local import LocalEngine, WorkerDied
from facegan.prep.engines.ray import RayEngine
from facegan.prep.engines.worker import Job
from facegan.prep.plan import ChunkPlan, Plan
from facegan.prep.storage import OutputStore

_TRIES = 2  # of a whole chunk before its halves are tried, and again without those that kill


class Engine(Protocol):
    """Workers somewhere. ``submit`` gives a handle; ``wait`` those that have ended; ``result`` what came of it."""

    name: str
    slots: int

    def submit(self, work: ChunkWork, trial: bool = False) -> Any: ...

    def wait(self, handles: Iterable[Any]) -> set[Any]: ...

    def result(self, handle: Any) -> ChunkOutcome | None: ...


@dataclass
class _ChunkAttempt:
    """A chunk under way."""

    work: ChunkWork
    crash_count: int = 0
    fatal_photos: set[bytes] = field(default_factory=set)  # names of photographs
    trials: int = 0  # under way
    was_halved: bool = False

    def without_fatal_photos(self) -> ChunkWork:
        items = tuple(
            item._replace(preset_reason="crashed") if item.entry.name in self.fatal_photos else item
            for item in self.work.chunk.items
        )
        return replace(self.work, chunk=replace(self.work.chunk, items=items))


def run_chunks(engine: Engine, todo: Iterator[ChunkWork]) -> Iterator[ChunkOutcome]:
    """Yields each chunk as it is committed. No more works are taken than the engine has use for.

    Raises:
        FaceganError: a chunk kills workers whatever is left out of it, or a worker could not write.
    """
    under_way: dict[
        Any, tuple[_ChunkAttempt, ChunkWork | None]
    ] = {}  # a handle's chunk, and the part of it that is on trial

    def begin(attempt: _ChunkAttempt, trial: ChunkWork | None = None) -> None:
        under_way[engine.submit(trial or attempt.without_fatal_photos(), trial is not None)] = attempt, trial

    def take() -> None:
        while len(under_way) < 2 * engine.slots and (work := next(todo, None)) is not None:
            begin(_ChunkAttempt(work))

    take()
    while under_way:
        for handle in engine.wait(under_way):
            attempt, trial = under_way.pop(handle)
            attempt.trials -= trial is not None
            try:
                done = engine.result(handle)
            except WorkerDied as death:
                for part in _after_death(attempt, trial, death):
                    attempt.trials += part is not None
                    begin(attempt, part)
            else:
                if done is not None:
                    yield done
                elif not attempt.trials:
                    attempt.crash_count = 0
                    begin(attempt)
        take()


def _after_death(attempt: _ChunkAttempt, trial: ChunkWork | None, death: WorkerDied) -> list[ChunkWork | None]:
    """What to begin next: parts on trial, or (None) the whole chunk."""
    if trial is None:
        attempt.crash_count += 1
        if attempt.crash_count < _TRIES:
            return [None]
        if attempt.was_halved:
            raise FaceganError(
                f"Worker processes die of chunk {attempt.work.chunk.number}, and of no photograph alone ({death}).\n"
                f"What was done is kept: start the same command again, with fewer --workers if memory ran out."
            )
        attempt.was_halved = True
        return list(_halves(attempt.work.chunk, attempt.work.inputs))
    if len(trial.chunk.items) > 1:
        return list(_halves(trial.chunk, trial.inputs))
    attempt.fatal_photos.update(item.entry.name for item in trial.chunk.items)
    if attempt.trials:
        return []
    attempt.crash_count = 0
    return [None]


def _halves(chunk: Chunk, inputs: str) -> Iterator[ChunkWork]:
    middle = len(chunk.items) // 2
    parts = (chunk.items[:middle], chunk.items[middle:])
    return (ChunkWork(replace(chunk, items=part), inputs) for part in parts if part)


# Running a plan: its chunks on an engine, what they come to, and what is said of it meanwhile.


@dataclass(frozen=True)
class EngineConfig:
    """Who does the work: so many processes here, or a Ray cluster's."""

    engine: Literal["local", "ray"]
    workers: int
    ray_address: str | None = None


@dataclass
class RunStats:
    """Sums over the chunks that this run did."""

    photos: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    first: float = float("inf")
    last: float = 0.0
    no_decoder: int = 0
    peak_bytes: int = 0
    nodes: int = 1

    @property
    def seconds(self) -> float:
        """From the first photo taken to the last rename."""
        return self.last - self.first if self.photos else 0.0

    def add(self, done: ChunkOutcome) -> None:
        self.photos += done.chunk.photos
        self.kept += done.chunk.kept
        self.rejected.update(done.chunk.rejected)
        self.no_decoder += done.chunk.no_decoder
        self.first, self.last = min(self.first, done.started), max(self.last, done.finished)
        self.peak_bytes = max(self.peak_bytes, done.peak_bytes)

    def note(self) -> str:
        if not self.photos:
            return ""
        reasons = "".join(f", {count:,} {reason}" for reason, count in self.rejected.most_common(3))
        return f"{self.kept / self.photos:.1%} kept{reasons}"


def _engine(
    job: Job, chunks: int, config: EngineConfig, console: Console, on_progress: Callable[[int], None]
) -> LocalEngine | RayEngine:
    if config.engine == "ray":
        return RayEngine(job, config.ray_address, None if config.ray_address else config.workers, console)
    return LocalEngine(job, min(config.workers, chunks), on_progress)


def run_engine(
    plan: Plan,
    todo: list[ChunkPlan],
    store: OutputStore,
    job: Job,
    config: EngineConfig,
    console: Console,
    deferred: contextlib.ExitStack,
) -> RunStats:
    """Makes the chunks that are to be made, and tells of what they come to.

    Args:
        deferred: where the engine is closed: that takes a while, which the end of the dataset need not wait for.

    Raises:
        Interrupted: Ctrl-C; what is committed is kept.
    """
    ran = RunStats()
    before = plan.new - sum(chunk.photos for chunk in todo)
    shown = 0

    def show(under_way: int = 0) -> None:
        """Never goes back: what a worker that died had done is shown once."""
        nonlocal shown
        now = max(shown, ran.photos + under_way)
        progress.advance(now - shown, ran.note())
        shown = now

    away = ""  # why the first photograph is unreachable that is: one fault often keeps many away
    try:
        with console.progress(plan.new, "photographs", done=before) as progress:
            engine = deferred.enter_context(_engine(job, len(todo), config, console, show))
            for done in store.kept(run_chunks(engine, map(plan.work, todo)), job.folder):
                ran.add(done)
                for crash in done.chunk.crashes:
                    console.warn(f"crashed on {crash}")
                if done.chunk.unreachable and not away:
                    away = done.chunk.unreachable
                    console.warn(f"unreachable: {away}")
                show()
            ran.nodes = len(getattr(engine, "nodes", ())) or 1
        if away:
            count = ran.rejected["unreachable"]
            console.warn(f"{count:,} photographs are unreachable; --repair tries them again.")
    except KeyboardInterrupt:
        raise Interrupted(
            f"Stopped. {before + ran.photos:,} of {plan.new:,} photographs are done and kept; "
            f"the same command goes on from there."
        ) from None
    if ran.no_decoder:
        console.warn(
            f"{ran.no_decoder:,} photographs are HEIC, which no installed library decodes: they are unreadable. "
            "Convert them to JPEG, and prepare them under their new names."
        )
    return ran

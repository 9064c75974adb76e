"""Running a plan: its chunks on an engine, what they come to, and what is said of it meanwhile."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from facegan.console import Console
from facegan.errors import Interrupted
from facegan.prep.engines.local import LocalEngine
from facegan.prep.engines.ray import RayEngine
from facegan.prep.engines.run import run_chunks
from facegan.prep.engines.worker import Done, Job
from facegan.prep.out.home import Home
from facegan.prep.plan import ChunkPlan, Plan


@dataclass(frozen=True)
class Crew:
    """Who does the work: so many processes here, or a Ray cluster's."""

    engine: Literal["local", "ray"]
    workers: int
    ray_address: str | None = None


@dataclass
class Ran:
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

    def add(self, done: Done) -> None:
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
    job: Job, chunks: int, crew: Crew, console: Console, on_progress: Callable[[int], None]
) -> LocalEngine | RayEngine:
    if crew.engine == "ray":
        return RayEngine(job, crew.ray_address, None if crew.ray_address else crew.workers, console)
    return LocalEngine(job, min(crew.workers, chunks), on_progress)


def run(
    plan: Plan,
    todo: list[ChunkPlan],
    home: Home,
    job: Job,
    crew: Crew,
    console: Console,
    until: contextlib.ExitStack,
) -> Ran:
    """Makes the chunks that are to be made, and tells of what they come to.

    Args:
        until: where the engine is closed: that takes a while, which the end of the dataset need not wait for.

    Raises:
        Interrupted: Ctrl-C; what is committed is kept.
    """
    ran = Ran()
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
            engine = until.enter_context(_engine(job, len(todo), crew, console, show))
            for done in home.kept(run_chunks(engine, map(plan.work, todo)), job.folder):
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

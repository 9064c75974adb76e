"""Runs chunks on an engine, whatever becomes of its workers.

A worker may die of a photograph: a fault in a decoder, too little memory, a library that never comes back. Its chunk
is tried once more; then halves of it, and halves of those, until the photographs that kill stand alone. Then the whole
chunk is made without them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from facegan.errors import FaceganError
from facegan.prep.chunk import Chunk
from facegan.prep.engines.local import WorkerDied
from facegan.prep.engines.worker import Done
from facegan.prep.out.commit import Work

_TRIES = 2  # of a whole chunk before its halves are tried, and again without those that kill


class Engine(Protocol):
    """Workers somewhere. ``submit`` gives a handle; ``wait`` those that have ended; ``result`` what came of it."""

    name: str
    slots: int

    def submit(self, work: Work, trial: bool = False) -> Any: ...

    def wait(self, handles: Iterable[Any]) -> set[Any]: ...

    def result(self, handle: Any) -> Done | None: ...


@dataclass
class _Case:
    """A chunk under way."""

    work: Work
    deaths: int = 0
    killers: set[bytes] = field(default_factory=set)  # names of photographs
    trials: int = 0  # under way
    was_halved: bool = False

    def without_killers(self) -> Work:
        items = tuple(
            item._replace(verdict="crashed") if item.entry.name in self.killers else item
            for item in self.work.chunk.items
        )
        return replace(self.work, chunk=replace(self.work.chunk, items=items))


def run_chunks(engine: Engine, todo: Iterator[Work]) -> Iterator[Done]:
    """Yields each chunk as it is committed. No more works are taken than the engine has use for.

    Raises:
        FaceganError: a chunk kills workers whatever is left out of it, or a worker could not write.
    """
    under_way: dict[Any, tuple[_Case, Work | None]] = {}  # a handle's chunk, and the part of it that is on trial

    def begin(case: _Case, trial: Work | None = None) -> None:
        under_way[engine.submit(trial or case.without_killers(), trial is not None)] = case, trial

    def take() -> None:
        while len(under_way) < 2 * engine.slots and (work := next(todo, None)) is not None:
            begin(_Case(work))

    take()
    while under_way:
        for handle in engine.wait(under_way):
            case, trial = under_way.pop(handle)
            case.trials -= trial is not None
            try:
                done = engine.result(handle)
            except WorkerDied as death:
                for part in _after_death(case, trial, death):
                    case.trials += part is not None
                    begin(case, part)
            else:
                if done is not None:
                    yield done
                elif not case.trials:
                    case.deaths = 0
                    begin(case)
        take()


def _after_death(case: _Case, trial: Work | None, death: WorkerDied) -> list[Work | None]:
    """What to begin next: parts on trial, or (None) the whole chunk."""
    if trial is None:
        case.deaths += 1
        if case.deaths < _TRIES:
            return [None]
        if case.was_halved:
            raise FaceganError(
                f"Worker processes die of chunk {case.work.chunk.number}, and of no photograph alone ({death}).\n"
                f"What was done is kept: start the same command again, with fewer --workers if memory ran out."
            )
        case.was_halved = True
        return list(_halves(case.work.chunk, case.work.inputs))
    if len(trial.chunk.items) > 1:
        return list(_halves(trial.chunk, trial.inputs))
    case.killers.update(item.entry.name for item in trial.chunk.items)
    if case.trials:
        return []
    case.deaths = 0
    return [None]


def _halves(chunk: Chunk, inputs: str) -> Iterator[Work]:
    middle = len(chunk.items) // 2
    parts = (chunk.items[:middle], chunk.items[middle:])
    return (Work(replace(chunk, items=part), inputs) for part in parts if part)

"""The engine ``local``: spawned processes on this machine, in pebble's pool."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from collections.abc import Iterable
from typing import Any, Self

from pebble import ProcessExpired, ProcessPool

from facegan.files import remove_partials
from facegan.machine import usable_cpus
from facegan.prep.commit import Work
from facegan.prep.engines.worker import Done, Job, do, start, try_out


class WorkerDied(Exception):
    """The process that had this work is no more."""


class LocalEngine:
    """Runs chunks in ``workers`` processes, each with a detector of its own."""

    name = "local"

    def __init__(self, job: Job, workers: int) -> None:
        self.slots = workers
        self._job = job
        context = multiprocessing.get_context("spawn")
        seats = context.Value("i", 0) if workers == usable_cpus() else None
        self._pool = ProcessPool(workers, initializer=start, initargs=(job, seats), context=context)

    def submit(self, work: Work, trial: bool = False) -> Any:
        """Begins to make a chunk, or only to try whether a process outlives it."""
        return self._pool.schedule(try_out if trial else do, args=(work,))

    def wait(self, handles: Iterable[Any]) -> set[Any]:
        """Those that have ended, once there is one."""
        return set(concurrent.futures.wait(handles, return_when=concurrent.futures.FIRST_COMPLETED).done)

    def result(self, handle: Any) -> Done | None:
        """
        Raises:
            WorkerDied: its process did.
        """
        try:
            return handle.result()
        except ProcessExpired as error:
            raise WorkerDied(str(error)) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Interrupted workers are not waited for: what they hold is committed by nobody and done again.
        self._pool.stop()
        self._pool.join()
        remove_partials(self._job.folder)

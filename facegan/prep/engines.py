"""Engines run chunks. ``local``: spawned processes on this machine, each with a detector of its own."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Generator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from facegan.config import PrepConfig
from facegan.errors import FaceganError
from facegan.files import remove_partials
from facegan.machine import peak_memory_bytes, usable_cpus
from facegan.prep.commit import Committed, Work, run_and_commit
from facegan.prep.sources import Reader, Source


@dataclass(frozen=True)
class Job:
    """What every worker needs to know: small, and pickled once."""

    config: PrepConfig
    source: Source
    models: tuple[Path, ...]
    folder: Path  # where chunks are committed


@dataclass(frozen=True)
class Done:
    """A committed chunk, and what it took.

    Times are by the system's monotonic clock, which all processes share; ``peak_bytes`` is the most memory that its
    worker has used until then.
    """

    chunk: Committed
    started: float
    finished: float
    peak_bytes: int


def run_local(job: Job, todo: list[Work], workers: int) -> Generator[Done, None, None]:
    """Runs chunks in ``workers`` processes; yields each one as it is committed.

    Raises:
        FaceganError: a worker died, or could not write.
    """
    context = multiprocessing.get_context("spawn")
    seats = context.Value("i", 0) if workers == usable_cpus() else None
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, (job, seats))
    try:
        futures = [pool.submit(_work, work) for work in todo]
        for future in concurrent.futures.as_completed(futures):
            yield future.result()
    except BrokenProcessPool:
        raise FaceganError(
            "A worker process died (out of memory, or a fault in a decoder). What was done is kept:\n"
            "start the same command again, with fewer --workers if memory ran out."
        ) from None
    finally:
        # Interrupted workers are not waited for: what they hold is committed by nobody and done again.
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
        remove_partials(job.folder)


class _Worker:
    """One process's own things: opened once, used for every chunk."""

    def __init__(self, job: Job) -> None:
        import cv2

        from facegan.faces.detect import silence_stderr
        from facegan.faces.detectors import make_detector

        cv2.setNumThreads(1)
        self.job = job
        self.reader: Reader = job.source.reader()
        self.detector = make_detector(job.config, job.models)
        silence_stderr()
        gc.freeze()  # what is loaded by now stays: the collector need not look at it again


_worker: _Worker | Exception | None = None


def _start_worker(job: Job, seats: Synchronized[int] | None) -> None:
    global _worker
    if seats is not None:
        _take_seat(seats)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _worker = _Worker(job)
    except Exception as error:  # an initializer that raises breaks the pool, and nobody learns why
        _worker = error
    # Detectors are left open: workers end by a signal or by os._exit, where no destructor runs.


def _take_seat(seats: Synchronized[int]) -> None:
    """Keeps this process on a CPU of its own, if there is one left.

    MediaPipe hands each photograph from thread to thread: where they share a CPU they find it in its cache.
    """
    with seats.get_lock():
        seat = seats.value
        seats.value += 1
    with contextlib.suppress(AttributeError, OSError):  # not Linux, or a sandbox that forbids it
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cpus[seat : seat + 1] or cpus)


def _end_with_parent() -> None:
    """A parent killed by SIGKILL tells nobody; its sentinel does."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _work(work: Work) -> Done:
    if isinstance(_worker, FaceganError | OSError):
        raise _worker
    if not isinstance(_worker, _Worker):
        raise FaceganError(f"A worker could not start: {type(_worker).__name__}: {_worker}. See: facegan doctor")
    started = time.monotonic()
    job = _worker.job
    done = run_and_commit(job.folder, work, job.config, _worker.reader, _worker.detector)
    return Done(done, started, time.monotonic(), peak_memory_bytes())

"""Engines run chunks. ``local``: spawned processes on this machine, each with a detector of its own."""

from __future__ import annotations

import concurrent.futures
import gc
import json
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Generator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from facegan.config import PrepConfig
from facegan.errors import FaceganError
from facegan.files import TEMPORARY, disk_errors, remove_partials, write_bytes
from facegan.machine import peak_memory_bytes
from facegan.prep.chunk import Chunk, ChunkResult, process_chunk
from facegan.prep.sources import Reader, Source


@dataclass(frozen=True)
class Job:
    """What every worker needs to know: small, and pickled once."""

    config: PrepConfig
    source: Source
    models: tuple[Path, ...]
    folder: Path  # where chunks are committed


@dataclass(frozen=True)
class Work:
    """A chunk, and the digest of all that its bytes follow from."""

    chunk: Chunk
    inputs: str


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.tar"


def marker_path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.json"


def committed(folder: Path, work: Work) -> ChunkResult | None:
    """What an earlier run made of this chunk, or None where it must be done (again)."""
    try:
        marker = json.loads(marker_path(folder, work.chunk.number).read_bytes())
        if marker["inputs"] != work.inputs:
            return None
        result = ChunkResult.from_json(marker["result"])
        path = shard_path(folder, work.chunk.number)
        if result.shard and path.stat().st_size != result.shard.bytes:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return result


@dataclass(frozen=True)
class Done:
    """A committed chunk in numbers: its rows stay in its marker.

    Times are by the system's monotonic clock, which all processes share; ``peak_bytes`` is the most memory that its
    worker has used until then.
    """

    photos: int
    kept: int
    rejected: Counter[str]
    crashes: list[str]
    started: float
    finished: float
    peak_bytes: int


def run_local(job: Job, todo: list[Work], workers: int) -> Generator[Done, None, None]:
    """Runs chunks in ``workers`` processes; yields each one as it is committed.

    Raises:
        FaceganError: a worker died, or could not write.
    """
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, (job,))
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

        from facegan.faces.detect import MediaPipeDetector, silence_stderr

        cv2.setNumThreads(1)
        self.job = job
        self.reader: Reader = job.source.reader()
        self.detector = MediaPipeDetector(list(job.models))
        self.detector.load(job.config.min_score)
        silence_stderr()
        gc.freeze()  # what is loaded by now stays: the collector need not look at it again


_worker: _Worker | Exception | None = None


def _start_worker(job: Job) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _worker = _Worker(job)
    except Exception as error:  # an initializer that raises breaks the pool, and nobody learns why
        _worker = error
    # Detectors are left open: workers end by a signal or by os._exit, where no destructor runs.


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
    number = work.chunk.number
    path, marker = shard_path(job.folder, number), marker_path(job.folder, number)
    temporary = job.folder / f".{number:06d}.{os.getpid()}{TEMPORARY}"
    with disk_errors(job.folder):
        marker.unlink(missing_ok=True)  # a marker never stands beside a shard that is not its own
        result = process_chunk(work.chunk, job.config, _worker.reader, _worker.detector, path, temporary)
        if result.shard is None:
            path.unlink(missing_ok=True)
    write_bytes(marker, json.dumps({"inputs": work.inputs, "result": result.to_json()}).encode())
    return Done(
        photos=len(result.rows),
        kept=sum(row.outcome == "kept" for row in result.rows),
        rejected=Counter(row.reason for row in result.rows if row.reason),
        crashes=result.crashes,
        started=started,
        finished=time.monotonic(),
        peak_bytes=peak_memory_bytes(),
    )

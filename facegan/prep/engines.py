"""Engines run chunks. ``local``: spawned processes on this machine, each with a detector of its own."""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from facegan.config import PrepConfig
from facegan.errors import FaceganError
from facegan.files import TEMPORARY, disk_errors, remove_partials, write_bytes
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
    """A committed chunk; times by the system's monotonic clock, which all processes share.

    ``peak_bytes`` is the most memory its worker has used until then.
    """

    work: Work
    result: ChunkResult
    started: float
    finished: float
    peak_bytes: int


def run_local(job: Job, todo: list[Work], workers: int) -> Iterator[Done]:
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
        from facegan.faces.detect import MediaPipeDetector

        self.job = job
        self.reader: Reader = job.source.reader()
        self.detector = MediaPipeDetector(list(job.models))
        self.detector.load(job.config.min_score)


_worker: _Worker | None = None


def _start_worker(job: Job) -> None:
    global _worker
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    _worker = _Worker(job)
    # Detectors are left open: workers end by a signal or by os._exit, where no destructor runs.


def _end_with_parent() -> None:
    """A parent killed by SIGKILL tells nobody; its sentinel does."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _work(work: Work) -> Done:
    if _worker is None:
        raise RuntimeError("a worker was used before it was started")
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
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Done(work, result, started, time.monotonic(), peak_bytes)

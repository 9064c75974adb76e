"""Inside a worker process: what it opens once, and the two things it is asked to do with a chunk."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from facegan.config import PrepConfig
from facegan.errors import FaceganError
from facegan.faces.detect import Detector
from facegan.files import TEMPORARY
from facegan.prep.chunk import Chunk, entries_read, process_chunk
from facegan.prep.commit import ChunkOutcome, ChunkWork, make_chunk
from facegan.prep.request import PHOTO_SECONDS
from facegan.prep.sources.base import Entry, Readable, Reader, sound
from facegan.prep.sources.prefetch import prefetching, schedule
from facegan.remote import FETCH_AHEAD
from facegan.system import peak_memory_bytes


@dataclass(frozen=True)
class Job:
    """What every worker needs to know: small, and pickled once."""

    config: PrepConfig
    source: Readable
    models: tuple[Path, ...]
    folder: Path  # where chunks are committed
    photo_seconds: float = PHOTO_SECONDS
    fetch_ahead: int = FETCH_AHEAD


class Worker:
    """One process's own things: opened once, used for every chunk."""

    def __init__(self, job: Job, photos_read: ctypes.c_int64 | None = None) -> None:
        """``photos_read`` counts those of the chunk at hand, for whoever shows progress."""
        import cv2

        from facegan.faces.detect import make_detector, silence_stderr

        cv2.setNumThreads(1)
        self.job = job
        with sound(job.source.where):
            self._ahead = prefetching(job.source.reader(), job.fetch_ahead)
        self._photos_read = ctypes.c_int64() if photos_read is None else photos_read
        self.reader: Reader = _Watched(self._ahead, job.photo_seconds, self._photos_read)
        self.detector: Detector = make_detector(job.config, job.models)
        silence_stderr()
        gc.freeze()  # what is loaded by now stays: the collector need not look at it again

    def do(self, work: ChunkWork) -> ChunkOutcome:
        """Makes a chunk and leaves it in the job's folder."""
        started = time.monotonic()
        with self._reading(work.chunk):
            done = make_chunk(self.job.folder, work, self.job.config, self.reader, self.detector)
        return ChunkOutcome(done, started, time.monotonic(), peak_memory_bytes())

    def try_out(self, work: ChunkWork) -> None:
        """Makes a chunk and throws it away: only whether the process outlives it is asked."""
        with tempfile.TemporaryDirectory(TEMPORARY, ".trial", self.job.folder) as folder:
            shard = Path(folder) / "shard"
            with self._reading(work.chunk):
                process_chunk(work.chunk, self.job.config, self.reader, self.detector, shard, shard.with_suffix(".x"))

    @contextlib.contextmanager
    def _reading(self, chunk: Chunk) -> Iterator[None]:
        """Its photographs are fetched ahead; when it comes to an end, whichever, neither request nor alarm stays."""
        self._photos_read.value = 0
        schedule(self._ahead, entries_read(chunk))
        try:
            yield
        finally:
            _watch(0)
            schedule(self._ahead, ())


class _Watched:
    """A reader that starts the clock when it hands out a photograph, and stops it while it reads the next.

    The alarm ends the process as a fault in a decoder would, even inside a library that never comes back.
    """

    def __init__(self, reader: Reader, seconds: float, count: ctypes.c_int64) -> None:
        self._reader, self._seconds, self._count = reader, seconds, count

    def read(self, entry: Entry) -> bytes:
        _watch(0)
        try:
            return self._reader.read(entry)
        finally:
            self._count.value += 1
            _watch(self._seconds)

    def close(self) -> None:
        self._reader.close()


def _watch(seconds: float) -> None:
    signal.setitimer(signal.ITIMER_REAL, seconds)


_worker: Worker | Exception | None = None


def start(job: Job, seat: int | None, photos_read: ctypes.c_int64) -> None:
    """First thing in a process of the local engine."""
    global _worker
    if seat is not None:
        pin_to_cpu(seat)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _worker = Worker(job, photos_read)
    except Exception as error:  # an initializer that raises breaks the pool, and nobody learns why
        _worker = error
    # Detectors are left open: workers end by a signal or by os._exit, where no destructor runs.


def pin_to_cpu(seat: int) -> None:
    """Keeps this process on a CPU of its own.

    MediaPipe hands each photograph from thread to thread: where they share a CPU they find it in its cache.
    """
    with contextlib.suppress(AttributeError, OSError):  # not Linux, or a sandbox that forbids it
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cpus[seat : seat + 1] or cpus)


def _end_with_parent() -> None:
    """A parent killed by SIGKILL tells nobody; its sentinel does."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def do(work: ChunkWork) -> ChunkOutcome:
    with _exits_as_deaths():
        done = _started().do(work)
    # The pictures stay in the marker: a message this small is written in one piece, even by a process that is killed.
    return replace(done, chunk=replace(done.chunk, rejects=[]))


def try_out(work: ChunkWork) -> None:
    with _exits_as_deaths():
        _started().try_out(work)


@contextlib.contextmanager
def _exits_as_deaths() -> Iterator[None]:
    """A library that calls ``sys.exit`` would else end the parent, which gets what its workers raise."""
    try:
        yield
    except SystemExit:
        os._exit(1)


def _started() -> Worker:
    if isinstance(_worker, FaceganError | OSError):
        raise _worker
    if not isinstance(_worker, Worker):
        raise FaceganError(f"A worker could not start: {type(_worker).__name__}: {_worker}. See: facegan doctor")
    return _worker

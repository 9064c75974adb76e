"""A worker: opens reader and detector once, then makes chunks with them, in this process or in one of its own."""

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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

from facegan.config import PrepConfig
from facegan.errors import FaceganError
from facegan.faces.detect import make_detector, silence_stderr
from facegan.files import TEMPORARY
from facegan.prep.chunk import Chunk, entries_read, process_chunk
from facegan.prep.commit import ChunkOutcome, ChunkWork, make_chunk
from facegan.prep.request import PHOTO_SECONDS
from facegan.prep.sources.base import Entry, Readable, Reader, source_errors
from facegan.prep.sources.prefetch import prefetching, schedule
from facegan.remote import FETCH_AHEAD
from facegan.system import peak_memory_bytes


@dataclass(frozen=True)
class Job:
    """The inputs of all workers: small, and pickled once."""

    config: PrepConfig
    source: Readable
    models: tuple[Path, ...]
    folder: Path  # where chunks are committed
    photo_seconds: float = PHOTO_SECONDS  # a photograph that takes longer, reading not included, hangs
    fetch_ahead: int = FETCH_AHEAD


class Worker:
    """Makes one chunk after the other."""

    def __init__(self, job: Job, on_photo: Callable[[int], None] = lambda count: None, has_alarm: bool = True) -> None:
        """
        Args:
            on_photo: called with the number of photographs of the current chunk that were read.
            has_alarm: end the process when a photograph hangs.
        """
        self.job = job
        with source_errors(job.source.where):
            self._prefetching = prefetching(job.source.reader(), job.fetch_ahead)
        self._reader = _WatchedReader(self._prefetching, job.photo_seconds if has_alarm else 0, on_photo)
        self._detector = make_detector(job.config, job.models)

    def make(self, work: ChunkWork) -> ChunkOutcome:
        """Make a chunk in the job's folder, ready to be committed."""
        started = time.monotonic()
        with self._reading(work.chunk) as reader:
            marker = make_chunk(self.job.folder, work, self.job.config, reader, self._detector)
        return ChunkOutcome(marker, started, time.monotonic(), peak_memory_bytes())

    def try_out(self, work: ChunkWork) -> None:
        """Make a chunk and discard it, to see if the process survives it."""
        with tempfile.TemporaryDirectory(TEMPORARY, ".trial", self.job.folder) as folder:
            shard = Path(folder) / "shard"
            with self._reading(work.chunk) as reader:
                process_chunk(work.chunk, self.job.config, reader, self._detector, shard, shard.with_suffix(".x"))

    @contextlib.contextmanager
    def _reading(self, chunk: Chunk) -> Iterator[Reader]:
        """Prefetch the chunk's photographs. No request and no alarm outlives the block."""
        self._reader.count = 0
        schedule(self._prefetching, entries_read(chunk))
        try:
            yield self._reader
        finally:
            self._reader.stop_alarm()
            schedule(self._prefetching, ())

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._reader.close()
        self._detector.close()


class _WatchedReader:
    """A reader that counts, and sets an alarm for the time between one read and the next.

    The alarm ends the process as a crash in a decoder would, even inside a library call that never returns. It needs
    POSIX timers; without them hanging photographs are not detected.
    """

    def __init__(self, reader: Reader, seconds: float, on_photo: Callable[[int], None]) -> None:
        self._reader, self._on_photo = reader, on_photo
        self._seconds = seconds if hasattr(signal, "setitimer") else 0
        self.count = 0

    def read(self, entry: Entry) -> bytes:
        self.stop_alarm()
        try:
            return self._reader.read(entry)
        finally:
            self.count += 1
            self._on_photo(self.count)
            if self._seconds:
                signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def stop_alarm(self) -> None:
        if self._seconds:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def close(self) -> None:
        self._reader.close()


READY = "ready"  # the first message of a worker process


def serve(connection: Connection, job: Job, cpu: int | None, photos_read: ctypes.c_int64) -> None:
    """Main function of a worker process: answer each (work, is_trial) with a `ChunkOutcome`, None or an exception.

    Args:
        cpu: position among the usable CPUs of the one that this process stays on.
        photos_read: shared with the parent, which shows progress.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    if cpu is not None:
        _pin_to_cpu(cpu)

    def show(count: int) -> None:
        photos_read.value = count

    try:
        prepare_process()
        worker = Worker(job, show)
        silence_stderr()
        gc.freeze()  # what is loaded by now stays: the collector can skip it
    except (FaceganError, OSError) as error:
        connection.send(error)
        return
    except Exception as error:
        connection.send(FaceganError(f"A worker could not start: {type(error).__name__}: {error}. Run: facegan doctor"))
        return
    connection.send(READY)
    # The detector stays open: workers end by a signal or by os._exit, where no destructor runs.
    while True:
        try:
            work, is_trial = connection.recv()
        except (EOFError, OSError):
            os._exit(0)
        photos_read.value = 0
        try:
            connection.send(worker.try_out(work) if is_trial else _without_thumbnails(worker.make(work)))
        except SystemExit:  # a library that calls sys.exit has crashed
            os._exit(1)
        except (FaceganError, OSError) as error:
            connection.send(error)
        except Exception as error:  # it may not be picklable
            connection.send(FaceganError(f"A worker failed: {type(error).__name__}: {error}. Run: facegan doctor"))


def prepare_process() -> None:
    """One thread for OpenCV, and alarms that end the process: for processes that only make chunks."""
    import cv2

    cv2.setNumThreads(1)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _without_thumbnails(outcome: ChunkOutcome) -> ChunkOutcome:
    """The marker on disk has them. A message this small is written at once, even by a process that is being killed."""
    return replace(outcome, chunk=replace(outcome.chunk, rejects=[]))


def _pin_to_cpu(cpu: int) -> None:
    """MediaPipe passes each photograph from thread to thread: on one CPU they find it in the cache."""
    with contextlib.suppress(AttributeError, OSError):  # not Linux, or a sandbox that forbids it
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cpus[cpu : cpu + 1] or cpus)


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)

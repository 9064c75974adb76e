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
from facegan.prep.chunk import Survey, entries_read, survey_photo
from facegan.prep.commit import ChunkOutcome, ChunkWork, make_chunk
from facegan.prep.request import PHOTO_SECONDS
from facegan.prep.sources.base import Entry, Source, source_errors
from facegan.prep.sources.prefetch import prefetching, schedule
from facegan.remote import FETCH_AHEAD
from facegan.system import peak_memory_bytes

READY = "ready"  # the first message of a worker process


@dataclass(frozen=True)
class Job:
    """The inputs of all workers: small, and pickled once."""

    config: PrepConfig
    source: Source
    models: tuple[Path, ...]
    folder: Path  # where chunks are committed
    photo_seconds: float = PHOTO_SECONDS  # a photograph that takes longer, reading not included, hangs
    fetch_ahead: int = FETCH_AHEAD
    reuses: bool = False  # most faces are known from an earlier run, so the detector is loaded when it is needed


class Worker:
    """Makes one chunk after the other. As the reader of its photographs it counts them, and sets an alarm for the time
    between one read and the next.

    The alarm ends the process as a crash in a decoder would, even inside a library call that never returns. It needs
    POSIX timers; without them hanging photographs are not detected.
    """

    def __init__(self, job: Job, has_alarm: bool = True) -> None:
        self.job, self._count = job, 0
        self._on_photo: Callable[[int], None] | None = None
        self._alarm_seconds = job.photo_seconds if has_alarm and hasattr(signal, "setitimer") else 0
        with source_errors(job.source.where):
            self._reader = prefetching(job.source.reader(), job.fetch_ahead)
        self._detector = make_detector(job.config, job.models, is_needed=not job.reuses)

    def make(
        self, work: ChunkWork, folder: Path | None = None, on_photo: Callable[[int], None] | None = None
    ) -> ChunkOutcome:
        """Make a chunk in a folder (the job's), ready to be committed.

        ``on_photo`` gets the number of its photographs that were read.
        """
        started = time.monotonic()
        with self._reading(entries_read(work.chunk), on_photo):
            marker = make_chunk(folder or self.job.folder, work, self, self._detector)
        return ChunkOutcome(marker, started, time.monotonic(), peak_memory_bytes())

    def survey(self, survey: Survey) -> tuple[list[tuple[str, ...]], float]:
        """`survey_photo` of each photograph, and the seconds that they took."""
        started = time.monotonic()
        with self._reading([item.entry for item in survey.items], None):
            reasons = [survey_photo(item, survey.configs, self, self._detector) for item in survey.items]
        return reasons, time.monotonic() - started

    @contextlib.contextmanager
    def _reading(self, entries: list[Entry], on_photo: Callable[[int], None] | None) -> Iterator[None]:
        """Photographs are read inside. No request and no alarm outlives it."""
        self._count, self._on_photo = 0, on_photo
        schedule(self._reader, entries)
        try:
            yield
        finally:
            self._set_alarm(0)
            schedule(self._reader, ())

    def read(self, entry: Entry) -> bytes:
        self._set_alarm(0)
        try:
            return self._reader.read(entry)
        finally:
            self._count += 1
            if self._on_photo:
                self._on_photo(self._count)
            self._set_alarm(self._alarm_seconds)

    def _set_alarm(self, seconds: float) -> None:
        if self._alarm_seconds:
            signal.setitimer(signal.ITIMER_REAL, seconds)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._reader.close()
        self._detector.close()


def serve(connection: Connection, job: Job, cpu: int | None, photos_read: ctypes.c_int64) -> None:
    """Main function of a worker process: answer each (work, is_trial) with a `ChunkOutcome`, None or an exception.

    ``cpu`` is the position among the usable CPUs of the one to stay on; the parent shows ``photos_read``.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    if cpu is not None:  # MediaPipe passes each photograph from thread to thread: on one CPU they find it in the cache
        with contextlib.suppress(AttributeError, OSError):  # not Linux, or a sandbox that forbids it
            cpus = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, cpus[cpu : cpu + 1] or cpus)

    def show(count: int) -> None:
        photos_read.value = count

    try:
        prepare_process()
        worker = Worker(job)
        silence_stderr()
        gc.freeze()  # what is loaded by now stays: the collector can skip it
    except Exception as error:
        connection.send(_picklable(error))
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
            if isinstance(work, Survey):
                connection.send(worker.survey(work))
            elif is_trial:  # only to see if the process survives it
                with tempfile.TemporaryDirectory(TEMPORARY, ".trial", job.folder) as folder:
                    worker.make(work, Path(folder))
                connection.send(None)
            else:
                # Without thumbnails, which the marker on disk has: a message this small is written at once, even by a
                # process that is being killed.
                outcome = worker.make(work, on_photo=show)
                connection.send(replace(outcome, chunk=replace(outcome.chunk, rejects=[])))
        except SystemExit:  # a library that calls sys.exit has crashed
            os._exit(1)
        except Exception as error:
            connection.send(_picklable(error))


def _picklable(error: Exception) -> Exception:
    if isinstance(error, FaceganError | OSError):
        return error
    return FaceganError(f"A worker failed: {type(error).__name__}: {error}. Run: facegan doctor")


def prepare_process() -> None:
    """One thread for OpenCV, and alarms that end the process: for processes that only make chunks."""
    import cv2

    cv2.setNumThreads(1)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _exit_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)

"""The engine ``local``: worker processes on this machine, each with a pipe of its own; or no process at all.

Workers share no lock and no queue, so one that is killed at any moment leaves the others untouched.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from typing import Any

from facegan.errors import FaceganError, SettingsError
from facegan.files import remove_partials
from facegan.prep.chunk import Survey
from facegan.prep.commit import ChunkWork
from facegan.prep.engines.worker import READY, Job, Worker, serve
from facegan.system import affinity_cpus

_MOST_FALSE_STARTS = 8  # processes in a row that end before they are ready
_REIMPORTED = 81  # exit code of a worker process that met `facegan.prepare` while it imported the user's script
_PROCESS_NAME = "facegan prep worker"
_POLL_SECONDS = 0.25  # between reports of progress

OnProgress = Callable[[int], None]


def exit_if_reimported() -> None:
    """End a worker process that is still importing the script which started it: that calls `prepare` again."""
    if multiprocessing.current_process().name == _PROCESS_NAME:
        sys.exit(_REIMPORTED)


class WorkerDied(Exception):
    """The process that had this task ended."""


class NodeLost(WorkerDied):
    """The node that had this task, or data that it needed, is gone: most likely through no photograph's fault."""


@dataclass(eq=False)
class _Task:
    work: ChunkWork | Survey
    is_trial: bool
    result: Any = None  # of the worker, or an exception


class _WorkerProcess:
    """One process at a time, and its task."""

    def __init__(self, job: Job, cpu: int | None) -> None:
        self._context, self._job, self._cpu = multiprocessing.get_context("spawn"), job, cpu
        # Shared without a lock, which a killed process could leave locked.
        self.photos_read: ctypes.c_int64 = self._context.RawValue(ctypes.c_int64)
        self.start()

    def start(self) -> None:
        self.task: _Task | None = None
        self.is_ready = False
        self.photos_read.value = 0
        self.connection, theirs = self._context.Pipe()
        arguments = (theirs, self._job, self._cpu, self.photos_read)
        self._process = self._context.Process(target=serve, args=arguments, name=_PROCESS_NAME, daemon=True)
        with _without_interrupts():
            self._process.start()
        theirs.close()

    def stop(self, grace_seconds: float = 0) -> int | None:
        """End the process; its exit code."""
        self.connection.close()
        if self._process.pid is not None:  # it was started
            self._process.join(grace_seconds)
            self._process.kill()
            self._process.join()
        return self._process.exitcode


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C waits until a process is started, and never reaches the process, which inherits the mask."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # first: it unblocks interrupts when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class LocalEngine:
    """Makes chunks in ``workers`` processes, each with a detector of its own."""

    def __init__(self, job: Job, workers: int) -> None:
        self.slots, self._job = workers, job
        self._waiting: deque[_Task] = deque()
        self._workers: list[_WorkerProcess] = []
        self._false_starts = 0
        pinned = workers == affinity_cpus()  # under a quota the scheduler chooses the CPUs
        try:
            for number in range(workers):
                self._workers.append(_WorkerProcess(job, number if pinned else None))
        except BaseException:
            self.close()
            raise

    def submit(self, work: ChunkWork | Survey, is_trial: bool = False) -> _Task:
        task = _Task(work, is_trial)
        self._waiting.append(task)
        self._dispatch()
        return task

    def _dispatch(self) -> None:
        for worker in self._workers:
            if worker.is_ready and worker.task is None and self._waiting:
                worker.task = self._waiting.popleft()
                worker.photos_read.value = 0
                with contextlib.suppress(OSError):  # it died while idle: its connection reports that
                    worker.connection.send((worker.task.work, worker.task.is_trial))

    def wait(self, on_progress: OnProgress | None = None) -> list[_Task]:
        """Wait until at least one task has ended; raises FaceganError if worker processes cannot start.

        ``on_progress`` gets the number of photographs read of unfinished chunks, a few times a second.
        """
        while True:
            by_connection: dict[Any, _WorkerProcess] = {worker.connection: worker for worker in self._workers}
            ready = connection.wait(list(by_connection), _POLL_SECONDS)
            ended = [task for one in ready if (task := self._receive(by_connection[one]))]
            if on_progress:
                on_progress(sum(w.photos_read.value for w in self._workers if w.task and not w.task.is_trial))
            self._dispatch()
            if ended:
                return ended

    def _receive(self, worker: _WorkerProcess) -> _Task | None:
        """Take a message of a worker, or notice its end; the task that has ended by that."""
        task, worker.task = worker.task, None
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            code = worker.stop(_POLL_SECONDS)
            if task:
                task.result = WorkerDied(f"exit code {code}")
            elif code == _REIMPORTED:
                raise SettingsError(
                    "facegan.prepare starts processes, and each of them imports your script first. Put the code that\n"
                    'calls it below a line  if __name__ == "__main__":  or set workers=0.'
                ) from None
            elif not worker.is_ready:
                self._false_starts += 1
                if self._false_starts > _MOST_FALSE_STARTS:
                    raise FaceganError(
                        "Worker processes end before they take a photograph. Finished chunks are kept: start the same\n"
                        "command again, with fewer --workers if memory ran out. See: facegan doctor"
                    ) from None
            worker.start()
            return task
        if task:
            task.result = message
        elif message == READY:
            worker.is_ready, self._false_starts = True, 0
        else:
            raise message
        return task

    def result(self, task: Any) -> Any:
        """A `ChunkOutcome`, None after a trial, or the answer to a `Survey`. Raises WorkerDied if its process ended."""
        if isinstance(task.result, Exception):
            raise task.result
        return task.result

    def close(self) -> None:
        """Unfinished chunks are discarded: they are not committed, and the next run makes them again."""
        for worker in self._workers:
            worker.stop()
        remove_partials(self._job.folder)


class InlineEngine:
    """Makes chunks in this process (``workers=0``). A photograph that crashes or hangs takes the whole run with it."""

    slots = 1

    def __init__(self, job: Job) -> None:
        self._worker = Worker(job, has_alarm=False)
        self._waiting: deque[_Task] = deque()

    def submit(self, work: ChunkWork | Survey, is_trial: bool = False) -> _Task:
        self._waiting.append(_Task(work, is_trial))
        return self._waiting[-1]

    def wait(self, on_progress: OnProgress | None = None) -> list[_Task]:
        task, worker = self._waiting.popleft(), self._worker
        if isinstance(task.work, Survey):
            task.result = worker.survey(task.work)
        else:
            task.result = worker.make(task.work, on_photo=on_progress)
        return [task]

    def result(self, task: Any) -> Any:
        return task.result

    def close(self) -> None:
        self._worker.close()
        remove_partials(self._worker.job.folder)

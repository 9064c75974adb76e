"""The engine ``local``: spawned processes on this machine, each in a pool of pebble's.

Processes that share a pool share its fate: one killed while it holds the lock of the pool's pipe, or has read half a
message, takes the others with it, and one killed before its first task breaks the pool. So every process has its own.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, Self

from pebble import ProcessExpired, ProcessPool

from facegan.errors import FaceganError, SettingsError
from facegan.files import remove_partials
from facegan.prep.commit import ChunkOutcome, ChunkWork
from facegan.prep.engines.worker import Job, do, start, try_out
from facegan.system import affinity_cpus

_MOST_FALSE_STARTS = 8  # processes in a row that end before they take anything
_READ_AGAIN = 81  # exit code of a process that has read the script which starts it, and met `facegan.prepare` again
_LOOK_SECONDS = 0.25  # between looks at pools that may have broken in silence, and at how far workers are


def exit_if_reimported() -> None:
    """Ends a process that is only beginning: spawned ones read the script of the one that started them first."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        sys.exit(_READ_AGAIN)


class WorkerDied(Exception):
    """The process that had this work is no more."""


@dataclass(eq=False)
class _Task:
    """What a process is asked to do: it waits for one, is under way, or has come to an end."""

    function: Callable[[ChunkWork], ChunkOutcome | None]
    work: ChunkWork
    future: Any = None

    @property
    def never_began(self) -> bool:
        """Its process was gone before it took it."""
        return not self.future.done() or isinstance(self.future.exception(), BrokenProcessPool)


class _Process(SpawnProcess):
    """A worker, which ends when it is killed, and not before.

    pebble forgets one that ended by itself with 0: whoever waits for what it had in hand would wait for ever.
    """

    @property
    def exitcode(self) -> int | None:
        code = super().exitcode
        return os.EX_SOFTWARE if code == 0 else code


class _Spawn(SpawnContext):
    """Knows the processes that were started with it."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[_Process] = []

    # pebble calls it, and what it gets is the same; a class of its own for each context could not be pickled.
    def Process(self, *args: Any, **kwargs: Any) -> SpawnProcess:  # pyright: ignore[reportIncompatibleVariableOverride]
        self.started.append(_Process(*args, **kwargs))
        return self.started[-1]


class _WorkerSlot:
    """A place for one process, and the pool that it is in."""

    def __init__(self, job: Job, cpu: int | None) -> None:
        # Shared without a lock: a worker that is killed can't leave it locked.
        self.photos_read: ctypes.c_int64 = multiprocessing.get_context("spawn").RawValue(ctypes.c_int64)
        self._start_with = job, cpu, self.photos_read
        self._settle()

    def _settle(self) -> None:
        self._spawn = _Spawn()
        self.pool = ProcessPool(1, initializer=start, initargs=self._start_with, context=self._spawn)

    def begin(self, errand: _Task) -> None:
        self.photos_read.value = 0
        try:
            errand.future = self.pool.schedule(errand.function, args=(errand.work,))
        except RuntimeError:  # its process died while it had nothing to do
            self.renew()
            errand.future = self.pool.schedule(errand.function, args=(errand.work,))

    def renew(self) -> None:
        """Who knows in what state a process that was killed left its pipes."""
        self.end()
        self._settle()

    @property
    def read_again(self) -> bool:
        """Its process met the call that it was started by."""
        return any(process.exitcode == _READ_AGAIN for process in self._spawn.started)

    def end(self) -> None:
        self.pool.stop()
        for process in self._spawn.started:  # first: one that is just starting complains if it finds the pool gone
            if process.is_alive():
                process.kill()
        self.pool.join()


class LocalEngine:
    """Runs chunks in ``workers`` processes, each with a detector of its own."""

    name = "local"

    def __init__(self, job: Job, workers: int, on_progress: Callable[[int], None]) -> None:
        """``on_progress`` gets the number of photographs read of the chunks under way, a few times a second."""
        self.slots = workers
        self._job, self._on_progress = job, on_progress
        whole = workers == affinity_cpus()  # a quota leaves the choice of CPUs to the scheduler
        self._seats = [_WorkerSlot(job, number if whole else None) for number in range(workers)]
        self._free = list(reversed(self._seats))
        self._waiting: deque[_Task] = deque()
        self._under_way: dict[_Task, _WorkerSlot] = {}
        self._false_starts = 0
        # Started by a thread that Ctrl-C does not reach, processes inherit that, and none is left half started.
        self._starter = concurrent.futures.ThreadPoolExecutor(1, initializer=_shut_out_interrupts)

    def submit(self, work: ChunkWork, trial: bool = False) -> Any:
        """Begins to make a chunk, or only to try whether a process outlives it."""
        errand = _Task(try_out if trial else do, work)
        self._waiting.append(errand)
        self._hand_out()
        return errand

    def _hand_out(self) -> None:
        while self._free and self._waiting:
            seat, errand = self._free.pop(), self._waiting.popleft()
            self._starter.submit(seat.begin, errand).result()
            self._under_way[errand] = seat

    def wait(self, handles: Iterable[Any]) -> set[Any]:
        """Those that have ended, once there is one.

        Raises:
            SettingsError: processes begin with the script that started them.
            FaceganError: processes end as soon as they are started.
        """
        while True:
            futures = [errand.future for errand in self._under_way]
            concurrent.futures.wait(futures, _LOOK_SECONDS, concurrent.futures.FIRST_COMPLETED)
            whole = (seat for errand, seat in self._under_way.items() if errand.function is do)  # not on trial
            self._on_progress(sum(seat.photos_read.value for seat in whole))
            ended = {errand for errand, seat in self._under_way.items() if errand.future.done() or not seat.pool.active}
            again = {errand for errand in ended if errand.never_began}
            for errand in ended:
                self._leave_seat(errand)
            self._waiting.extendleft(again)
            self._hand_out()
            if ended - again:
                return ended - again

    def _leave_seat(self, errand: _Task) -> None:
        seat = self._under_way.pop(errand)
        if errand.never_began:
            if seat.read_again:
                raise SettingsError(
                    "facegan.prepare starts processes, and each of them reads your script first: put what the script\n"
                    'does below a line  if __name__ == "__main__":'
                )
            self._false_starts += 1
            if self._false_starts > _MOST_FALSE_STARTS:
                raise FaceganError(
                    "Worker processes end before they take a photograph. What was done is kept: start the same\n"
                    "command again, with fewer --workers if memory ran out. See: facegan doctor"
                )
        else:
            self._false_starts = 0
        if errand.never_began or isinstance(errand.future.exception(), ProcessExpired):
            self._starter.submit(seat.renew).result()
        self._free.append(seat)

    def result(self, handle: Any) -> ChunkOutcome | None:
        """
        Raises:
            WorkerDied: its process did.
        """
        try:
            return handle.future.result()
        except ProcessExpired as error:
            raise WorkerDied(str(error)) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Interrupted workers are not waited for: what they hold is committed by nobody and done again.
        for seat in self._seats:
            seat.pool.stop()
        self._starter.shutdown()
        for seat in self._seats:
            seat.end()
        remove_partials(self._job.folder)


def _shut_out_interrupts() -> None:
    resource_tracker.ensure_running()  # now, for where it is started later it lets interrupts in again
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

"""What a process's threads and locks live through: a fork, of which the child has neither, and the end."""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - its own hook, which waits for its threads, has to be there before ours
import os
import threading
import weakref
from typing import Protocol


class Forked(Protocol):
    def renew(self) -> None:
        """In a forked process: makes anew what the parent's threads may have held or been."""
        ...


class Ending(Protocol):
    def end(self) -> None:
        """The process is about to wait for its threads: lets go those that wait for something themselves."""
        ...


_forked: weakref.WeakSet[Forked] = weakref.WeakSet()
_ending: weakref.WeakSet[Ending] = weakref.WeakSet()


def renew_in_forks(thing: Forked) -> None:
    """Calls its ``renew`` in each process that is forked while somebody holds it."""
    _forked.add(thing)


def end_with_process(thing: Ending) -> None:
    """Calls its ``end`` when the process ends, if somebody still holds it."""
    _ending.add(thing)


def _renew_all() -> None:
    for thing in list(_forked):
        thing.renew()


def _end_all() -> None:
    for thing in list(_ending):
        thing.end()


os.register_at_fork(after_in_child=_renew_all)
# `atexit` would be too late: Python waits for the threads of executors first. They have the same hook.
threading._register_atexit(_end_all)  # pyright: ignore[reportAttributeAccessIssue] - no public one comes in time

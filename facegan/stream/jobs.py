"""Work by number, several at once, in an order that may change while it waits."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Jobs(Generic[T]):
    """Runs ``work(number)``: what was asked for first, then what is expected, each in its order.

    Its threads are daemons, for a process that ends does not wait for a slow server, and end when there is nothing to
    do, so that nobody has to close what is not used any more.
    """

    def __init__(self, work: Callable[[int], T], most_threads: int, name: str) -> None:
        self._work, self._most, self._name = work, most_threads, name
        self._lock = threading.Lock()
        self._asked: deque[int] = deque()
        self._expected: deque[int] = deque()
        self._results: dict[int, Future[T]] = {}  # of what was asked for, or has begun
        self._threads: set[threading.Thread] = set()

    def expect(self, numbers: Iterable[int]) -> None:
        """These, in this order, when nothing is asked for, in the place of what was expected before."""
        with self._lock:
            self._expected = deque(numbers)
            self._start(len(self._expected))

    def ask(self, number: int) -> Future[T]:
        """What the work on ``number`` gives, the one that is going on or a new one."""
        with self._lock:
            if number not in self._results:
                self._results[number] = Future()
                self._asked.append(number)
                self._start(1)
            return self._results[number]

    def forget(self) -> None:
        """What has not begun is not done; who waits for it waits in vain."""
        with self._lock:
            self._asked.clear()
            self._expected.clear()

    def join(self, seconds: float) -> None:
        """Waits for what has begun, but not for longer."""
        end = time.monotonic() + seconds
        for thread in list(self._threads):
            thread.join(max(end - time.monotonic(), 0))

    def _start(self, needed: int) -> None:
        for _ in range(min(needed, self._most - len(self._threads))):
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._threads.add(thread)
            thread.start()

    def _run(self) -> None:
        while job := self._take():
            number, future = job
            try:
                result = self._work(number)
            except BaseException as error:  # it belongs to who asked
                self._done(number)
                future.set_exception(error)
            else:
                self._done(number)
                future.set_result(result)

    def _take(self) -> tuple[int, Future[T]] | None:
        with self._lock:
            if self._asked:
                number = self._asked.popleft()
                return number, self._results[number]
            while self._expected:
                number = self._expected.popleft()
                if number not in self._results:
                    future = self._results[number] = Future()
                    return number, future
            self._threads.discard(threading.current_thread())
            return None

    def _done(self, number: int) -> None:
        with self._lock:
            del self._results[number]

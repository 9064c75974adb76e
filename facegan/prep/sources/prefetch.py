"""Fetching the next photographs while one is decoded."""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from facegan.prep.sources.base import Entry, Reader, RemoteReader, Request
from facegan.remote import TooLarge

MAX_BUFFERED_BYTES = 1 << 26  # of photographs that wait for their turn in a process
_FIRST_GUESS_BYTES = 1 << 18  # of a photograph, before any came
_MIN_BYTES = 1 << 12  # counted for each: an error that waits takes memory, too

_WAITING, _FETCHING, _FETCHED, _AT_ITS_TURN, _DROPPED = range(5)


class BudgetExceeded(TooLarge):
    """The photograph does not fit into the memory budget; it is fetched at its turn."""


def prefetching(reader: Reader, requests: int) -> Reader:
    """The reader, with prefetching if it fetches photographs one by one."""
    return PrefetchingReader(reader, requests) if requests > 1 and isinstance(reader, RemoteReader) else reader


def schedule(reader: Reader, entries: Iterable[Entry]) -> None:
    """Announce the next reads, in order, to a reader that prefetches."""
    if isinstance(reader, PrefetchingReader):
        reader.schedule(entries)


@dataclass(eq=False, slots=True)
class _Photo:
    """A scheduled photograph."""

    entry: Entry
    request: Any  # a Request, or None
    state: int
    outcome: bytes | BaseException = b""  # its bytes, or the error to raise
    is_due: bool = False
    counted: int = 0  # bytes in the budget


class PrefetchingReader:
    """Reads photographs in the scheduled order; a pool of threads fetches the next ones.

    At most ``requests`` are fetched at once (one of them by the reading thread) and at most ``max_bytes`` wait for
    their turn. A photograph that would exceed that is fetched at its turn. Results and errors arrive in order.
    """

    def __init__(self, reader: RemoteReader, requests: int, max_bytes: int = MAX_BUFFERED_BYTES) -> None:
        self._reader, self._max_threads, self._max_bytes = reader, requests - 1, max_bytes
        self._threads: list[threading.Thread] = []
        lock = threading.Lock()  # guards all below, and the photographs
        self._fetched = threading.Condition(lock)
        self._has_work = threading.Condition(lock)  # there may be a photograph to fetch that fits into the budget
        self._scheduled: deque[_Photo] = deque()
        self._waiting: deque[_Photo] = deque()
        self._buffered_bytes, self._usual_bytes = 0, _FIRST_GUESS_BYTES
        self._is_closed = False

    def schedule(self, entries: Iterable[Entry]) -> None:
        """Replace the schedule; photographs of the previous one that were not read are dropped."""
        requests = ((entry, self._request(entry)) for entry in entries)
        photos = [_Photo(entry, request, _WAITING if request else _AT_ITS_TURN) for entry, request in requests]
        with self._has_work:
            for photo in self._scheduled:
                self._drop(photo)
            self._scheduled, self._waiting = deque(photos), deque(photo for photo in photos if photo.request)
            self._has_work.notify()
        while len(self._threads) < min(self._max_threads, len(photos)):
            # Daemons: nobody waits for a silent server when the process ends.
            self._threads.append(threading.Thread(target=self._work, daemon=True))
            self._threads[-1].start()

    def _request(self, entry: Entry) -> Request | None:
        try:
            return self._reader.request(entry)
        except Exception:  # `read` raises it again at its turn
            return None

    def read(self, entry: Entry) -> bytes:
        photo = self._take(entry)
        if photo is None or photo.state == _AT_ITS_TURN:
            return self._reader.read(entry)
        outcome, photo.outcome = photo.outcome, b""  # a thread may still refer to the photograph
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def _take(self, entry: Entry) -> _Photo | None:
        """The scheduled photograph, once it is fetched or left to this thread; None if it is not scheduled."""
        with self._fetched:
            while self._scheduled and self._scheduled[0].entry != entry:
                self._drop(self._scheduled.popleft())
            if not self._scheduled:
                return None
            photo = self._scheduled.popleft()
            if photo.state == _WAITING:
                photo.state = _AT_ITS_TURN
            photo.is_due = True
            self._count(photo, 0)
            self._fetched.wait_for(lambda: photo.state != _FETCHING)
            return photo

    def _work(self) -> None:
        while photo := self._next():
            try:
                outcome: bytes | BaseException = photo.request(functools.partial(self._grow, photo))
            except BaseException as error:  # raised at the photograph's turn, without frames that keep partial bodies
                outcome = error.with_traceback(None)
            self._finish(photo, outcome)

    def _next(self) -> _Photo | None:
        """The next photograph to fetch, once it fits into the budget; None after `close`.

        Half of the budget is kept for photographs that turn out larger than is likely.
        """
        with self._has_work:
            while not self._is_closed:
                while self._waiting and self._waiting[0].state != _WAITING:
                    self._waiting.popleft()
                if self._waiting:
                    photo = self._waiting[0]
                    likely_bytes = max(photo.entry.size or self._usual_bytes, _MIN_BYTES)
                    if self._buffered_bytes + likely_bytes <= self._max_bytes // 2:
                        self._waiting.popleft()
                        photo.state, photo.counted = _FETCHING, likely_bytes
                        self._buffered_bytes += likely_bytes
                        self._has_work.notify()  # one thread at a time is woken, and wakes the next
                        return photo
                self._has_work.wait()
            return None

    def _grow(self, photo: _Photo, count: int) -> None:
        with self._fetched:
            if photo.state == _DROPPED:
                raise BudgetExceeded
            if not photo.is_due and count > photo.counted:
                if self._buffered_bytes + count - photo.counted > self._max_bytes:
                    self._usual_bytes += max(0, count - self._usual_bytes) // 8
                    raise BudgetExceeded
                self._count(photo, count)

    def _finish(self, photo: _Photo, outcome: bytes | BaseException) -> None:
        with self._fetched:
            size = len(outcome) if isinstance(outcome, bytes) else 0
            if size:
                self._usual_bytes += (size - self._usual_bytes) // 8
            if photo.state == _FETCHING:
                is_left = isinstance(outcome, BudgetExceeded)
                photo.state, photo.outcome = (_AT_ITS_TURN, b"") if is_left else (_FETCHED, outcome)
                self._count(photo, 0 if is_left or photo.is_due else max(size, _MIN_BYTES))
            self._fetched.notify()

    def _count(self, photo: _Photo, count: int) -> None:
        self._buffered_bytes += count - photo.counted
        if count <= photo.counted:
            self._has_work.notify()
        photo.counted = count

    def _drop(self, photo: _Photo) -> None:
        photo.state, photo.outcome = _DROPPED, b""
        self._count(photo, 0)

    def close(self) -> None:
        """Running requests are abandoned."""
        self.schedule(())
        with self._has_work:
            self._is_closed = True
            self._has_work.notify_all()
        self._reader.close()

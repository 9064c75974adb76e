"""Fetching the next photographs while one is decoded."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterable

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


class _Photo:
    """A scheduled photograph; ``outcome`` is its bytes or the error to raise at its turn, ``counted`` its bytes in the
    budget."""

    __slots__ = ("counted", "entry", "is_due", "outcome", "state")

    def __init__(self, entry: Entry, state: int) -> None:
        self.entry, self.state = entry, state
        self.outcome: bytes | BaseException = b""
        self.is_due, self.counted = False, 0


class PrefetchingReader:
    """Reads photographs in the scheduled order; a pool of threads fetches the next ones.

    At most ``requests`` are fetched at once (one of them by the reading thread) and at most ``max_bytes`` wait for
    their turn. A photograph that would exceed that is fetched at its turn. Results and errors arrive in order.
    """

    def __init__(self, reader: RemoteReader, requests: int, max_bytes: int = MAX_BUFFERED_BYTES) -> None:
        self._reader, self._max_threads, self._max_bytes = reader, requests - 1, max_bytes
        self._threads: list[threading.Thread] = []
        self._admission = threading.Lock()  # one thread at a time waits for memory
        self._changed = threading.Condition()  # guards all below, and the photographs
        self._queue: queue.SimpleQueue[tuple[_Photo, Request] | None] = queue.SimpleQueue()
        self._scheduled: deque[_Photo] = deque()
        self._buffered_bytes, self._usual_bytes = 0, _FIRST_GUESS_BYTES

    def schedule(self, entries: Iterable[Entry]) -> None:
        """Replace the schedule; photographs of the previous one that were not read are dropped."""
        requests = [(entry, self._request(entry)) for entry in entries]
        photos = [_Photo(entry, _WAITING if request else _AT_ITS_TURN) for entry, request in requests]
        with self._changed:
            self._drop_all()
            self._scheduled.extend(photos)
        for photo, (_, request) in zip(photos, requests, strict=True):
            if request:
                self._queue.put((photo, request))
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
        with self._changed:
            while self._scheduled:
                photo = self._scheduled.popleft()
                if photo.entry == entry:
                    break
                self._drop(photo)
            else:
                return None
            if photo.state == _WAITING:
                photo.state = _AT_ITS_TURN
            photo.is_due = True
            self._count(photo, 0)
            self._changed.notify_all()
            self._changed.wait_for(lambda: photo.state != _FETCHING)
            return photo

    def _work(self) -> None:
        while admitted := self._admit():
            photo, request = admitted
            self._finish(photo, self._fetch(photo, request))

    def _admit(self) -> tuple[_Photo, Request] | None:
        """The next photograph, once it fits into the budget; None after `close`."""
        with self._admission:
            while queued := self._queue.get():
                photo, _ = queued
                with self._changed:
                    while photo.state == _WAITING and not self._fits(photo):
                        self._changed.wait()
                    if photo.state == _WAITING:
                        photo.state = _FETCHING
                        self._count(photo, self._likely_bytes(photo))
                        return queued
            return None

    def _likely_bytes(self, photo: _Photo) -> int:
        return max(photo.entry.size or self._usual_bytes, _MIN_BYTES)

    def _fits(self, photo: _Photo) -> bool:
        """Half of the budget is kept for photographs that turn out larger than is likely."""
        return self._buffered_bytes + self._likely_bytes(photo) <= self._max_bytes // 2

    def _fetch(self, photo: _Photo, request: Request) -> bytes | BaseException:
        try:
            return request(lambda count: self._grow(photo, count))
        except BaseException as error:  # raised at the photograph's turn
            return _without_frames(error)

    def _grow(self, photo: _Photo, count: int) -> None:
        with self._changed:
            if photo.state == _DROPPED:
                raise BudgetExceeded
            if not photo.is_due and count > photo.counted:
                if self._buffered_bytes + count - photo.counted > self._max_bytes:
                    self._usual_bytes += max(0, count - self._usual_bytes) // 8
                    raise BudgetExceeded
                self._count(photo, count)

    def _finish(self, photo: _Photo, outcome: bytes | BaseException) -> None:
        with self._changed:
            size = len(outcome) if isinstance(outcome, bytes) else 0
            if isinstance(outcome, BudgetExceeded):
                if photo.state == _FETCHING:
                    photo.state = _AT_ITS_TURN
                self._count(photo, 0)
            elif photo.state == _FETCHING:
                photo.state, photo.outcome = _FETCHED, outcome
                self._count(photo, 0 if photo.is_due else max(size, _MIN_BYTES))
            if size:
                self._usual_bytes += (size - self._usual_bytes) // 8
            self._changed.notify_all()

    def _count(self, photo: _Photo, count: int) -> None:
        self._buffered_bytes += count - photo.counted
        photo.counted = count

    def _drop(self, photo: _Photo) -> None:
        photo.state, photo.outcome = _DROPPED, b""
        self._count(photo, 0)

    def _drop_all(self) -> None:
        while self._scheduled:
            self._drop(self._scheduled.popleft())
        self._changed.notify_all()

    def close(self) -> None:
        """Running requests are abandoned."""
        with self._changed:
            self._drop_all()
        for _ in self._threads:
            self._queue.put(None)
        self._reader.close()


def _without_frames(error: BaseException) -> BaseException:
    """Without tracebacks, whose frames would keep a partial body in memory."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error

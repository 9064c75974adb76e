"""The next photographs are fetched while one is decoded: a worker that waited for each would spend its time waiting."""

from __future__ import annotations

import heapq
import queue
import threading
from collections import deque
from collections.abc import Iterable

from facegan.prep.sources.base import Entry, Fetching, Reader, Request
from facegan.prep.sources.remote import any_number
from facegan.remote import TooLarge

AHEAD_BYTES = 1 << 26  # of photographs that wait for their turn in a process
_GUESSED_BYTES = 1 << 18  # of a photograph, before one has come
_LEAST_BYTES = 1 << 12  # counted for each: one that could not be had is an error, which takes room as well


class BudgetExceeded(TooLarge):
    """More bytes than may wait for their turn: it is fetched again, at its turn."""


def prefetching(reader: Reader, requests: int) -> Reader:
    """A reader that fetches ahead where that one fetches photographs one by one; else that one."""
    return PrefetchingReader(reader, requests) if requests > 1 and isinstance(reader, Fetching) else reader


def schedule(reader: Reader, entries: Iterable[Entry]) -> None:
    """Tells a reader, if it is one that fetches ahead, what it will be asked for, in that order."""
    if isinstance(reader, PrefetchingReader):
        reader.expect(entries)


class _PendingPhoto:
    """A photograph whose turn will come.

    Attributes:
        may_be_early: it may be fetched before its turn, by another thread.
        counted: bytes that it takes of those that may wait.
        likely_bytes: 0 where nothing is known.
        outcome: its bytes, or what is to be raised; None before it came.
        is_begun: a thread fetches it, or has.
        is_past: its turn has come, or it is not asked for any more.
    """

    __slots__ = (
        "counted",
        "entry",
        "is_begun",
        "is_past",
        "is_wanted",
        "likely_bytes",
        "may_be_early",
        "number",
        "outcome",
        "request",
    )

    def __init__(self, number: int, entry: Entry, request: Request, may_be_early: bool) -> None:
        self.number, self.entry, self.request = number, entry, request
        self.outcome: bytes | BaseException | None = None
        self.likely_bytes, self.counted = entry.size, 0
        self.may_be_early, self.is_begun, self.is_past = may_be_early, False, False
        self.is_wanted = True

    def __lt__(self, other: _PendingPhoto) -> bool:
        return self.number < other.number


class PrefetchingReader:
    """Photographs of a reader, in the order in which it was told to expect them.

    No more than ``requests`` are fetched at once, and no more than ``most_bytes`` wait for their turn; what would go
    beyond is given up, and fetched again when there is room, at the latest at its turn. Whatever comes of a request,
    bytes or an error, comes of it at its photograph's turn. One thread expects and reads.
    """

    def __init__(self, reader: Fetching, requests: int, most_bytes: int = AHEAD_BYTES) -> None:
        self._reader, self._most_bytes = reader, most_bytes
        self._most_threads = requests - 1  # the other one is for a photograph whose turn comes before it was begun
        self._threads = 0
        self._lock = threading.Lock()
        self._came = threading.Condition(self._lock)
        self._todo: queue.SimpleQueue[_PendingPhoto | None] = queue.SimpleQueue()
        self._coming: deque[_PendingPhoto] = deque()
        self._waiting: list[_PendingPhoto] = []  # a heap of those that were not begun
        self._under_way = self._bytes = 0
        self._usual_bytes = _GUESSED_BYTES

    def expect(self, entries: Iterable[Entry]) -> None:
        """What was expected before and not read is not asked for any more."""
        awaited = [self._asked(number, entry) for number, entry in enumerate(entries)]
        with self._lock:
            while self._coming:
                self._forget(self._coming.popleft())
            self._coming.extend(awaited)
            self._waiting = [photo for photo in awaited if photo.may_be_early]
            self._begin()

    def _asked(self, number: int, entry: Entry) -> _PendingPhoto:
        try:
            request = self._reader.request(entry)
        except Exception as error:  # raised at its turn
            return _PendingPhoto(number, entry, _raising(error), may_be_early=False)
        if request is None:
            return _PendingPhoto(number, entry, lambda _: self._reader.read(entry), may_be_early=False)
        return _PendingPhoto(number, entry, request, may_be_early=True)

    def read(self, entry: Entry) -> bytes:
        photo = self._turn_of(entry)
        if photo is None:
            return self._reader.read(entry)
        if photo.outcome is None:
            return photo.request(any_number)
        outcome, photo.outcome = photo.outcome, None
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def _turn_of(self, entry: Entry) -> _PendingPhoto | None:
        """Waits for the photograph if it was begun; None where it was not expected."""
        with self._lock:
            while self._coming:
                photo = self._coming.popleft()
                if photo.entry == entry:
                    break
                self._forget(photo)
            else:
                return None
            photo.is_past = True
            self._count(photo, 0)
            self._begin()
            while photo.is_begun and photo.outcome is None:
                self._came.wait()
            return photo

    def _forget(self, photo: _PendingPhoto) -> None:
        photo.is_past, photo.is_wanted, photo.outcome = True, False, None
        self._count(photo, 0)

    def _count(self, photo: _PendingPhoto, taken: int) -> None:
        self._bytes += taken - photo.counted
        photo.counted = taken

    def _begin(self) -> None:
        """Begins as many as may be: as long as half the room is left, for some turn out larger than is likely."""
        while self._waiting and self._under_way < self._most_threads:
            photo = self._waiting[0]
            likely = max(photo.likely_bytes or self._usual_bytes, _LEAST_BYTES)
            if not photo.is_past and self._bytes + likely > self._most_bytes // 2:
                return
            heapq.heappop(self._waiting)
            if photo.is_past:
                continue
            photo.is_begun = True
            self._count(photo, likely)
            self._under_way += 1
            if self._threads < self._under_way:
                self._threads += 1
                threading.Thread(target=self._work, daemon=True).start()
            self._todo.put(photo)

    def _work(self) -> None:
        while (photo := self._todo.get()) is not None:
            self._end(photo, self._fetched(photo))

    def _fetched(self, photo: _PendingPhoto) -> bytes | BaseException:
        try:
            return photo.request(lambda taken: self._take(photo, taken))
        except BaseException as error:  # whatever it is, it is that photograph's, and raised at its turn
            return _without_frames(error)

    def _take(self, photo: _PendingPhoto, taken: int) -> None:
        """Hears how many bytes a photograph has, or has sent until now.

        Raises:
            NoRoom: too many.
        """
        with self._lock:
            if not photo.is_wanted:
                raise BudgetExceeded
            if photo.is_past or taken <= photo.counted:
                return
            photo.likely_bytes = taken
            if self._bytes + taken - photo.counted > self._most_bytes:
                raise BudgetExceeded
            self._count(photo, taken)

    def _end(self, photo: _PendingPhoto, outcome: bytes | BaseException) -> None:
        with self._lock:
            self._under_way -= 1
            if isinstance(outcome, BudgetExceeded):
                photo.is_begun = False
                self._count(photo, 0)
                if not photo.is_past:
                    heapq.heappush(self._waiting, photo)
            elif photo.is_wanted:
                photo.outcome = outcome
                size = _LEAST_BYTES
                if isinstance(outcome, bytes):
                    self._usual_bytes += (len(outcome) - self._usual_bytes) // 8
                    size = max(size, len(outcome))
                self._count(photo, 0 if photo.is_past else size)
            if photo.is_past:
                self._came.notify()
            self._begin()

    def close(self) -> None:
        """Requests under way are not waited for: their threads end with them, or with the process."""
        with self._lock:
            while self._coming:
                self._forget(self._coming.popleft())
            self._waiting.clear()
            for _ in range(self._threads):
                self._todo.put(None)
        self._reader.close()


def _raising(error: Exception) -> Request:
    def request(_heard: object) -> bytes:
        raise error

    return request


def _without_frames(error: BaseException) -> BaseException:
    """Frames would keep what they have read of a body until the photograph's turn."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error

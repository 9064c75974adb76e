"""Ctrl-C and SIGTERM as a question that the loop asks."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 10.0  # seconds after the first signal in which no other one loses anything


class StopRequests:
    """While entered, a signal sets a flag and prints at once what will happen.

    Later signals change nothing within `PATIENCE` and during a save; after that one does what it always did, and
    everything since the last save is lost. Outside the main thread no signals arrive, and only ``also`` is asked.

    Args:
        also: another reason to stop.
        quiet: print nothing.
    """

    def __init__(self, also: Callable[[], bool] | None = None, *, quiet: bool = False) -> None:
        self._also, self._quiet = also, quiet
        self._since: float | None = None  # of the first signal
        self._saving = False
        self._before: dict[int, signal.Handlers | Callable[[int, FrameType | None], object] | int | None] = {}
        self.unsaved: Callable[[], int] = lambda: 0  # images that a stop without a save would lose
        self.discards = False  # the step that is running is not finished, but discarded

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def __call__(self) -> bool:
        return self.signalled() or (self._also is not None and self._also())

    def signalled(self) -> bool:
        return self._since is not None

    @contextmanager
    def saving(self) -> Iterator[None]:
        """A save is always finished."""
        self._saving = True
        try:
            yield
        finally:
            self._saving = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now, images = time.monotonic(), self.unsaved()
        if self._since is None:
            self._since = now
            when = "now, without this step," if self.discards else "after this step"
            again = f"; press again after {PATIENCE:.0f} s to lose the last {images:,} images" if images else ""
            self._say(f"Stopping {when} and saving{again}.")
        elif self._saving:
            self._say("Saving. This is finished first.")
        elif now - self._since < PATIENCE:
            self._say("Stopping and saving. Please wait.")
        else:
            self._say(f"Stopping without saving: the last {images:,} images are lost.")
            self._restore()
            signal.raise_signal(number)

    def _say(self, text: str) -> None:
        """One write without Python's buffers: the signal may have come in the middle of another print."""
        if self._quiet or sys.__stderr__ is None:
            return
        with contextlib.suppress(OSError, ValueError):
            place = sys.__stderr__.fileno()
            start = "\r\x1b[K" if os.isatty(place) else ""  # over a progress bar, which is drawn again below
            os.write(place, f"{start}{text}\n".encode())

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType] - as signal.signal returned it
        self._before = {}

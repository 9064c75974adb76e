"""Ctrl-C and SIGTERM as a question that the loop asks."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequests:
    """While entered, the first signal only sets a flag; a second one does what it always did.

    Outside the main thread no signals arrive, and only ``also`` is asked.
    """

    def __init__(self, also: Callable[[], bool] | None = None) -> None:
        self._also, self._asked = also, False
        self._before: dict[int, signal.Handlers | Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def __call__(self) -> bool:
        return self._asked or (self._also is not None and self._also())

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType] - as signal.signal returned it
        self._before = {}

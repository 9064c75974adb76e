"""A file from afar into one here, watched on its way: silence, too many bytes, or who asked for it may end it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from facegan.files import human_bytes
from facegan.remote import SLOWEST_BYTES, slow_seconds, too_slow
from facegan.stream.partials import is_silent, silence_seconds

_LOOK_SECONDS = 0.2


def download(fs: Any, path: str, target: Path, most: int | None, stop: Callable[[], None]) -> None:
    """Fetches one whole file. Not every fsspec protocol has timeouts: it runs in a thread that may be left alone.

    Args:
        target: is written over.
        most: bytes; None for any number.
        stop: is called now and then, and raises to end it.

    Raises:
        OSError: nothing has come for too long, or more than ``most``.
        Unreachable: it comes too slowly.
        Exception: whatever the protocol's library raises.
    """
    watched = _Watched(fs, path, target)
    seen, since = -1, time.monotonic()
    measured, measured_since = 0, since
    try:
        while not watched.ended.wait(_LOOK_SECONDS):
            stop()
            size = max(watched.came, target.stat().st_size if target.exists() else 0)
            if most is not None and size > most:
                raise OSError(f"more than {human_bytes(most)} came")
            if size != seen:
                seen, since = size, time.monotonic()
            elif is_silent(since):
                raise OSError(f"nothing came for {silence_seconds():g} seconds")
            if time.monotonic() - measured_since > slow_seconds():
                if size - measured < SLOWEST_BYTES * slow_seconds():
                    raise too_slow()
                measured, measured_since = size, time.monotonic()
    finally:
        watched.left = True
    if watched.error:
        raise watched.error
    if most is not None and target.stat().st_size > most:
        raise OSError(f"more than {human_bytes(most)} came")


class _Watched:
    def __init__(self, fs: Any, path: str, target: Path) -> None:
        self.came, self.left, self.ended = 0, False, threading.Event()
        self.error: BaseException | None = None
        self._fs, self._path, self._target = fs, path, target
        threading.Thread(target=self._run, name="download", daemon=True).start()

    def _run(self) -> None:
        try:
            self._fs.get_file(self._path, str(self._target), callback=self._callback())
        except BaseException as error:  # it is told to who waits
            self.error = error
        finally:
            self.ended.set()

    def _callback(self) -> Any:
        from fsspec.callbacks import Callback

        watched = self

        class Watching(Callback):
            def relative_update(self, inc: int = 1) -> None:
                watched.came += inc
                if watched.left:
                    raise OSError("nobody waits for it any more")

        return Watching()

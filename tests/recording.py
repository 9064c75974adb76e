"""A console that records messages and progress."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from facegan.console import Console, Progress


class RecordingConsole(Console):
    """Attributes: ``notes``, ``warnings`` and ``advances`` of progress, in their order; nothing is printed."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.notes, self.warnings, self.advances = list[str](), list[str](), list[int]()

    def note(self, *lines: str) -> None:
        self.notes.append("\n".join(lines))

    def warn(self, *lines: str) -> None:
        self.warnings.append("\n".join(lines))

    @contextlib.contextmanager
    def progress(self, total: int, unit: str, done: int = 0) -> Iterator[Progress]:
        progress = Progress(total, unit, done)
        progress.advance = lambda count, note="": self.advances.append(count)
        yield progress

"""A console that keeps what it is told."""

from __future__ import annotations

from facegan.console import Console


class Heard(Console):
    """Attributes: ``notes`` and ``warnings``, in their order; nothing is printed."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, *lines: str) -> None:
        self.notes.append("\n".join(lines))

    def warn(self, *lines: str) -> None:
        self.warnings.append("\n".join(lines))

"""What every stage of an experiment has in common.

Nothing heavy is imported before a stage has work to do: that all is done is found out in a second.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from facegan.console import Console


class Stage(Protocol):
    name: str

    @property
    def where(self) -> str:
        """The folder or file that it makes."""
        ...

    def inputs(self) -> dict[str, Any]:
        """All that decides what comes of it, as plain values by name."""
        ...

    def outputs(self) -> list[Path]:
        """Files that have to stay as they are for it to be up to date."""
        ...

    def title(self) -> str:
        """What is being done, as a note before it."""
        ...

    def plan(self) -> str:
        """What would be done, in a few words. Touches nothing; raises what `do` would before it begins."""
        ...

    def do(self, console: Console, command: list[str]) -> dict[str, Any]:
        """What came of it, as plain values."""
        ...

    def tell(self, result: dict[str, Any]) -> str:
        """The result in a few words."""
        ...


def number_or_auto(text: str) -> int | None:
    """``auto`` is None, as the rooms have it."""
    return None if text == "auto" else int(text)

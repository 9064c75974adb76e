"""The log of the processes that do not write one: the first speaks for all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facegan.console import Console
from facegan.train.folder.log import RunLog


class NoLog(RunLog):
    """A `RunLog` that says nothing and writes nothing."""

    def __init__(self, run: Path) -> None:
        self.run, self.console, self.rows = run, Console(quiet=True), []

    def cut_back(self, images: int | None, lengths: Mapping[str, int] | None) -> None: ...
    def note(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...
    def row(self, row: dict[str, Any]) -> None: ...
    def grid(self, picture: NDArray[np.uint8], images: int) -> None: ...
    def draw(self, *, now: bool = False) -> None: ...
    def sync(self) -> None: ...

    def lengths(self) -> dict[str, int]:
        return {}

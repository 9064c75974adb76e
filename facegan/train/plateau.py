"""Learning rates that are halved where a measure stalls (Berthelot et al. 2017, arXiv:1703.10717, section 4.1)."""

from __future__ import annotations

import math
from typing import Any

_BETTER = 0.99  # of the best value so far: what is below it is progress, and not noise


class Plateau:
    """Sees a measure at every row of the log, the smaller the better. Its state is part of a checkpoint.

    Args:
        patience_images: so long without progress is a plateau.
    """

    def __init__(self, patience_images: int) -> None:
        self._patience = patience_images
        self._best, self._since = math.inf, 0

    def see(self, value: float, images: int) -> bool:
        """Whether a plateau ends here; another begins then."""
        if value < _BETTER * self._best:
            self._best, self._since = value, images
        ended = images - self._since >= self._patience
        if ended:
            self._since = images
        return ended

    def numbers(self) -> dict[str, Any]:
        """The state, as JSON has it."""
        return {"best": self._best if math.isfinite(self._best) else None, "since": self._since}

    def load(self, numbers: dict[str, Any]) -> None:
        self._best = math.inf if numbers["best"] is None else numbers["best"]
        self._since = numbers["since"]

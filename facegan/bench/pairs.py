"""Two rates measured in turn, A B A B …: machines drift, and only the ratio of neighbours says something."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from facegan import machine
from facegan.console import Console


@dataclass(frozen=True)
class Bench:
    """A measured comparison.

    Attributes:
        ours, by_hand: rates in ``unit``, one a pair.
    """

    what: str
    hand: str
    unit: str
    ours: list[float]
    by_hand: list[float]
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Median of the pairs' ratios; over 1, ours is faster."""
        return statistics.median(a / b for a, b in zip(self.ours, self.by_hand, strict=True))

    def to_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "by_hand_is": self.hand,
            "unit": self.unit,
            "ours": [round(rate, 1) for rate in self.ours],
            "by_hand": [round(rate, 1) for rate in self.by_hand],
            "ratio": round(self.ratio, 3),
            **self.notes,
            "machine": machine.describe(),
        }


def in_pairs(
    ours: Callable[[], float], by_hand: Callable[[], float], pairs: int, console: Console
) -> tuple[list[float], list[float]]:
    """Calls both ``pairs`` times in turn; each call gives a rate."""
    rates: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        for measured, job in zip(rates, (ours, by_hand), strict=True):
            measured.append(job())
        console.note(f"pair {pair + 1} of {pairs}: {rates[0][-1]:,.0f} beside {rates[1][-1]:,.0f}")
    return rates

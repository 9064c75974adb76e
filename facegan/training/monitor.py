"""Illnesses of a training, noticed from its rows and grids. The thresholds stand here, each with its reason.

N images, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Kind = Literal["rolled_back", "d_too_strong", "collapse", "no_change"]

# The first grids look alike in every run. With DCGAN and WGAN-GP of a quarter of the usual width, batch 32, on CelebA
# faces at 64×64, the diversity fell from 0.14 to 0.06 before it rose over 0.3, after 400 and 220 rounds.
GRACE_ROUNDS = 1_000
# A generator that draws one face has about 0; the runs above ended over 0.7, full-size ones between 0.9 and 1.05.
LEAST_DIVERSITY = 0.3
# D may win for a while, as long as G learns from it: DCGAN's was right on 98 to 99.5 % of the images in rounds 20 to
# 200 of those healthy runs, while the norm of G's gradient doubled. So both have to be seen, in ten rows of the log.
STRETCH_ROWS = 10
MOST_ACCURACY = 0.97
# Rows differ by a tenth by chance: the mean of a stretch's later half has to be this much under that of its first.
FALLEN = 0.8
# Of 255 grey levels. Grids of the runs above differed by 10 and more from those 50 rounds before.
LEAST_CHANGE = 0.5
CHANGE_ROUNDS = 50  # between the grids that are compared, at least
LEAST_RATE = 0.1  # of the learning rates: where a schedule leaves less, samples are meant to stand still
LEAST_SCALE = 1.0  # of a GradScaler: fp16 gradients that overflow even then are themselves beyond fp16


@dataclass(frozen=True)
class Finding:
    """One illness, told once for as long as it lasts."""

    kind: Kind
    value: float
    text: str  # one line: what is wrong, and what to try


class Monitor:
    """Sees every row and every grid of a run. Its state is part of a checkpoint, so that resuming warns alike.

    Args:
        has_accuracy: whether D tells real from fake by the sign of its logits. A Wasserstein critic does not, and
            can't be too strong (Arjovsky et al. 2017, section 3).
        grid_shape: of the grid's images, (N, C, H, W).
    """

    def __init__(self, has_accuracy: bool, grid_shape: tuple[int, ...]) -> None:
        self.has_accuracy = has_accuracy
        self.real_diversity = 0.0  # 0: not known
        self._stretch: list[tuple[float, float]] = []  # (D's accuracy, G's gradient) of the last rows
        self._lasting: set[str] = set()
        self._was_diverse = False
        self._earlier, self._earlier_at = torch.zeros(grid_shape, dtype=torch.uint8), (-1, 0)  # a grid; images, rounds

    def see_row(self, row: Mapping[str, Any]) -> list[Finding]:
        if not self.has_accuracy:
            return []
        self._stretch = [*self._stretch, (row["d_accuracy"], row["grad_g"])][-STRETCH_ROWS:]
        half = STRETCH_ROWS // 2
        accuracy = min(a for a, _ in self._stretch)
        before, after = (sum(g for _, g in part) / half for part in (self._stretch[:half], self._stretch[-half:]))
        ill = len(self._stretch) == STRETCH_ROWS and accuracy > MOST_ACCURACY and after < FALLEN * before
        well = row["d_accuracy"] <= MOST_ACCURACY  # while D stays right the stretch goes on, whatever G's gradient does
        text = (
            f"the discriminator is too strong: right on {row['d_accuracy']:.1%} of the images at {row['images']:,}, "
            f"while the generator's gradient fell by {1 - after / max(before, 1e-30):.0%}. "
            "Try half of --set train.lr_d=…, or more faces, in another --run."
        )
        return self._told("d_too_strong", ill, well, row["d_accuracy"], text)

    def see_grid(self, grid: Tensor, images: int, rounds: int, rate: float = 1.0) -> list[Finding]:
        """``grid``: uint8 (N, C, H, W) of the same latents every time; ``rate``: what the schedule leaves, 0 … 1."""
        change = self._see_change(grid, images, rounds) if rate >= LEAST_RATE else []
        return [*self._see_diversity(grid, images, rounds), *change]

    def _see_diversity(self, grid: Tensor, images: int, rounds: int) -> list[Finding]:
        if not self.real_diversity:
            return []
        share = diversity(grid) / self.real_diversity
        ill = share < LEAST_DIVERSITY and (self._was_diverse or rounds >= GRACE_ROUNDS)
        self._was_diverse = self._was_diverse or share >= LEAST_DIVERSITY
        text = (
            f"the samples at {images:,} images look alike (mode collapse): the distance between them is {share:.0%} "
            f"of that between real faces, and should be over {LEAST_DIVERSITY:.0%}. "
            "Try half the learning rates (--set train.lr_g=… train.lr_d=…), or --method wgan-gp, in another --run."
        )
        return self._told("collapse", ill, share >= LEAST_DIVERSITY, share, text)

    def _see_change(self, grid: Tensor, images: int, rounds: int) -> list[Finding]:
        images_before, rounds_before = self._earlier_at
        if images_before >= 0 and rounds - rounds_before < CHANGE_ROUNDS:
            return []
        change = mean_change(self._earlier, grid)
        self._earlier.copy_(grid)
        self._earlier_at = images, rounds
        if images_before < 0:
            return []
        text = (
            f"the samples have not changed from {images_before:,} to {images:,} images ({change:.2f} of 255 grey "
            "levels): the generator has stopped learning. Try a larger --set train.lr_g=…, in another --run."
        )
        return self._told("no_change", change < LEAST_CHANGE, change >= LEAST_CHANGE, change, text)

    def _told(self, kind: Kind, ill: bool, well: bool, value: float, text: str) -> list[Finding]:
        if well:
            self._lasting.discard(kind)
        if not ill or kind in self._lasting:
            return []
        self._lasting.add(kind)
        return [Finding(kind, round(value, 4), text)]

    def tensors(self) -> dict[str, Tensor]:
        return {"health.earlier": self._earlier}

    def numbers(self) -> dict[str, Any]:
        return {
            "real_diversity": self.real_diversity,
            "stretch": self._stretch,
            "lasting": sorted(self._lasting),
            "was_diverse": self._was_diverse,
            "earlier_at": self._earlier_at,
        }

    def load(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        self._earlier.copy_(tensors["earlier"])
        self._earlier_at = numbers["earlier_at"][0], numbers["earlier_at"][1]
        self.real_diversity, self._was_diverse = numbers["real_diversity"], numbers["was_diverse"]
        self._stretch = [(accuracy, gradient) for accuracy, gradient in numbers["stretch"]]
        self._lasting = set(numbers["lasting"])


def diversity(images: Tensor) -> float:
    """Mean over all pairs of the root mean square distance between two images, uint8 (N, C, H, W); in grey levels."""
    flat = images.flatten(1).double()
    return (torch.pdist(flat).mean() / math.sqrt(flat.shape[1])).item()


def mean_change(before: Tensor, after: Tensor) -> float:
    """Mean absolute difference of two grids, uint8 (N, C, H, W); in grey levels."""
    return (before.int() - after.int()).abs().double().mean().item()


def overflows(means: Mapping[str, float], scale: float) -> str | None:
    """What is wrong where fp16 steps are left out although the loss is hardly scaled any more."""
    if means.get("skipped") and scale < LEAST_SCALE:
        return f"fp16 gradients overflow at a loss scale of {scale:g}"
    return None


def first_not_finite(means: Mapping[str, float]) -> str | None:
    """``"loss_d is nan"``: the first of a row's numbers that is not finite."""
    return next((f"{name} is {value}" for name, value in means.items() if not math.isfinite(value)), None)

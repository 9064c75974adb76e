"""Failure modes of a training, detected from its rows and grids. Each threshold states its reason.

N images, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# The first grids look alike in every run. With DCGAN and WGAN-GP of a quarter of the usual width, batch 32, on CelebA
# faces at 64×64, the diversity fell from 0.14 to 0.06 before it exceeded 0.3, after 400 and 220 steps.
GRACE_STEPS = 1_000
# A generator that draws one face has about 0; the runs above ended over 0.7, full-size ones between 0.9 and 1.05.
MIN_DIVERSITY = 0.3
# D may win for a while, as long as G learns from it: DCGAN's was right on 98 to 99.5 % of the images in steps 20 to 200
# of those healthy runs, while the norm of G's gradient doubled. So both must occur, in ten rows of the log.
WINDOW_ROWS = 10
MAX_ACCURACY = 0.97
# Rows vary by a tenth: the mean of a window's later half has to be this much below that of its first.
GRADIENT_FALL = 0.8
# Of 255 grey levels. Grids of the runs above differed by 10 and more from those 50 steps before.
MIN_CHANGE = 0.5
CHANGE_STEPS = 50  # between the grids that are compared, at least
MIN_RATE = 0.1  # of the learning rates: below it, a schedule intends samples to stop changing
MIN_SCALE = 1.0  # of a GradScaler: gradients that overflow even then are themselves beyond fp16


@dataclass(frozen=True)
class Finding:
    """One failure mode, reported once for as long as it lasts."""

    kind: str  # ``rolled_back``, ``d_too_strong``, ``collapse`` or ``no_change``
    value: float
    text: str  # one line: what is wrong, and what to try


class Monitor:
    """Sees every row and every grid of a run. Its state is part of a checkpoint, so that a resumed run warns alike.

    ``has_accuracy``: D tells real from fake by the sign of its logits. A Wasserstein critic does not, and cannot be too
    strong (Arjovsky et al. 2017, section 3).
    """

    def __init__(self, has_accuracy: bool, grid_shape: tuple[int, ...]) -> None:
        self.has_accuracy = has_accuracy
        self._real_diversity = 0.0  # 0: unknown
        self._window: list[tuple[float, float]] = []  # (D's accuracy, G's gradient) of the last rows
        self._lasting: set[str] = set()
        self._was_diverse = False
        self._grid, self._grid_at = torch.zeros(grid_shape, dtype=torch.uint8), (-1, 0)  # an earlier one; images, steps

    def set_real(self, images: Tensor) -> None:
        """Real images to compare the samples with, uint8 (N, C, H, W)."""
        self._real_diversity = diversity(images)

    def update(self, row: Mapping[str, Any]) -> list[Finding]:
        if not self.has_accuracy:
            return []
        self._window = [*self._window, (row["d_accuracy"], row["grad_g"])][-WINDOW_ROWS:]
        half = WINDOW_ROWS // 2
        accuracy = min(a for a, _ in self._window)
        before, after = (sum(g for _, g in part) / half for part in (self._window[:half], self._window[-half:]))
        failing = len(self._window) == WINDOW_ROWS and accuracy > MAX_ACCURACY and after < GRADIENT_FALL * before
        healthy = row["d_accuracy"] <= MAX_ACCURACY  # while D stays right the failure lasts, whatever G's gradient does
        text = (
            f"the discriminator is too strong: right on {row['d_accuracy']:.1%} of the images at {row['images']:,}, "
            f"while the generator's gradient fell by {1 - after / max(before, 1e-30):.0%}. "
            "Try half of --set train.lr_d=…, or more faces, in another --run."
        )
        return self._report(Finding("d_too_strong", row["d_accuracy"], text), failing, healthy)

    def update_grid(self, grid: Tensor, images: int, steps: int, rate: float = 1.0) -> list[Finding]:
        """``grid``: uint8 (N, C, H, W) of the same latents every time; ``rate``: the schedule's factor, 0 … 1."""
        findings: list[Finding] = []
        if self._real_diversity:
            share = diversity(grid) / self._real_diversity
            failing = share < MIN_DIVERSITY and (self._was_diverse or steps >= GRACE_STEPS)
            self._was_diverse = self._was_diverse or share >= MIN_DIVERSITY
            text = (
                f"the samples at {images:,} images look alike (mode collapse): the distance between them is "
                f"{share:.0%} of that between real faces, and should be over {MIN_DIVERSITY:.0%}. "
                "Try half the learning rates (--set train.lr_g=… train.lr_d=…), or --method wgan-gp, in another --run."
            )
            findings += self._report(Finding("collapse", share, text), failing, share >= MIN_DIVERSITY)
        images_before, steps_before = self._grid_at
        if rate < MIN_RATE or (images_before >= 0 and steps - steps_before < CHANGE_STEPS):
            return findings
        change = mean_change(self._grid, grid)
        self._grid.copy_(grid)
        self._grid_at = images, steps
        if images_before < 0:
            return findings
        text = (
            f"the samples have not changed from {images_before:,} to {images:,} images ({change:.2f} of 255 grey "
            "levels): the generator has stopped learning. Try a larger --set train.lr_g=…, in another --run."
        )
        return findings + self._report(Finding("no_change", change, text), change < MIN_CHANGE, change >= MIN_CHANGE)

    def _report(self, finding: Finding, failing: bool, healthy: bool) -> list[Finding]:
        if healthy:
            self._lasting.discard(finding.kind)
        if not failing or finding.kind in self._lasting:
            return []
        self._lasting.add(finding.kind)
        return [Finding(finding.kind, round(finding.value, 4), finding.text)]

    def tensors(self) -> dict[str, Tensor]:
        return {"health.earlier": self._grid}

    def scalars(self) -> dict[str, Any]:
        return {
            "real_diversity": self._real_diversity,
            "stretch": self._window,
            "lasting": sorted(self._lasting),
            "was_diverse": self._was_diverse,
            "earlier_at": self._grid_at,
        }

    def load(self, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> None:
        self._grid.copy_(tensors["earlier"])
        self._grid_at = scalars["earlier_at"][0], scalars["earlier_at"][1]
        self._real_diversity, self._was_diverse = scalars["real_diversity"], scalars["was_diverse"]
        self._window = [(accuracy, gradient) for accuracy, gradient in scalars["stretch"]]
        self._lasting = set(scalars["lasting"])


def diversity(images: Tensor) -> float:
    """Mean over all pairs of the root mean square distance between two images, uint8 (N, C, H, W); in grey levels."""
    flat = images.flatten(1).double()
    return (torch.pdist(flat).mean() / math.sqrt(flat.shape[1])).item()


def mean_change(before: Tensor, after: Tensor) -> float:
    """Mean absolute difference of two grids, uint8 (N, C, H, W); in grey levels."""
    return (before.int() - after.int()).abs().double().mean().item()


def problem_of(means: Mapping[str, float], scale: float) -> str | None:
    """``"loss_d is nan"``: the first number of a row that is not finite; or that fp16 overflows at a small scale."""
    for name, value in means.items():
        if not math.isfinite(value):
            return f"{name} is {value}"
    too_large = means.get("skipped") and scale < MIN_SCALE
    return f"fp16 gradients overflow at a loss scale of {scale:g}" if too_large else None

"""The generator's moving average: sampling, checkpoints and evaluation use it."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from facegan.nets import Generator
from facegan.nets.random import latents

RAMP_UP = 0.05  # the half-life is at most this share of the images seen: early weights fade soon
STATISTICS_BATCHES, STATISTICS_BATCH = 8, 64


# Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN" (arXiv:1912.04958), as their code has it:
#   θ̄ ← β θ̄ + (1 − β) θ,   β = ½^(B / h),   h = min(half-life, 0.05 · images seen),   B images per step
def ema_beta(step_images: int, images_seen: int, half_life_images: float) -> float:
    """β of one update; 0 (no average, only the latest weights) for a half-life of 0."""
    half_life = min(half_life_images, RAMP_UP * images_seen)
    return 0.5 ** (step_images / half_life) if half_life > 0 else 0.0


class Ema:
    """Averages a generator's parameters and batch-norm buffers, in float32.

    ``net`` holds the averages. Draw samples from `generator`, never from ``net`` itself.
    """

    def __init__(self, generator: Generator, half_life_images: float, *, weight_on_device: bool = False) -> None:
        """
        Args:
            weight_on_device: keep the weight of an update as a tensor; a CUDA graph would keep a number forever.
        """
        self.half_life_images = half_life_images
        self.net = copy.deepcopy(generator).requires_grad_(False)
        self._averages, self._counters = _tensors(self.net)
        self._sources, self._source_counters = _tensors(generator)
        device = next(generator.parameters()).device
        self._weight: float | Tensor = torch.ones((), device=device) if weight_on_device else 1.0

    def set_decay(self, step_images: int, images_seen: int) -> None:
        """Sets the weight of the next update; does not wait for the device."""
        weight = 1 - ema_beta(step_images, images_seen, self.half_life_images)
        if isinstance(self._weight, Tensor):
            self._weight.fill_(weight)
        else:
            self._weight = weight

    @torch.no_grad()
    def update(self) -> None:
        # One kernel over all tensors, as in torch's own optimizers; these functions have no public names.
        kernels: Any = torch
        if isinstance(self._weight, Tensor):  # _foreach_lerp_ takes no tensor
            changes = kernels._foreach_sub(self._sources, self._averages)
            kernels._foreach_mul_(changes, self._weight)
            kernels._foreach_add_(self._averages, changes)
        else:
            kernels._foreach_lerp_(self._averages, self._sources, self._weight)
        if self._counters:  # only nets with batch norm have some
            kernels._foreach_copy_(self._counters, self._source_counters)

    @torch.no_grad()
    def generator(self, seed: int) -> Generator:
        """A copy in eval mode with batch-norm statistics from fixed latents, which follow from ``seed``.

        Averaged weights give other activations than the weights whose running statistics were averaged (Izmailov et
        al. 2018, arXiv:1803.05407, section 3.2). On drawn discs at 32×32, pixels in eval mode differed from those under
        batch statistics by 0.05 to 0.08 after 40 steps and by 0.006 to 0.014 after 240; with new statistics, by 0.002.
        """
        net = copy.deepcopy(self.net)
        norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over all batches
        net.train()
        device = next(net.parameters()).device
        for batch in range(STATISTICS_BATCHES if norms else 0):
            net(
                latents(
                    STATISTICS_BATCH,
                    net.spec.latent,
                    seed,
                    "batch-norm statistics",
                    batch,
                    device,
                    net.spec.distribution,
                )
            )
        return cast(Generator, net.eval())


def _tensors(net: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """(tensors to average, integer counters to copy)."""
    tensors = [*net.parameters(), *net.buffers()]
    return [t for t in tensors if t.is_floating_point()], [t for t in tensors if not t.is_floating_point()]

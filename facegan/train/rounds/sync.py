"""Batch normalisation over the batches of all processes, on GPUs and CPUs.

Ioffe & Szegedy 2015, "Batch normalization" (arXiv:1502.03167), with mean and variance of the global batch. PyTorch's
own SyncBatchNorm works on CUDA alone.

N batch of this process, C channels, H height, W width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from facegan.train.rounds.ranks import Ranks


class _Sum(torch.autograd.Function):
    """The sum over all processes. Its gradient is that of every process's loss: their sum again."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.sum_(tensor.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.sum_(gradients[0].contiguous().clone()), None


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """As `nn.BatchNorm2d` in training on the global batch; same parameters and buffers by the same names."""

    ranks: Ranks

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        count = self.ranks.size * input.numel() // input.shape[1]
        wide = input.float()
        mean = self._sum(wide) / count
        centred = wide - mean[:, None, None]
        variance = self._sum(centred.square()) / count
        self._follow(mean.detach(), variance.detach() * (count / (count - 1)))
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    def _sum(self, values: Tensor) -> Tensor:
        total = _Sum.apply(values.sum(dim=(0, 2, 3)), self.ranks)
        assert isinstance(total, Tensor)
        return total

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Moves the running statistics, as in eval mode they stand for the batch's."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum or 0.0)
        self.running_var.lerp_(variance, self.momentum or 0.0)


def synchronise_norms(net: nn.Module, ranks: Ranks) -> None:
    """Every batch norm of ``net`` goes over the batches of all processes from now on; its tensors stay as they are."""
    for module in net.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SynchronisedBatchNorm2d
            assert isinstance(module, SynchronisedBatchNorm2d)
            module.ranks = ranks

"""Batch normalisation over the batches of all processes, on GPUs and CPUs.

Ioffe & Szegedy 2015, "Batch normalization" (arXiv:1502.03167), with mean and variance of the global batch. PyTorch's
own SyncBatchNorm works on CUDA alone.

N batch of this process, C channels; H height, W width where there are any.
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


class _Synchronised:
    """As the batch norm that it is mixed into, in training on the global batch; same parameters and buffers."""

    ranks: Ranks

    def forward(self, input: Tensor) -> Tensor:
        norm = _as_norm(self)
        if not norm.training:
            return super().forward(input)  # pyright: ignore[reportAttributeAccessIssue] - that of torch's norm
        count = self.ranks.size * input.numel() // input.shape[1]
        wide = input.float()
        each = (-1, *(1 for _ in input.shape[2:]))  # a number a channel, beside all its values
        mean = self._sum(wide) / count
        centred = wide - mean.view(each)
        variance = self._sum(centred.square()) / count
        _follow(norm, mean.detach(), variance.detach() * (count / (count - 1)))
        scale = norm.weight * (variance + norm.eps).rsqrt()
        return (centred * scale.view(each) + norm.bias.view(each)).to(input.dtype)

    def _sum(self, values: Tensor) -> Tensor:
        total = _Sum.apply(values.sum(dim=[0, *range(2, values.ndim)]), self.ranks)
        assert isinstance(total, Tensor)
        return total


class SynchronisedBatchNorm1d(_Synchronised, nn.BatchNorm1d):
    pass


class SynchronisedBatchNorm2d(_Synchronised, nn.BatchNorm2d):
    pass


def _as_norm(module: object) -> nn.BatchNorm1d | nn.BatchNorm2d:
    assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    return module


@torch.no_grad()
def _follow(norm: nn.BatchNorm1d | nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """Moves the running statistics, as in eval mode they stand for the batch's."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean, norm.momentum or 0.0)
    norm.running_var.lerp_(variance, norm.momentum or 0.0)


def synchronise_norms(net: nn.Module, ranks: Ranks) -> None:
    """Every batch norm of ``net`` goes over the batches of all processes from now on; its tensors stay as they are."""
    kinds = {nn.BatchNorm1d: SynchronisedBatchNorm1d, nn.BatchNorm2d: SynchronisedBatchNorm2d}
    for module in net.modules():
        kind = kinds.get(type(module))
        if kind:
            module.__class__ = kind
            assert isinstance(module, _Synchronised)
            module.ranks = ranks

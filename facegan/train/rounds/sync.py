"""Batch normalisation over the batches of all processes, on GPUs and CPUs.

Ioffe & Szegedy 2015, "Batch normalization" (arXiv:1502.03167), with mean and variance of the global batch. PyTorch's
own SyncBatchNorm works on CUDA alone.

N batch of this process, C channels; H height, W width where there are any.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from facegan.errors import SettingsError
from facegan.train.rounds.ranks import Ranks

Norm = nn.BatchNorm1d | nn.BatchNorm2d


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
        norm = cast(Norm, self)
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
        return cast(Tensor, _Sum.apply(values.sum(dim=[0, *range(2, values.ndim)]), self.ranks))


class SynchronisedBatchNorm1d(_Synchronised, nn.BatchNorm1d):
    pass


class SynchronisedBatchNorm2d(_Synchronised, nn.BatchNorm2d):
    pass


@torch.no_grad()
def _follow(norm: Norm, mean: Tensor, variance: Tensor) -> None:
    """Moves the running statistics, as in eval mode they stand for the batch's."""
    momentum = cast(float, norm.momentum)  # this and the statistics are there: `_refuse_unlike` looked
    cast(Tensor, norm.num_batches_tracked).add_(1)
    cast(Tensor, norm.running_mean).lerp_(mean, momentum)
    cast(Tensor, norm.running_var).lerp_(variance, momentum)


def synchronise_norms(net: nn.Module, ranks: Ranks) -> None:
    """Every batch norm of ``net`` goes over the batches of all processes from now on; its tensors stay as they are.

    Raises:
        SettingsError: one is of a kind that a user's own net alone may have, and can't be synchronised.
    """
    kinds = {nn.BatchNorm1d: SynchronisedBatchNorm1d, nn.BatchNorm2d: SynchronisedBatchNorm2d}
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        _refuse_unlike(norm, kinds)
    for norm in norms:
        norm.__class__ = kinds[type(norm)]
        cast(_Synchronised, norm).ranks = ranks


def _refuse_unlike(norm: _BatchNorm, kinds: Container[type]) -> None:
    if type(norm) not in kinds:
        what = f"is a {type(norm).__name__}"
    elif norm.running_mean is None or norm.weight is None or norm.momentum is None:
        what = "has no running statistics, no weights or no momentum"
    else:
        return
    raise SettingsError(
        f"train.sync_norm can't synchronise a batch norm of these nets: it {what}.\n"
        "Use nn.BatchNorm1d or nn.BatchNorm2d with their defaults, or leave train.sync_norm out."
    )

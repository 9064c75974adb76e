"""Several processes that train one pair of nets, one a GPU, as torchrun starts them.

    torchrun --nproc-per-node N -m -- facegan train …

Without ``--`` torchrun takes ``--run`` for one of its own options. Each process takes its share of a batch, and
gradients are summed by one flat all-reduce a net and step. PyTorch's wrapper for this (DistributedDataParallel) does
not work with the gradient penalty's `autograd.grad`.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from facegan.errors import Interrupted, SettingsError

_PATIENCE = timedelta(hours=2)  # while rank 0 saves, samples or measures, the others wait


@dataclass(frozen=True)
class World:
    """All processes of a training, seen from one of them."""

    rank: int = 0
    size: int = 1
    talk: Any = None  # the group for words between processes, on CPUs, where `size` is more than 1

    @property
    def writes(self) -> bool:
        """One process writes the log, pictures and checkpoints."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place. On a GPU it is queued like a kernel."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, yes: bool) -> bool:
        """Whether any process says yes; all get the same answer."""
        if self.size == 1:
            return yes
        said = torch.tensor(int(yes))
        dist.all_reduce(said, dist.ReduceOp.MAX, group=self.talk)
        return bool(said.item())

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier(group=self.talk)

    def share(self, batch: int) -> int:
        """Images of a batch that each process computes.

        Raises:
            SettingsError: it can't be shared evenly.
        """
        if batch % self.size:
            down, up = batch // self.size * self.size, -(-batch // self.size) * self.size
            raise SettingsError(
                f"--batch {batch} can't be shared evenly by {self.size} processes: choose "
                f"{f'{down} or {up}' if down else up}."
            )
        return batch // self.size


SINGLE = World()


def asked_size() -> int:
    """How many processes torchrun started, by its environment; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def first_of_processes() -> bool:
    """Whether this one speaks for all that torchrun started."""
    return os.environ.get("RANK", "0") == "0" or asked_size() == 1


def own_device(device: str) -> str:
    """``auto`` and ``cuda`` are this process's own GPU under torchrun."""
    local = os.environ.get("LOCAL_RANK")
    if asked_size() == 1 or local is None or device not in ("auto", "cuda") or not torch.cuda.is_available():
        return device
    return f"cuda:{local}"


@contextmanager
def init_distributed(device: torch.device) -> Iterator[World]:
    """The processes that torchrun started; NCCL between GPUs, gloo between CPUs.

    They stay joined until they end: a second training in the same processes finds them so.
    """
    if asked_size() == 1:
        yield SINGLE
        return
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE)
        atexit.register(dist.destroy_process_group)
    talk = dist.new_group(backend="gloo", timeout=_PATIENCE)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), talk)
    except Interrupted:
        dist.destroy_process_group(talk)
        raise
    except BaseException:
        # Others may wait in an all-reduce for this process, and taking leave of NCCL would wait for them. It ends at
        # once instead, and torchrun ends the others.
        atexit.unregister(dist.destroy_process_group)
        raise
    dist.destroy_process_group(talk)


# Batch normalisation over the batches of all processes, on GPUs and CPUs.
#
# Ioffe & Szegedy 2015, "Batch normalization" (arXiv:1502.03167), with mean and variance of the global batch. PyTorch's
# own SyncBatchNorm works on CUDA alone.
#
# N batch of this process, C channels; H height, W width where there are any.

Norm = nn.BatchNorm1d | nn.BatchNorm2d


class _Sum(torch.autograd.Function):
    """The sum over all processes. Its gradient is that of every process's loss: their sum again."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, ranks: World) -> Tensor:
        ctx.ranks = ranks
        return ranks.sum_(tensor.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.sum_(gradients[0].contiguous().clone()), None


class _Synchronised:
    """As the batch norm that it is mixed into, in training on the global batch; same parameters and buffers."""

    ranks: World

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


def synchronise_norms(net: nn.Module, ranks: World) -> None:
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
        f"train.sync_batchnorm can't synchronise a batch norm of these nets: it {what}.\n"
        "Use nn.BatchNorm1d or nn.BatchNorm2d with their defaults, or leave train.sync_batchnorm out."
    )

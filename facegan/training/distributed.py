"""Several processes that train one pair of nets, one a GPU, as torchrun starts them.

    torchrun --nproc-per-node N -m -- facegan train …

Without ``--`` torchrun takes ``--run`` for one of its own options. Each process takes its share of a batch, and
gradients are summed by one flat all-reduce a net and step. PyTorch's wrapper for this (DistributedDataParallel) does
not work with the gradient penalty's `autograd.grad`.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from facegan.config import TrainConfig
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


def require_gpu_for_sync(config: TrainConfig, device: torch.device) -> None:
    """
    Raises:
        SettingsError: several processes on CPUs ask for a synchronised batch norm; torch has it for GPUs only.
    """
    if config.sync_batchnorm and asked_size() > 1 and device.type != "cuda":
        raise SettingsError(
            f"train.sync_batchnorm needs CUDA GPUs for several processes, and the device is {device}.\n"
            "Leave it out, train in a single process, or use nets without batch norm."
        )

"""Several processes that train one pair of nets, one per GPU, as torchrun starts them.

    torchrun --nproc-per-node N -m -- facegan train …

Without the ``--``, torchrun takes ``--run`` for one of its options. Each process computes its share of a batch,
and one flat all-reduce per net and step sums the gradients: PyTorch's DistributedDataParallel does not support the
`autograd.grad` of the gradient penalty.
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

from facegan.errors import Interrupted, SettingsError

_TIMEOUT = timedelta(hours=2)  # while rank 0 saves, samples or evaluates, the others wait


@dataclass(frozen=True)
class World:
    """All processes of a training, seen from one of them."""

    rank: int = 0
    size: int = 1
    cpu_group: Any = None  # for messages between processes, on CPUs; None in a single process

    @property
    def is_main(self) -> bool:
        """One process writes the log, pictures and checkpoints."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place. On a GPU it is queued like a kernel."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; all processes get the same answer."""
        if self.size == 1:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=self.cpu_group)
        return bool(flags.item())

    def of_main(self, number: int) -> int:
        """The main process's number, in all processes."""
        if self.size == 1:
            return number
        shared = torch.tensor(number)
        dist.broadcast(shared, 0, group=self.cpu_group)
        return int(shared.item())

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier(group=self.cpu_group)

    def share(self, batch: int) -> int:
        """Images of a batch that each process computes. Raises SettingsError if the shares are not equal."""
        down, rest = divmod(batch, self.size)
        if rest:
            choices = " or ".join(str(share * self.size) for share in (down, down + 1) if share)
            raise SettingsError(f"--batch {batch} cannot be shared evenly by {self.size} processes. Choose {choices}.")
        return down


SINGLE = World()


def world_size() -> int:
    """How many processes torchrun started, by its environment variable; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """The same as `World.is_main`, before the processes are connected."""
    return os.environ.get("RANK", "0") == "0" or world_size() == 1


def local_device(device: str) -> str:
    """Under torchrun, ``auto`` and ``cuda`` mean this process's own GPU."""
    rank = os.environ.get("LOCAL_RANK")
    own = world_size() > 1 and rank is not None and device in ("auto", "cuda") and torch.cuda.is_available()
    return f"cuda:{rank}" if own else device


@contextmanager
def init_distributed(device: torch.device) -> Iterator[World]:
    """Connects the processes that torchrun started: NCCL between GPUs, gloo between CPUs.

    They stay connected until they end, so that a second training in the same processes can use the connection.
    """
    if world_size() == 1:
        yield SINGLE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
        atexit.register(dist.destroy_process_group)
    cpu_group = dist.new_group(backend="gloo", timeout=_TIMEOUT)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), cpu_group)
    except BaseException as error:
        if isinstance(error, Interrupted):
            dist.destroy_process_group(cpu_group)
        else:
            # Other processes may wait for this one in an all-reduce, and destroying NCCL's group would wait for them.
            # This process ends at once instead, and torchrun ends the others.
            atexit.unregister(dist.destroy_process_group)
        raise
    dist.destroy_process_group(cpu_group)

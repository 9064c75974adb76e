"""Batches in an exact, endless, resumable order, from images decoded by threads and kept where they fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist

from facegan.console import Console
from facegan.errors import DatasetError, SettingsError
from facegan.machine import usable_cpus
from facegan.stream.cache import Images
from facegan.stream.choice import open_supply, processes_here
from facegan.stream.order import Order, whole_number
from facegan.stream.room import BOUND_VARIABLE

_AHEAD = 4  # batches in work beside the one that is asked for


class Batches:
    """Endless batches of uint8 NCHW tensors (channels last in memory) on a device.

    The sequence of samples is one exact permutation an epoch, concatenated without end; global batch b is its items
    b·B … (b+1)·B − 1, of which rank r of W gets the r-th slice. Threads, caches and timing change nothing of it. Of a
    remote dataset that is larger than the bound of fetched shards, an epoch permutes blocks of shards, and then each
    block's faces. Where torch.distributed joins the ranks, all of them have to make this: they agree on the blocks.

    Args:
        batch_size: B, of all ranks together; it may be larger than the dataset.
        cache: ``gpu``, ``ram``, ``disk`` (decoded once, kept as uint8), ``off`` (decoded each time), or ``auto``: by
            size and what is free.
        workers: threads that decode; as many as there are CPUs, if None.

    Attributes:
        cache: what ``cache`` came to.

    Raises:
        SettingsError: a batch that ranks can't share evenly; a cache that is unknown or can't be on the device.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        seed: int,
        device: torch.device,
        *,
        cache: str = "auto",
        rank: int = 0,
        world_size: int = 1,
        workers: int | None = None,
        console: Console | None = None,
    ) -> None:
        if batch_size < 1 or not 0 <= rank < world_size:
            raise SettingsError(f"A batch of {batch_size} for rank {rank} of {world_size}: neither can be.")
        if batch_size % world_size:
            raise SettingsError(f"A batch of {batch_size} can't be shared evenly by {world_size} processes.")
        self._images, self._batch_size, self._seed, self._device = images, batch_size, seed, device
        share = batch_size // world_size
        self._slice = slice(rank * share, (rank + 1) * share)
        self._position = 0
        self._workers = workers or usable_cpus()
        console = console or Console(quiet=True)
        here = processes_here(world_size)
        self.cache, self._supply = open_supply(images, cache, device, here, self._workers, console)
        self._order = Order(images.counts, seed, _agreed_block(images, device, world_size))
        self._near: tuple[int, int] | None = None  # the block whose shards, and the next one's, are being fetched
        self._coming: dict[int, Callable[[], torch.Tensor]] = {}

    def __iter__(self) -> Iterator[torch.Tensor]:
        return self

    def __next__(self) -> torch.Tensor:
        position = self._position
        self._fetch_near(position)
        for ahead in range(_AHEAD + 1):
            self._begin(position + ahead * self._batch_size)
        batch = self._coming.pop(position)()
        self._position += self._batch_size
        self._supply.between()
        return batch.permute(0, 3, 1, 2)

    @property
    def faces(self) -> torch.Tensor | None:
        """All faces of the dataset, uint8 (F, H, W, C) on the device, once they lie there; else None."""
        return self._supply.faces

    def numbers(self) -> torch.Tensor:
        """The next batch as numbers into `faces`, int64 (N,) on the host: whoever gathers it himself calls this in the
        place of `next`."""
        self._coming.clear()
        numbers = torch.from_numpy(self._order.at(self._position, self._batch_size)[self._slice])
        self._position += self._batch_size
        return numbers.pin_memory() if self._device.type == "cuda" else numbers

    def _fetch_near(self, position: int) -> None:
        block = None if self._supply.whole else self._order.block_at(position)
        if block != self._near:
            self._images.ahead([] if block is None else self._order.shards_near(position))
            self._near = block

    def _begin(self, position: int) -> None:
        if position not in self._coming:
            indices = self._order.at(position, self._batch_size)[self._slice]
            self._coming[position] = self._supply.begin(indices)

    def state_dict(self) -> dict[str, Any]:
        """Where the sequence stands: the position, how it is ordered, and which dataset it is of."""
        return {
            "position": self._position,
            "block_shards": self._order.block_shards,
            "fingerprint": self._images.fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to where another iterator over the same dataset stood, and takes over its order.

        Raises:
            DatasetError: it was another dataset.
            SettingsError: fetched shards had more room then.
        """
        if state["fingerprint"] != self._images.fingerprint:
            raise DatasetError("This is not the dataset that the position belongs to: its faces differ.")
        block, here = whole_number(state, "block_shards", 0), self._images.block_shards
        if here and not 0 < block <= here:
            more = f"{block} shards" if block else "all shards"
            raise SettingsError(
                f"The position belongs to an order that needs {more} at a time, and the cache for fetched shards holds "
                f"two blocks of {here}.\nSet {BOUND_VARIABLE} to what it was when the run began, or to more."
            )
        self._position = whole_number(state, "position")
        self._order = Order(self._images.counts, self._seed, block)
        self._near = None
        self._coming.clear()

    def describe(self) -> dict[str, Any]:
        """What a record of the run tells of it; nothing of it changes a batch."""
        return {"cache": self.cache, "workers": self._workers, "skipped": self._images.skipped}

    def close(self) -> None:
        self._supply.close()


def _agreed_block(images: Images, device: torch.device, world_size: int) -> int:
    """What all ranks have room for: it follows from each machine's bound of fetched shards, and makes the order."""
    block = images.block_shards
    if world_size == 1 or not images.remote or not (dist.is_available() and dist.is_initialized()):
        return block
    unbounded = torch.iinfo(torch.int64).max
    said = torch.tensor([block or unbounded], device=device if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(said, dist.ReduceOp.MIN)
    smallest = int(said.item())
    return 0 if smallest == unbounded else smallest

"""Batches in an exact, endless, resumable order, decoded by threads and cached where they fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from facegan.console import Console
from facegan.errors import DatasetError, SettingsError, one_of, suggest
from facegan.stream.cache import CACHES, Images, local_processes, open_provider
from facegan.stream.sampler import BalancedSampler, Sampler, saved_position
from facegan.system import usable_cpus

_AHEAD = 4  # batches in work besides the requested one


@dataclass(frozen=True)
class StreamOptions:
    """How faces are read. None of it changes a batch.

    Attributes:
        cache: ``gpu`` or ``ram`` (decoded once, kept as uint8), ``off`` (decoded each time), ``auto``: by size and
            free memory.
        workers: decoding threads; None: one per CPU.
        skip_broken: replace a missing or damaged face by another one, count it and warn, instead of stopping.
        verify: compare the SHA-256 of every local shard first. Downloaded shards are always compared.
    """

    cache: str = "auto"
    workers: int | None = None
    skip_broken: bool = False
    verify: bool = False

    def __post_init__(self) -> None:
        if self.cache not in CACHES:
            hint = suggest(self.cache, CACHES)
            raise SettingsError(f"--cache {self.cache} is not available. Choose {one_of(CACHES)}.{hint}")


@dataclass(frozen=True)
class RankSlice:
    """The slice of each global batch that one process takes: rank ``rank`` of ``world_size``."""

    rank: int = 0
    world_size: int = 1

    def of(self, batch_size: int) -> slice:
        """Raises SettingsError if the batch cannot be divided so."""
        if batch_size < 1 or not 0 <= self.rank < self.world_size:
            got = f"{batch_size}, rank {self.rank}, world_size {self.world_size}"
            raise SettingsError(f"A batch must be positive, and 0 <= rank < world_size (got a batch of {got}).")
        if batch_size % self.world_size:
            raise SettingsError(f"A batch of {batch_size} cannot be divided evenly by {self.world_size} processes.")
        share = batch_size // self.world_size
        return slice(self.rank * share, (self.rank + 1) * share)


class Batches:
    """Endless batches of uint8 NCHW tensors (channels last in memory) on a device.

    The sequence of samples is that of a sampler. Global batch b is its items
    b·B … (b+1)·B − 1; rank r of W takes the r-th slice. Threads, caches and timing change nothing of it.

    B, the batch size of all ranks together, may exceed the dataset. ``cache`` is the cache that ``auto`` chose. Raises
    SettingsError if ranks cannot divide a batch evenly, or a cache is unknown or does not fit.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        sampler: Sampler | BalancedSampler,
        device: torch.device,
        ranks: RankSlice,
        options: StreamOptions,
        console: Console,
    ) -> None:
        self._slice = ranks.of(batch_size)
        self._images, self._batch_size, self._device = images, batch_size, device
        self._position = 0
        self._workers = options.workers or usable_cpus()
        processes = local_processes(ranks.world_size)
        self.cache, self._provider = open_provider(images, options.cache, device, processes, self._workers, console)
        self._sampler = sampler
        self._scheduled: dict[int, tuple[np.ndarray, Callable[[], torch.Tensor]]] = {}
        self._last = np.zeros(0, np.int64)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return self

    def __next__(self) -> torch.Tensor:
        position = self._position
        for start in range(position, position + (_AHEAD + 1) * self._batch_size, self._batch_size):
            if start not in self._scheduled:
                indices = self._indices(start)
                self._scheduled[start] = indices, self._provider.schedule(indices)
        self._last, wait = self._scheduled.pop(position)
        batch = wait()
        self._position += self._batch_size
        self._provider.fill_cache_step()
        return batch.permute(0, 3, 1, 2)

    @property
    def indices(self) -> torch.Tensor:
        """The faces of the batch that `next` returned last, int64 (N,) on the host."""
        return self._on_host(self._last)

    @property
    def faces(self) -> torch.Tensor | None:
        """All faces of the dataset, uint8 (F, H, W, C) on the device, once they are there; else None."""
        return self._provider.faces

    def numbers(self) -> torch.Tensor:
        """The next batch as indices into `faces`, int64 (N,) on the host. Call it instead of `next` to gather the batch
        yourself."""
        self._scheduled.clear()
        numbers = self._on_host(self._indices(self._position))
        self._position += self._batch_size
        return numbers

    def _on_host(self, indices: np.ndarray) -> torch.Tensor:
        """With the faces that replace damaged ones, whose attributes are not theirs."""
        numbers = torch.from_numpy(self._images.remap(indices))
        return numbers.pin_memory() if self._device.type == "cuda" else numbers

    def _indices(self, position: int) -> np.ndarray:
        return self._sampler.at(position, self._batch_size)[self._slice]

    def state_dict(self) -> dict[str, Any]:
        """The position in the sequence, and the dataset's fingerprint."""
        return {"position": self._position, "fingerprint": self._images.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where another iterator over the same dataset stopped. Raises DatasetError if it was another one."""
        if state["fingerprint"] != self._images.fingerprint:
            raise DatasetError("This is not the dataset of the saved position: its faces differ.")
        self._position = saved_position(state)
        self._scheduled.clear()

    def describe(self) -> dict[str, Any]:
        """For the record of a run; none of it changes a batch."""
        return {"cache": self.cache, "workers": self._workers, "skipped": self._images.skipped}

    def close(self) -> None:
        self._provider.close()

"""From the numbers of a batch's faces to a tensor on the device: work for threads, begun ahead and waited for later."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch

from facegan.stream.buffers import Buffers
from facegan.stream.cache import Images, MemoryCache

_LEAST = 128  # faces a task: threads that meet more often wait for each other
_BACKGROUND = 512  # faces a task that fills a cache


class Supply(Protocol):
    """Its methods are called by one thread."""

    def begin(self, indices: np.ndarray) -> Callable[[], torch.Tensor]:
        """Begins to make a batch; what is returned waits for it, and gives it as uint8 NHWC on the device."""
        ...

    def between(self) -> None:
        """A batch was taken: a time to go on filling the cache."""
        ...

    @property
    def whole(self) -> bool:
        """The cache has all faces: shards are not needed any more."""
        ...

    @property
    def faces(self) -> torch.Tensor | None:
        """All faces, uint8 (F, H, W, C) on the device, once they lie there."""
        ...

    def close(self) -> None: ...


class HostSupply:
    """From shards, or a cache in this machine's memory."""

    def __init__(
        self, images: Images, cache: MemoryCache | None, device: torch.device, threads: ThreadPoolExecutor, workers: int
    ) -> None:
        self._images, self._cache, self._device = images, cache, device
        self._threads, self._workers = threads, workers
        self._filled_to = -1  # the background's place; it has not begun
        self._buffers: dict[int, Buffers] = {}
        self._closed = False

    def begin(self, indices: np.ndarray) -> Callable[[], torch.Tensor]:
        batch = self._empty(len(indices))
        share = len(indices) if self._cache and self._cache.whole else max(_LEAST, -(-len(indices) // self._workers))
        read = (self._cache or self._images).read
        tasks = _read_by(self._threads, read, indices, batch.numpy(), share)

        def finish() -> torch.Tensor:
            for task in tasks:
                task.result()
            return batch.to(self._device, non_blocking=self._device.type == "cuda")

        return finish

    def _empty(self, count: int) -> torch.Tensor:
        if self._device.type == "cuda":
            # Memory that the driver knows: copied from without waiting, and kept by torch until the copy is done.
            return _empty(self._images, count, pinned=True)
        if count not in self._buffers:
            self._buffers[count] = Buffers(count, self._images.size, self._images.size, self._images.channels)
        return torch.from_numpy(self._buffers[count].take())

    @property
    def whole(self) -> bool:
        return self._cache is not None and self._cache.settled

    faces = None

    def between(self) -> None:
        # Blocks of shards are each here for a while only, and their order is the batches' own.
        if self._cache and self._filled_to < 0 and not self._images.block_shards:
            self._filled_to = 0
            self._threads.submit(self._fill, self._cache)

    def _fill(self, cache: MemoryCache) -> None:
        """A piece, then itself again: tasks of batches come in between."""
        begin, end = self._filled_to, min(self._filled_to + _BACKGROUND, len(self._images))
        cache.fill(np.arange(begin, end))
        self._filled_to = end
        if end < len(self._images) and not self._closed:
            self._threads.submit(self._fill, cache)

    def close(self) -> None:
        self._closed = True
        _shut(self._threads, self._images)
        if self._cache:
            self._cache.close()


class DeviceSupply:
    """From a cache in the GPU's memory. Threads only decode: whatever the GPU has to do, the calling thread asks of it,
    so that it may capture a CUDA graph between two batches."""

    def __init__(self, images: Images, device: torch.device, threads: ThreadPoolExecutor, workers: int) -> None:
        self._images, self._device, self._threads, self._workers = images, device, threads, workers
        self._pinned = device.type == "cuda"
        self._faces = _empty(images, len(images), device=device)
        self._filled = np.zeros(len(images), bool)
        self.whole = False
        self._background: Callable[[], None] | None = None
        self._background_tasks: list[Future[None]] = []

    def begin(self, indices: np.ndarray) -> Callable[[], torch.Tensor]:
        store, _ = self._decode(np.unique(indices[~self._filled[indices]]))

        def finish() -> torch.Tensor:
            store()
            return self._faces.index_select(0, self._numbers(indices))

        return finish

    @property
    def faces(self) -> torch.Tensor | None:
        return self._faces if self.whole else None

    def _decode(self, missing: np.ndarray) -> tuple[Callable[[], None], list[Future[None]]]:
        if not len(missing):
            return lambda: None, []
        decoded = _empty(self._images, len(missing), self._pinned)
        share = max(_LEAST, -(-len(missing) // self._workers))
        tasks = _read_by(self._threads, self._images.read, missing, decoded.numpy(), share)

        def store() -> None:
            for task in tasks:
                task.result()
            self._faces.index_copy_(0, self._numbers(missing), decoded.to(self._device, non_blocking=True))
            self._filled[missing] = True
            if not self.whole and self._filled.all():
                self.whole = True
                self._images.rest()

        return store, tasks

    def _numbers(self, indices: np.ndarray) -> torch.Tensor:
        numbers = torch.from_numpy(indices)
        return numbers.pin_memory().to(self._device, non_blocking=True) if self._pinned else numbers

    def between(self) -> None:
        if self.whole or self._images.block_shards or not all(task.done() for task in self._background_tasks):
            return
        if self._background:
            self._background()
        missing = np.flatnonzero(~self._filled)[:_BACKGROUND]
        self._background, self._background_tasks = self._decode(missing)

    def close(self) -> None:
        _shut(self._threads, self._images)


def _shut(threads: ThreadPoolExecutor, images: Images) -> None:
    # Who waits for a shard from afar is let go when the dataset is closed.
    threads.shutdown(wait=not images.remote, cancel_futures=True)


def _read_by(
    threads: ThreadPoolExecutor,
    read: Callable[[np.ndarray, np.ndarray], None],
    indices: np.ndarray,
    out: np.ndarray,
    share: int,
) -> list[Future[None]]:
    return [
        threads.submit(read, indices[at : at + share], out[at : at + share]) for at in range(0, len(indices), share)
    ]


def _empty(images: Images, count: int, pinned: bool = False, device: torch.device | None = None) -> torch.Tensor:
    shape = (count, images.size, images.size, images.channels)
    return torch.empty(shape, dtype=torch.uint8, pin_memory=pinned, device=device)

"""Batches in an exact, endless, resumable order, from images decoded by threads and kept where they fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch

from facegan.errors import DatasetError, SettingsError, one_of, suggest
from facegan.machine import memory_bytes, usable_cpus
from facegan.stream.order import sample_at

CACHES = ("auto", "gpu", "ram", "off")
_AHEAD = 4  # batches decoded ahead where nothing is cached
_BLOCK = 256  # images a decoding task


class Images(Protocol):
    """Decoded images by number."""

    size: int
    channels: int
    fingerprint: str

    def __len__(self) -> int: ...

    def pixels(self, index: int) -> np.ndarray: ...


class Batches:
    """Endless batches of uint8 NCHW tensors (channels last in memory) on a device.

    The sequence of samples is one exact permutation an epoch, concatenated without end; global batch b is its items
    b·B … (b+1)·B − 1, of which rank r of W gets the r-th slice. Threads, caches and timing change nothing of it.

    Args:
        batch_size: B, of all ranks together.
        cache: ``gpu``, ``ram`` (decoded once, kept as uint8), ``off`` (decoded each time), or ``auto``: by size.

    Raises:
        SettingsError: a batch larger than the dataset, or one that ranks can't share evenly; an unknown cache.
    """

    def __init__(
        self, images: Images, batch_size: int, seed: int, device: torch.device, cache: str, rank: int, world_size: int
    ) -> None:
        if batch_size < 1 or not 0 <= rank < world_size:
            raise SettingsError(f"A batch of {batch_size} for rank {rank} of {world_size}: neither can be.")
        if batch_size > len(images):
            raise SettingsError(
                f"A batch of {batch_size} is larger than the dataset ({len(images)} faces): "
                f"choose --batch {len(images)} or less."
            )
        if batch_size % world_size:
            raise SettingsError(f"A batch of {batch_size} can't be shared evenly by {world_size} processes.")
        if cache not in CACHES:
            raise SettingsError(f"There is no cache '{cache}': choose {one_of(CACHES)}.{suggest(cache, CACHES)}")
        self._images, self._batch_size, self._seed, self._device = images, batch_size, seed, device
        share = batch_size // world_size
        self._slice = slice(rank * share, (rank + 1) * share)
        self._position = 0
        self._threads = ThreadPoolExecutor(usable_cpus(), "decode")
        self._ahead: dict[int, list[Future[np.ndarray]]] = {}
        self.cache = choose_cache(images, device) if cache == "auto" else cache
        self._get = self._open_cache()

    def __iter__(self) -> Iterator[torch.Tensor]:
        return self

    def __next__(self) -> torch.Tensor:
        batch = self._get(self._position)
        self._position += self._batch_size
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Where the sequence stands: one integer, and which dataset it is."""
        return {"position": self._position, "fingerprint": self._images.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to where another iterator over the same dataset stood.

        Raises:
            DatasetError: it was another dataset.
        """
        if state["fingerprint"] != self._images.fingerprint:
            raise DatasetError("This is not the dataset that the position belongs to: its faces differ.")
        self._position = int(state["position"])

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _indices(self, position: int) -> np.ndarray:
        positions = np.arange(position, position + self._batch_size, dtype=np.int64)[self._slice]
        return sample_at(positions, len(self._images), self._seed)

    def _open_cache(self) -> Callable[[int], torch.Tensor]:
        if self.cache == "off":
            return self._decode_ahead
        everything = torch.from_numpy(self._decode_all())
        if self.cache == "gpu":
            everything = everything.to(self._device)
            return lambda position: _as_nchw(everything[torch.from_numpy(self._indices(position)).to(self._device)])
        return lambda position: self._to_device(everything[torch.from_numpy(self._indices(position))])

    def _decode_all(self) -> np.ndarray:
        count, size = len(self._images), self._images.size
        everything = np.empty((count, size, size, self._images.channels), np.uint8)

        def decode(start: int) -> None:
            for i in range(start, min(start + _BLOCK, count)):
                everything[i] = self._images.pixels(i)

        for _ in self._threads.map(decode, range(0, count, _BLOCK)):
            pass
        return everything

    def _decode_ahead(self, position: int) -> torch.Tensor:
        wanted = [position + i * self._batch_size for i in range(_AHEAD)]
        for at in wanted:
            if at not in self._ahead:
                self._ahead[at] = [self._threads.submit(self._images.pixels, int(i)) for i in self._indices(at)]
        self._ahead = {at: self._ahead[at] for at in wanted}
        return self._to_device(torch.from_numpy(np.stack([image.result() for image in self._ahead.pop(position)])))

    def _to_device(self, nhwc: torch.Tensor) -> torch.Tensor:
        if self._device.type == "cuda":
            nhwc = nhwc.pin_memory().to(self._device, non_blocking=True)
        return _as_nchw(nhwc if self._device.type == "cuda" else nhwc.to(self._device))


def _as_nchw(nhwc: torch.Tensor) -> torch.Tensor:
    return nhwc.permute(0, 3, 1, 2)


def choose_cache(images: Images, device: torch.device) -> str:
    """``gpu`` where the decoded images fill at most a quarter of the free GPU memory, ``ram`` where half of the RAM."""
    needed = len(images) * images.size**2 * images.channels
    if device.type == "cuda" and needed <= torch.cuda.mem_get_info(device)[0] / 4:
        return "gpu"
    return "ram" if needed <= memory_bytes("MemAvailable") / 2 else "off"

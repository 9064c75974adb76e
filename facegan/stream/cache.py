"""From a batch's sample numbers to a tensor on the device: threads decode ahead, and decoded faces stay in memory or on
the GPU if they fit."""

from __future__ import annotations

import math
import mmap
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch

from facegan.console import Console
from facegan.errors import SettingsError
from facegan.files import human_bytes
from facegan.system import available_bytes

CACHES = ("auto", "gpu", "ram", "off")
_PARTS = {"gpu": 4, "ram": 2}  # `auto` uses at most one part in so many of the free memory
_LEAST = 128  # faces per task: threads that synchronise more often wait for each other
_BACKGROUND = 512  # faces per task that fills a cache
_WHERE = {"gpu": "on the GPU", "ram": "in memory"}


class Images(Protocol):
    """Decoded images by number, all of one size: what caches need of `FaceShards`."""

    size: int
    channels: int
    fingerprint: str

    @property
    def skipped(self) -> int: ...

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray, out: np.ndarray, rows: np.ndarray | None = None) -> None: ...

    def remap(self, indices: np.ndarray) -> np.ndarray: ...

    def release(self) -> None: ...


def open_provider(
    images: Images, cache: str, device: torch.device, processes: int, workers: int, console: Console
) -> tuple[str, HostProvider | DeviceProvider]:
    """Choose a cache, report it, and return its name and the provider. Raises SettingsError as `choose_cache` does."""
    failed = ""
    for name, why in choose_cache(images, cache, device, processes):
        threads = ThreadPoolExecutor(workers, "decode")
        try:
            if name == "gpu":
                provider = DeviceProvider(images, device, threads, workers)
            else:
                memory = MemoryCache(images) if name == "ram" else None
                provider = HostProvider(images, memory, device, threads, workers)
        except (MemoryError, torch.OutOfMemoryError) as error:  # there was enough a moment ago
            threads.shutdown()
            failed = f"{name} failed: {(str(error).splitlines() or [type(error).__name__])[0].rstrip('.')}"
            if cache == "auto":
                continue
            raise SettingsError(f"--cache {failed}.\nChoose another --cache, or auto, which takes what fits.") from None
        what = f"are kept {_WHERE[name]}, decoded once" if name in _WHERE else "are decoded each time"
        console.note(f"Faces {what}: {failed or why}. (cache {name}, {workers} threads)")
        return name, provider
    raise AssertionError("cache 'off' always works")


def choose_cache(images: Images, cache: str, device: torch.device, processes: int) -> list[tuple[str, str]]:
    """Caches to try in order, each with its reason; each of ``processes`` on this machine keeps its own copy.

    Raises SettingsError if the cache is not possible on this device, or larger than the free memory.
    """
    if cache == "gpu" and device.type != "cuda":
        raise SettingsError(f"--cache gpu needs a GPU, and the device is {device}. Choose auto, ram or off.")
    size, options = len(images) * images.size**2 * images.channels, []
    all_copies = f"{processes} times {human_bytes(size)}" if processes > 1 else human_bytes(size)
    for name in ("gpu", "ram"):
        if cache not in ("auto", name) or (name == "gpu" and device.type != "cuda"):
            continue
        free = torch.cuda.mem_get_info(device)[0] if name == "gpu" else available_bytes()
        copies, needed = (1, human_bytes(size)) if name == "gpu" else (processes, all_copies)
        if size * copies * (_PARTS[name] if cache == "auto" else 1) <= free:
            options.append((name, f"{needed} of {human_bytes(free)} free"))
        elif cache == name:
            raise SettingsError(
                f"--cache {name} needs {needed} {_WHERE[name]}; {human_bytes(free)} are free.\n"
                "Choose another --cache, or auto, which takes what fits."
            )
    if cache in ("auto", "off"):
        reason = "as --cache off says" if cache == "off" else f"{all_copies} are too much for the free memory"
        options.append(("off", reason))
    return options


def local_processes(world_size: int) -> int:
    """How many of the training's processes run on this machine, as torchrun says."""
    local = os.environ.get("LOCAL_WORLD_SIZE", "")
    return min(int(local), world_size) if local.isdigit() and int(local) else world_size


class HostProvider:
    """Reads from shards, or from a cache in this machine's memory."""

    faces = None

    def __init__(
        self, images: Images, cache: MemoryCache | None, device: torch.device, threads: ThreadPoolExecutor, workers: int
    ) -> None:
        self._images, self._cache, self._device = images, cache, device
        self._threads, self._workers = threads, workers
        self._filled_to = -1  # the background has not started
        self._buffers: dict[int, Buffers] = {}
        self._closed = False

    def schedule(self, indices: np.ndarray) -> Callable[[], torch.Tensor]:
        batch = self._empty(len(indices))
        complete = self._cache is not None and self._cache.complete
        share = len(indices) if complete else max(_LEAST, -(-len(indices) // self._workers))
        tasks = _read_by(self._threads, (self._cache or self._images).read, indices, batch.numpy(), share)

        def finish() -> torch.Tensor:
            for task in tasks:
                task.result()
            return batch.to(self._device, non_blocking=self._device.type == "cuda")

        return finish

    def _empty(self, count: int) -> torch.Tensor:
        if self._device.type == "cuda":
            # Pinned memory: copied without waiting, and kept by torch until the copy is done.
            return _empty(self._images, count, pinned=True)
        if count not in self._buffers:
            self._buffers[count] = Buffers(count, self._images.size, self._images.size, self._images.channels)
        return torch.from_numpy(self._buffers[count].take())

    def fill_cache_step(self) -> None:
        if self._cache and self._filled_to < 0:
            self._filled_to = 0
            self._threads.submit(self._fill, self._cache)

    def _fill(self, cache: MemoryCache) -> None:
        """One piece, then submit the next: tasks of batches run in between."""
        begin, end = self._filled_to, min(self._filled_to + _BACKGROUND, len(self._images))
        cache.fill(np.arange(begin, end))
        self._filled_to = end
        if end < len(self._images) and not self._closed:
            self._threads.submit(self._fill, cache)

    def close(self) -> None:
        self._closed = True
        self._threads.shutdown(cancel_futures=True)


class DeviceProvider:
    """Reads from a cache in the GPU's memory. Threads only decode: the calling thread issues all GPU work, so that it
    may capture a CUDA graph between two batches."""

    def __init__(self, images: Images, device: torch.device, threads: ThreadPoolExecutor, workers: int) -> None:
        self._images, self._device, self._threads, self._workers = images, device, threads, workers
        self._pinned = device.type == "cuda"
        self._faces = _empty(images, len(images), device=device)
        self._filled = np.zeros(len(images), bool)
        self._complete = False
        self._background: Callable[[], None] | None = None
        self._background_tasks: list[Future[None]] = []

    @property
    def faces(self) -> torch.Tensor | None:
        return self._faces if self._complete else None

    def schedule(self, indices: np.ndarray) -> Callable[[], torch.Tensor]:
        store, _ = self._decode(np.unique(indices[~self._filled[indices]]))

        def finish() -> torch.Tensor:
            store()
            return self._faces.index_select(0, self._to_device(indices))

        return finish

    def _decode(self, missing: np.ndarray) -> tuple[Callable[[], None], list[Future[None]]]:
        if not len(missing):
            return lambda: None, []
        decoded = _empty(self._images, len(missing), self._pinned)
        share = max(_LEAST, -(-len(missing) // self._workers))
        tasks = _read_by(self._threads, self._images.read, missing, decoded.numpy(), share)

        def store() -> None:
            for task in tasks:
                task.result()
            self._faces.index_copy_(0, self._to_device(missing), decoded.to(self._device, non_blocking=True))
            self._filled[missing] = True
            if not self._complete and self._filled.all():
                self._complete = True
                self._images.release()

        return store, tasks

    def _to_device(self, indices: np.ndarray) -> torch.Tensor:
        numbers = torch.from_numpy(indices)
        return numbers.pin_memory().to(self._device, non_blocking=True) if self._pinned else numbers

    def fill_cache_step(self) -> None:
        if self._complete or not all(task.done() for task in self._background_tasks):
            return
        if self._background:
            self._background()
        missing = np.flatnonzero(~self._filled)[:_BACKGROUND]
        self._background, self._background_tasks = self._decode(missing)

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)


def _read_by(
    threads: ThreadPoolExecutor, read: Callable[..., None], indices: np.ndarray, out: np.ndarray, share: int
) -> list[Future[None]]:
    parts = (slice(at, at + share) for at in range(0, len(indices), share))
    return [threads.submit(read, indices[part], out[part]) for part in parts]


def _empty(images: Images, count: int, pinned: bool = False, device: torch.device | None = None) -> torch.Tensor:
    shape = (count, images.size, images.size, images.channels)
    return torch.empty(shape, dtype=torch.uint8, pin_memory=pinned, device=device)


class MemoryCache:
    """All faces in memory: uint8 (N, size, size, channels). The system provides pages as they are filled."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self.faces = np.empty((len(images), images.size, images.size, images.channels), np.uint8)
        self.filled = np.zeros(len(images), bool)
        self.complete = False
        self._lock = threading.Lock()

    def read(self, indices: np.ndarray, out: np.ndarray) -> None:
        """As `Images.read`; missing faces are decoded and kept."""
        if not self.complete:
            self.fill(indices)
        np.take(self.faces, indices, axis=0, out=out, mode="clip")  # any other mode buffers ``out``

    def fill(self, indices: np.ndarray) -> None:
        missing = indices[~self.filled[indices]]
        if not len(missing):
            return
        self._images.read(missing, self.faces, missing)
        with self._lock:
            self.filled[missing] = True
            completed = not self.complete and bool(self.filled.all())
            self.complete |= completed
        if completed:
            self._images.release()


class Buffers:
    """uint8 arrays of one shape whose memory is reused: a new allocation per batch fragments the heap."""

    def __init__(self, *shape: int) -> None:
        self._shape = shape
        self._free: list[mmap.mmap] = []

    def take(self) -> np.ndarray:
        """An array with arbitrary content. Its memory returns when the last view or tensor of it is gone."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = mmap.mmap(-1, math.prod(self._shape))
        array = np.ndarray(self._shape, np.uint8, memory)
        weakref.finalize(array, self._free.append, memory).atexit = False
        return array

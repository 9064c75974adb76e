"""Where decoded faces stay: in this machine's memory, on the GPU, or nowhere."""

from __future__ import annotations

import os
import threading
from typing import Protocol

import numpy as np
import torch

from facegan.errors import SettingsError, one_of, suggest
from facegan.files import human_bytes
from facegan.system import available_bytes

CACHES = ("auto", "gpu", "ram", "off")
_GPU_SHARE, _RAM_SHARE = 4, 2  # `auto` uses at most one part in so many of the free memory


class Images(Protocol):
    """Decoded images by number, all of one size."""

    size: int
    channels: int
    fingerprint: str

    @property
    def skipped(self) -> int:
        """Damaged images that others replace."""
        ...

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray, out: np.ndarray, rows: np.ndarray | None = None) -> None:
        """Image ``indices[k]`` → ``out[rows[k]]``; without ``rows``, ``out[k]``."""
        ...

    def release(self) -> None:
        """Unmap the shards: they are not needed for now."""
        ...


class MemoryCache:
    """All faces in memory: uint8 (N, size, size, channels). The system provides pages as they are filled."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self.faces = np.empty((len(images), images.size, images.size, images.channels), np.uint8)
        self.filled = np.zeros(len(images), bool)
        self.complete = False
        self._left = len(images)
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
            self._left -= int((~self.filled[np.unique(missing)]).sum())  # another thread may have filled some
            self.filled[missing] = True
            completed = self._left == 0 and not self.complete
            self.complete = self._left == 0
        if completed:
            self._images.release()


def check_cache(cache: str) -> None:
    """
    Raises:
        SettingsError: unknown name.
    """
    if cache not in CACHES:
        raise SettingsError(f"--cache {cache} is not available. Choose {one_of(CACHES)}.{suggest(cache, CACHES)}")


def choose_cache(images: Images, cache: str, device: torch.device, processes: int) -> list[tuple[str, str]]:
    """Caches to try in order, each with its reason.

    Args:
        processes: how many processes on this machine keep the faces, each its own copy.

    Raises:
        SettingsError: unknown cache, not possible on this device, or not enough free memory.
    """
    check_cache(cache)
    if cache != "auto":
        _require_fit(images, cache, device, processes)
        return [(cache, f"as --cache {cache} says")]
    needed = decoded_bytes(images)
    size, options = human_bytes(needed), []
    if device.type == "cuda" and needed * _GPU_SHARE <= (free := _free_on_gpu(device)):
        options.append(("gpu", f"{size} of {human_bytes(free)} free there"))
    free = available_bytes()
    if needed * processes * _RAM_SHARE <= free:
        options.append(("ram", f"{_times(processes)}{size} of {human_bytes(free)} free"))
    return [*options, ("off", f"{_times(processes)}{size} are too much for the free memory")]


def decoded_bytes(images: Images) -> int:
    return len(images) * images.size**2 * images.channels


def local_processes(world_size: int) -> int:
    """How many of the training's processes run on this machine, as torchrun says."""
    local = os.environ.get("LOCAL_WORLD_SIZE", "")
    return min(int(local), world_size) if local.isdigit() and int(local) else world_size


def _require_fit(images: Images, cache: str, device: torch.device, processes: int) -> None:
    needed = decoded_bytes(images)
    if cache == "gpu" and device.type != "cuda":
        raise SettingsError(f"--cache gpu needs a GPU, and the device is {device}. Choose auto, ram or off.")
    if cache == "gpu" and needed > (free := _free_on_gpu(device)):
        raise SettingsError(
            f"--cache gpu needs {human_bytes(needed)} of GPU memory; {human_bytes(free)} are free.\n"
            "Choose ram, off, or auto, which takes what fits."
        )
    if cache == "ram" and needed * processes > (free := available_bytes()):
        raise SettingsError(
            f"--cache ram needs {_times(processes)}{human_bytes(needed)} of memory; {human_bytes(free)} are free.\n"
            "Choose off, or auto, which takes what fits."
        )


def _times(processes: int) -> str:
    return f"{processes} times " if processes > 1 else ""


def _free_on_gpu(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0]

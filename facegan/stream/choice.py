"""Which cache: by the size of the decoded faces, and what is free."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from facegan.console import Console
from facegan.errors import DiskError, FaceganError, SettingsError, one_of, suggest
from facegan.files import Busy, human_bytes
from facegan.machine import available_bytes
from facegan.stream.cache import Images, MemoryCache, decoded_bytes
from facegan.stream.file_cache import FileCache, cache_file
from facegan.stream.room import cache_bound
from facegan.stream.supply import DeviceSupply, HostSupply, Supply

CACHES = ("auto", "gpu", "ram", "disk", "off")
_GPU_SHARE, _RAM_SHARE, _DISK_SHARE = 4, 2, 2  # `auto` takes at most one part in so many of what is free

_PLACES = {"gpu": "on the GPU", "ram": "in memory", "disk": "in a file of the user cache"}

Offer = tuple[str, str]  # a cache, and why it: the end of a sentence


def check_cache(cache: str) -> None:
    """
    Raises:
        SettingsError: there is none of that name.
    """
    if cache not in CACHES:
        raise SettingsError(f"--cache {cache} is not offered: choose {one_of(CACHES)}.{suggest(cache, CACHES)}")


def choose_cache(images: Images, cache: str, device: torch.device, processes: int) -> list[Offer]:
    """What ``cache`` comes to: the first of these that works out.

    Args:
        processes: how many keep the faces on this machine, each for itself.

    Raises:
        SettingsError: there is no such cache, or none on this device, or what it takes is not free.
    """
    check_cache(cache)
    if cache != "auto":
        _refuse(images, cache, device, processes)
        return [(cache, f"as --cache {cache} says")]
    needed = decoded_bytes(images)
    size, offers = human_bytes(needed), []
    if device.type == "cuda" and needed * _GPU_SHARE <= (free := _free_on_gpu(device)):
        offers.append(("gpu", f"{size} of the {human_bytes(free)} that are free there"))
    free = available_bytes()
    if needed * processes * _RAM_SHARE <= free:
        offers.append(("ram", f"{_times(processes)}{size} of the {human_bytes(free)} that are free"))
    if images.format == "png" and not images.remote:
        why = f"{size} are too much for memory, and PNG shards are read as fast as a file of decoded faces"
        return [*offers, ("off", why)]
    file = cache_file(images)
    if file.exists() or (needed * _DISK_SHARE <= _free_on_disk(file) and needed <= cache_bound()):
        offers.append(("disk", f"{size} are too much for memory"))
    return [*offers, ("off", f"{size} are too much for memory and for the user cache")]


def _refuse(images: Images, cache: str, device: torch.device, processes: int) -> None:
    needed = decoded_bytes(images)
    if cache == "gpu" and device.type != "cuda":
        raise SettingsError(f"--cache gpu keeps faces on a GPU, and the device is {device}: choose auto, ram or disk.")
    if cache == "gpu" and needed > (free := _free_on_gpu(device)):
        raise SettingsError(
            f"--cache gpu needs {human_bytes(needed)} of GPU memory, and {human_bytes(free)} are free there.\n"
            "Choose ram, disk, off, or auto, which takes what fits."
        )
    if cache == "ram" and needed * processes > (free := available_bytes()):
        raise SettingsError(
            f"--cache ram needs {_times(processes)}{human_bytes(needed)} of memory, and {human_bytes(free)} are free.\n"
            "Choose disk, off, or auto, which takes what fits."
        )


def _times(processes: int) -> str:
    return f"{processes} times " if processes > 1 else ""


def _free_on_gpu(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0]


def _free_on_disk(file: Path) -> int:
    """Where the file is to lie, or nothing where it can't."""
    folder = file.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free if folder.is_dir() else 0


def processes_here(world_size: int) -> int:
    """Of the training's processes, those on this machine: torchrun tells."""
    told = os.environ.get("LOCAL_WORLD_SIZE", "")
    return min(int(told), world_size) if told.isdigit() and int(told) else world_size


def open_supply(
    images: Images, cache: str, device: torch.device, processes: int, workers: int, console: Console
) -> tuple[str, Supply]:
    """Chooses, opens, and tells of it: the cache's name, and what batches come from.

    Raises:
        SettingsError: as `choose_cache`; a file of decoded faces that is larger than the user cache may be.
        DiskError: there is no room for it.
    """
    refused = ""
    for name, why in choose_cache(images, cache, device, processes):
        threads = ThreadPoolExecutor(workers, "decode")
        try:
            supply, note = _open(name, images, device, threads, workers, console)
        except Busy as error:
            refused = _first_line(error)
            name, supply, note = "off", HostSupply(images, None, device, threads, workers), ""
        except (SettingsError, DiskError, MemoryError, torch.OutOfMemoryError) as error:
            threads.shutdown()
            if cache != "auto":
                raise _told(error, name, images) from None
            refused = _first_line(error)  # there was enough a moment ago
            continue
        what = f"are kept {_PLACES[name]}, decoded once" if name in _PLACES else "are decoded each time"
        console.note(f"Faces {what}: {refused or why}{note}. (cache {name}, {workers} threads)")
        return name, supply
    raise AssertionError("without a cache nothing is refused")


def _open(
    name: str, images: Images, device: torch.device, threads: ThreadPoolExecutor, workers: int, console: Console
) -> tuple[Supply, str]:
    """And what else is to be said of it."""
    if name == "gpu":
        return DeviceSupply(images, device, threads, workers), ""
    if name == "disk":
        kept = FileCache(images, console)
        note = ", as an earlier run left them" if kept.reused else ""
        return HostSupply(images, kept, device, threads, workers), note
    return HostSupply(images, MemoryCache(images) if name == "ram" else None, device, threads, workers), ""


def _told(error: Exception, name: str, images: Images) -> FaceganError:
    if isinstance(error, FaceganError):
        return error
    size = human_bytes(decoded_bytes(images))
    return SettingsError(
        f"--cache {name} needs {size}, and they are not to be had ({_first_line(error)}).\n"
        "Choose another --cache, or auto, which takes what fits."
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")

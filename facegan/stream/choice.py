"""Which cache: by the size of the decoded faces, and what is free."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import torch

from facegan.console import Console
from facegan.errors import SettingsError, one_of, suggest
from facegan.files import Busy, human_bytes, make_folder
from facegan.machine import available_bytes
from facegan.stream.cache import FileCache, Images, MemoryCache, cache_file, decoded_bytes
from facegan.stream.room import cache_bound
from facegan.stream.supply import DeviceSupply, HostSupply, Supply

CACHES = ("auto", "gpu", "ram", "disk", "off")
_GPU_SHARE, _RAM_SHARE, _DISK_SHARE = 4, 2, 2  # at most one part in so many of what is free


_PLACES = {"gpu": "on the GPU", "ram": "in memory", "disk": "in a file of the user cache"}


def check_cache(cache: str) -> None:
    """
    Raises:
        SettingsError: there is none of that name.
    """
    if cache not in CACHES:
        raise SettingsError(f"--cache {cache} is not offered: choose {one_of(CACHES)}.{suggest(cache, CACHES)}")


def choose_cache(images: Images, cache: str, device: torch.device, processes: int) -> tuple[str, str]:
    """What ``cache`` comes to, and why, as the end of a sentence.

    Args:
        processes: how many keep the faces on this machine, each for itself.

    Raises:
        SettingsError: there is no such cache, or none on this device.
    """
    check_cache(cache)
    if cache == "gpu" and device.type != "cuda":
        raise SettingsError(f"--cache gpu keeps faces on a GPU, and the device is {device}: choose auto, ram or disk.")
    if cache != "auto":
        return cache, f"as --cache {cache} says"
    needed = decoded_bytes(images)
    size = human_bytes(needed)
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        if needed * _GPU_SHARE <= free:
            return "gpu", f"{size} of the {human_bytes(free)} that are free there"
    free = available_bytes()
    if needed * processes * _RAM_SHARE <= free:
        times = f"{processes} times " if processes > 1 else ""
        return "ram", f"{times}{size} of the {human_bytes(free)} that are free"
    if images.format == "png" and not images.remote:
        return "off", f"{size} are too much for memory, and PNG shards are read as fast as a file of decoded faces"
    free = shutil.disk_usage(make_folder(cache_file(images).parent)).free
    if cache_file(images).exists() or (needed * _DISK_SHARE <= free and needed <= cache_bound()):
        return "disk", f"{size} are too much for memory"
    return "off", f"{size} are too much for memory and for the user cache"


def open_supply(
    images: Images, cache: str, device: torch.device, processes: int, workers: int, console: Console
) -> tuple[str, Supply]:
    """Chooses, tells of it, and opens: the cache's name, and what batches come from.

    Raises:
        SettingsError: as `choose_cache`; a file of decoded faces that is larger than the user cache may be.
        DiskError: there is no room for it.
    """
    name, why = choose_cache(images, cache, device, processes)
    threads = ThreadPoolExecutor(workers, "decode")
    kept: MemoryCache | None = MemoryCache(images) if name == "ram" else None
    if name == "disk":
        try:
            kept = FileCache(images, console)
            why += ", as an earlier run left them" if kept.reused else ""
        except Busy as error:
            name, why = "off", str(error).splitlines()[0].rstrip(".")
    what = f"are kept {_PLACES[name]}, decoded once" if name in _PLACES else "are decoded each time"
    console.note(f"Faces {what}: {why}. (cache {name}, {workers} threads)")
    if name == "gpu":
        return name, DeviceSupply(images, device, threads, workers)
    return name, HostSupply(images, kept, device, threads, workers)

"""The bounded part of the user cache: what has not been used for longest goes first."""

from __future__ import annotations

import math
import os
import shutil
from contextlib import suppress
from pathlib import Path

from facegan.errors import DiskError, SettingsError
from facegan.files import human_bytes

BOUND_VARIABLE = "FACEGAN_CACHE_GB"
_BOUND_GB = 20.0


def cache_bound() -> int:
    """Bytes that fetched shards may take in the user cache, and decoded faces as many again.

    Raises:
        SettingsError: the environment names no such number.
    """
    told = os.environ.get(BOUND_VARIABLE) or str(_BOUND_GB)
    try:
        gigabytes = float(told)
    except ValueError:
        gigabytes = 0.0
    if not 0 < gigabytes < float("inf"):
        raise SettingsError(f"{BOUND_VARIABLE}={told}: it has to be a number of gigabytes above 0.")
    return int(gigabytes * 1e9)


def gigabytes_for(needed: int) -> str:
    """What to set the bound to, so that so many bytes go in."""
    return f"{math.ceil(needed / 1e7) / 100:g}"


def make_room(folder: Path, suffix: str, needed: int, bound: int) -> None:
    """Deletes the files of ``folder`` that were used longest ago until ``needed`` bytes go in beside the others, by the
    bound and on the disk.

    A file that somebody has mapped may be deleted: it stays readable to them.

    Raises:
        DiskError: the disk itself has less room.
    """
    files = []
    for path in folder.glob(f"*{suffix}"):
        with suppress(FileNotFoundError):  # another process deletes as well
            stat = path.stat()
            files.append((stat.st_mtime_ns, stat.st_size, path))
    total = sum(size for _, size, _ in files) + needed
    for _, size, path in sorted(files):
        if total <= bound and shutil.disk_usage(folder).free >= needed:
            break
        path.unlink(missing_ok=True)
        total -= size
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiskError(
            f"The disk of {folder} has {human_bytes(free)} left, and {human_bytes(needed)} are needed.\n"
            f"Make room, or set XDG_CACHE_HOME to a folder on a larger disk."
        )


def touch(path: Path) -> None:
    """It is used now."""
    with suppress(OSError):
        os.utime(path)

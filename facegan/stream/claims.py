"""What dataset.json says of its shards, doubted: a folder may have been altered, and a server may tell anything."""

from __future__ import annotations

from collections.abc import Sequence

from facegan.errors import DatasetError
from facegan.files import human_bytes
from facegan.machine import available_bytes
from facegan.shards.index import LEAST_MEMBER_BYTES
from facegan.shards.layout import DATASET_FILE, DatasetInfo, ShardEntry
from facegan.stream.places import COLUMNS

_LARGEST_SIZE = 4096  # pixels


def size_of_faces(info: DatasetInfo, where: str) -> int:
    """The side of a face in pixels.

    Raises:
        DatasetError: there is none, or none that can be.
    """
    size = info.settings.get("size")
    if not isinstance(size, int) or not 1 <= size <= _LARGEST_SIZE:
        raise DatasetError(f"{where}: {DATASET_FILE} does not say how large its faces are ({size!r}).")
    return size


def refuse_too_many(entries: Sequence[ShardEntry], where: str) -> None:
    """
    Raises:
        DatasetError: more samples than the shards can hold, or than this machine's memory can index.
    """
    for entry in entries:
        if entry.samples * LEAST_MEMBER_BYTES > entry.bytes:
            raise DatasetError(
                f"{where}: {entry.name} can't hold {entry.samples:,} samples in {entry.bytes:,} bytes, as its "
                f"{DATASET_FILE} says.\nIts facegan prep makes it anew with --force."
            )
    faces = sum(entry.samples for entry in entries)
    needed, free = faces * COLUMNS * 8, available_bytes()
    if needed > free:
        raise DatasetError(
            f"{where}: the index of its {faces:,} faces takes {human_bytes(needed)} of memory, and "
            f"{human_bytes(free)} are free.\nUse a machine with more memory, or a dataset with fewer faces."
        )

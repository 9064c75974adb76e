"""A dataset's files against the checksums in dataset.json: before their data is copied on, and before a training.

Whoever copies data from a dataset compares each file first, once a run: otherwise damage would get right checksums in
the copy. What is read next comes from the page cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from facegan.errors import DamagedFile, DatasetError, DiskError
from facegan.files import make_folder, read_json, sha256_file, user_cache, write_json
from facegan.shards.format import DATASET_FILE, PHOTOS_FILE, DatasetInfo, ShardEntry

Mark = tuple[str, int, int]  # SHA-256, size, time of change in ns


def check_shard(folder: Path, entry: ShardEntry, file: Path | None = None) -> None:
    """Compares a shard's size, then its SHA-256.

    Args:
        file: where its bytes are, if not under its name in ``folder``.

    Raises:
        DatasetError: the shard is missing or altered.
    """
    if error := size_error(folder, entry, file):
        raise error
    if sha256_file(file or folder / entry.name) != entry.sha256:
        raise altered(folder, f"The shard {folder / entry.name}")


def check_photos(folder: Path, info: DatasetInfo) -> None:
    """Compares the SHA-256 of photos.parquet.

    Raises:
        DatasetError: it is missing or altered.
    """
    path = folder / PHOTOS_FILE
    if not path.is_file():
        raise DatasetError(f"{path} is missing. See what else is wrong: facegan verify {folder}")
    if sha256_file(path) != info.photos_sha256:
        raise altered(folder, str(path))


def size_error(folder: Path, entry: ShardEntry, file: Path | None = None) -> DatasetError | None:
    """What is wrong with a shard's file, by its size."""
    path = folder / entry.name
    try:
        found = (file or path).stat().st_size
    except FileNotFoundError:
        return DatasetError(f"The shard {path} is missing. See what else is wrong: facegan verify {folder}")
    if found == entry.bytes:
        return None
    how = "cut short" if found < entry.bytes else "altered"
    return DatasetError(
        f"The shard {path} was {how}: it has {found:,} bytes, {DATASET_FILE} says {entry.bytes:,}.\n"
        f"See what else is wrong: facegan verify {folder}"
    )


def altered(folder: Path, what: str) -> DatasetError:
    return DatasetError(
        f"{what} was altered: its SHA-256 is not that of {DATASET_FILE}.\n"
        f"See what else is wrong: facegan verify {folder}"
    )


def mark_of(folder: Path, entry: ShardEntry) -> Mark | None:
    """Changes with every write to the shard, and with its copy; None if the shard is missing."""
    with suppress(FileNotFoundError):
        stat = (folder / entry.name).stat()
        return entry.sha256, stat.st_size, stat.st_ctime_ns
    return None


def save_verified(folder: Path, marks: Mapping[str, Mark | None]) -> None:
    """Remembers in the user cache which shards agreed with their checksums, and forgets those that did not (None).

    Args:
        marks: by shard, from before it was read.
    """
    path = _verified_path(folder)
    with suppress(DiskError):  # then the next training says that they were not checked
        make_folder(path.parent)
        write_json(path, {**_verified(path), **marks})


def are_verified(folder: Path, entries: Iterable[ShardEntry]) -> bool:
    """Whether no shard changed since it was last compared with its checksum on this machine."""
    marks = _verified(_verified_path(folder))
    return all(marks.get(entry.name) == list(mark_of(folder, entry) or ()) for entry in entries)


def _verified(path: Path) -> dict[str, list]:
    with suppress(OSError, DamagedFile):  # none yet
        found = read_json(path)
        if isinstance(found, dict):
            return found
    return {}


def _verified_path(folder: Path) -> Path:
    name = hashlib.sha256(str(folder.resolve()).encode(errors="surrogateescape")).hexdigest()[:32]
    return user_cache("verified") / f"{name}.json"

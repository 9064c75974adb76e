"""A dataset's files against the checksums in dataset.json.

Code that copies data from a dataset checks each file first: otherwise damage would get valid checksums in the copy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from facegan.errors import DamagedFile, DatasetError, DiskError
from facegan.files import make_folder, read_json, sha256_file, user_cache, write_json
from facegan.shards.format import DATASET_FILE, DETECTIONS_FILE, PHOTOS_FILE, DatasetInfo, ShardEntry

FileStamp = tuple[str, int, int]  # SHA-256 in dataset.json, size, time of change in ns


def check_shard(folder: Path, entry: ShardEntry, file: Path | None = None) -> None:
    """Compare the size and SHA-256 of a shard, or of ``file``. Raises DatasetError if it is missing or altered."""
    if error := size_error(folder, entry, file):
        raise error
    _check_sha256(file or folder / entry.name, entry.sha256, f"The shard {folder / entry.name}", folder)


def check_photos(folder: Path, info: DatasetInfo) -> None:
    """Compare the SHA-256 of photos.parquet. Raises DatasetError if it is missing or altered."""
    _check_table(folder, PHOTOS_FILE, info.photos_sha256)


def check_detections(folder: Path, info: DatasetInfo) -> None:
    """As `check_photos`. Passes if the dataset has no detections."""
    if info.detections_sha256:
        _check_table(folder, DETECTIONS_FILE, info.detections_sha256)


def _check_table(folder: Path, name: str, sha256: str) -> None:
    if not (folder / name).is_file():
        raise DatasetError(f"{folder / name} is missing.\n{see_verify(folder)}")
    _check_sha256(folder / name, sha256, str(folder / name), folder)


def _check_sha256(file: Path, sha256: str, shown: str, folder: Path) -> None:
    if sha256_file(file) != sha256:
        raise DatasetError(f"{shown} was altered: its SHA-256 differs from {DATASET_FILE}.\n{see_verify(folder)}")


def size_error(folder: Path, entry: ShardEntry, file: Path | None = None) -> DatasetError | None:
    """An error if a shard's file is missing or has another size than in dataset.json."""
    path = folder / entry.name
    try:
        found = (file or path).stat().st_size
    except FileNotFoundError:
        return DatasetError(f"The shard {path} is missing.\n{see_verify(folder)}")
    if found == entry.bytes:
        return None
    how = "cut short" if found < entry.bytes else "altered"
    return DatasetError(
        f"The shard {path} was {how}: it has {found:,} bytes, {DATASET_FILE} says {entry.bytes:,}.\n"
        f"{see_verify(folder)}"
    )


def see_verify(folder: Path | str, deep: bool = False) -> str:
    """The last line of errors about a damaged dataset."""
    return f"List all problems with: facegan verify {folder}{' --deep' if deep else ''}"


def file_stamp(folder: Path, entry: ShardEntry) -> FileStamp | None:
    """Changes with every write to the shard and with its copies; None if the shard is missing."""
    with suppress(FileNotFoundError):
        stat = (folder / entry.name).stat()
        return entry.sha256, stat.st_size, stat.st_ctime_ns
    return None


def save_verified(folder: Path, stamps: Mapping[str, FileStamp | None]) -> None:
    """Remember in the user cache each shard's stamp before its checksum was found right; None: it was wrong."""
    path, known = _verified(folder)
    with suppress(DiskError):  # the next training says that the shards were not checked
        make_folder(path.parent)
        write_json(path, {**known, **stamps})


def are_verified(folder: Path, entries: Iterable[ShardEntry]) -> bool:
    """Whether all shards are unchanged since their checksums were last compared on this machine."""
    _, stamps = _verified(folder)
    return all(stamps.get(entry.name) == list(file_stamp(folder, entry) or ()) for entry in entries)


def _verified(folder: Path) -> tuple[Path, dict[str, list]]:
    """The file in the user cache, and the stamps in it by shard."""
    name = hashlib.sha256(str(folder.resolve()).encode(errors="surrogateescape")).hexdigest()[:32]
    path = user_cache("verified") / f"{name}.json"
    with suppress(OSError, DamagedFile):
        if isinstance(found := read_json(path), dict):
            return path, found
    return path, {}

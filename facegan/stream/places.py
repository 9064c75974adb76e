"""Where every image and its JSON lie inside the shards: arrays, kept in the user cache between runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from facegan.console import Console
from facegan.errors import DatasetError, DiskError
from facegan.files import make_folder, read_cached, user_cache, write_cached
from facegan.shards.index import Shard
from facegan.shards.layout import DATASET_FILE, ShardEntry
from facegan.stream.room import make_room

COLUMNS = 4  # where the image begins in its shard, its bytes; where its JSON begins, its bytes (0: it has none)
SUFFIX = ".index"
_KEPT_BYTES = 1 << 30  # of all indexes together


def shard_places(path: Path, entry: ShardEntry) -> np.ndarray:
    """By one pass over the tar's headers: int64 (samples, 4), see `COLUMNS`.

    Raises:
        DatasetError: the shard is missing, damaged, or holds another number of samples than dataset.json says.
    """
    shard = Shard(path)
    try:
        rows = [
            (s.image.offset, s.image.size, *((s.meta.offset, s.meta.size) if s.meta else (0, 0))) for s in shard.samples
        ]
    finally:
        shard.close()
    if len(rows) != entry.samples:
        raise DatasetError(
            f"The shard {path} was altered: it holds {len(rows)} samples, {DATASET_FILE} says {entry.samples}.\n"
            f"See what is wrong: facegan verify {path.parent}"
        )
    return np.array(rows, np.int64).reshape(-1, COLUMNS)


def dataset_places(
    folder: Path, entries: Sequence[ShardEntry], whole: Sequence[int], fingerprint: str, console: Console
) -> tuple[np.ndarray, dict[int, DatasetError]]:
    """The places of all samples of a local dataset; what was found before is not looked for again.

    A shard whose size and time of change are those of the index was not altered since. One that only looks newer is
    gone through anew, and must come to the same places.

    Args:
        whole: numbers of the shards that are there with their right size; the others' places stay zeros.

    Returns:
        int64 (samples, 4), and what is wrong, by the number of the shard.
    """
    ends = np.cumsum([entry.samples for entry in entries])
    marks = shard_marks(folder, entries, whole)
    kept = (
        user_cache("index") / f"{hashlib.sha256(f'{fingerprint} {folder.resolve()}'.encode()).hexdigest()[:32]}{SUFFIX}"
    )
    known_marks, known = _load(kept, entries)
    places, wrong = known.copy(), {}
    new = [number for number in whole if (marks[number] != known_marks[number]).any()]
    if not new:
        return places, wrong
    with console.progress(len(new), "shards indexed") as progress:
        for number in new:
            path = folder / entries[number].name
            inside = slice(int(ends[number]) - entries[number].samples, int(ends[number]))
            try:
                places[inside] = shard_places(path, entries[number])
                if known_marks[number].any() and (places[inside] != known[inside]).any():
                    raise DatasetError(
                        f"The shard {path} was altered: its samples lie elsewhere than when it was indexed.\n"
                        f"See what is wrong: facegan verify {folder}"
                    )
            except DatasetError as error:
                wrong[number] = error
                marks[number], places[inside] = known_marks[number], known[inside]
            progress.advance(1)
    _save(kept, marks, places)
    return places, wrong


def shard_marks(folder: Path, entries: Sequence[ShardEntry], numbers: Iterable[int]) -> np.ndarray:
    """int64 (shards, 2): size and time of change in ns, which stay as long as a shard is not altered.

    Those of other shards than ``numbers``, and of what is not there, are zeros.
    """
    marks = np.zeros((len(entries), 2), np.int64)
    for number in numbers:
        with suppress(FileNotFoundError):
            stat = (folder / entries[number].name).stat()
            marks[number] = stat.st_size, stat.st_mtime_ns
    return marks


def _load(path: Path, entries: Sequence[ShardEntry]) -> tuple[np.ndarray, np.ndarray]:
    """What was kept, by shard and by sample; zeros where there is nothing, or it does not fit the dataset."""
    shards, samples = len(entries), sum(entry.samples for entry in entries)
    numbers = np.frombuffer(read_cached(path) or b"", np.int64)
    if len(numbers) == 2 * shards + COLUMNS * samples:
        marks, places = numbers[: 2 * shards].reshape(-1, 2), numbers[2 * shards :].reshape(-1, COLUMNS)
        if _inside(places, entries):
            return marks, places
    return np.zeros((shards, 2), np.int64), np.zeros((samples, COLUMNS), np.int64)


def _inside(places: np.ndarray, entries: Sequence[ShardEntry]) -> bool:
    lengths = np.repeat([entry.bytes for entry in entries], [entry.samples for entry in entries])
    ends = np.maximum(places[:, 0] + places[:, 1], places[:, 2] + places[:, 3])
    return bool((places >= 0).all() and (places <= lengths[:, None]).all() and (ends <= lengths).all())


def _save(path: Path, marks: np.ndarray, places: np.ndarray) -> None:
    data = marks.tobytes() + places.tobytes()
    with suppress(DiskError):  # then the next run indexes again
        make_room(make_folder(path.parent), SUFFIX, len(data), _KEPT_BYTES)
        write_cached(path, data)

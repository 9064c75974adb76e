"""Where every image and its JSON are inside the shards: arrays, kept in the user cache between runs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

import numpy as np

from facegan.console import Console
from facegan.errors import DatasetError, DiskError
from facegan.files import evict_lru, make_folder, read_cached, user_cache, write_cached
from facegan.shards.checksums import see_verify
from facegan.shards.format import DATASET_FILE, ShardEntry
from facegan.shards.reader import Shard

COLUMNS = 4  # offset and bytes of the image in its shard, offset and bytes of its JSON (0 bytes: it has none)
_CACHE_BYTES = 1 << 30  # of all indexes together
_MOST_MAPS = 4096


def shard_offsets(path: Path, entry: ShardEntry) -> np.ndarray:
    """int64 (samples, 4), see `COLUMNS`, by one pass over the tar's headers.

    Raises DatasetError if the shard is missing, damaged, or has another number of samples than dataset.json says.
    """
    with closing(Shard(path)) as shard:
        rows = [
            (s.image.offset, s.image.size, *((s.meta.offset, s.meta.size) if s.meta else (0, 0))) for s in shard.samples
        ]
    if len(rows) != entry.samples:
        raise DatasetError(
            f"The shard {path} was altered: it holds {len(rows)} samples, {DATASET_FILE} says {entry.samples}.\n"
            f"{see_verify(path.parent)}"
        )
    return np.array(rows, np.int64).reshape(-1, COLUMNS)


def dataset_offsets(
    paths: Sequence[Path], entries: Sequence[ShardEntry], usable: Sequence[int], name: str, console: Console
) -> tuple[np.ndarray, dict[int, DatasetError]]:
    """Offsets of all samples of a dataset. Shards that have not changed since the last run are not read again.

    A shard with the size and modification time of the cached index was not altered. One that only looks newer is read
    again and must give the same offsets.

    Returns int64 (samples, 4), and what is wrong, by shard number.

    Args:
        usable: numbers of the shards that exist with their right size; the others' offsets stay zero.
        name: of the index in the user cache.
    """
    ends = np.cumsum([entry.samples for entry in entries])
    stats = shard_stats(paths, usable)
    cached = user_cache("index") / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.index"
    known_stats, known = _load(cached, entries)
    offsets, wrong = known.copy(), {}
    new = [number for number in usable if (stats[number] != known_stats[number]).any()]
    if not new:
        return offsets, wrong
    with console.progress(len(new), "shards indexed") as progress:
        for number in new:
            inside = slice(int(ends[number]) - entries[number].samples, int(ends[number]))
            try:
                offsets[inside] = shard_offsets(paths[number], entries[number])
                if known_stats[number].any() and (offsets[inside] != known[inside]).any():
                    raise DatasetError(
                        f"The shard {paths[number]} was altered: its samples have moved since it was indexed.\n"
                        f"{see_verify(paths[number].parent)}"
                    )
            except DatasetError as error:
                wrong[number] = error
                stats[number], offsets[inside] = known_stats[number], known[inside]
            progress.advance(1)
    data = stats.tobytes() + offsets.tobytes()
    with suppress(DiskError):  # then the next run indexes again
        evict_lru(make_folder(cached.parent), ".index", len(data), _CACHE_BYTES)
        write_cached(cached, data)
    return offsets, wrong


def shard_stats(paths: Sequence[Path], numbers: Sequence[int]) -> np.ndarray:
    """int64 (shards, 2): size and modification time in ns; zeros for other shards and missing files."""
    stats = np.zeros((len(paths), 2), np.int64)
    for number in numbers:
        with suppress(FileNotFoundError):
            stat = paths[number].stat()
            stats[number] = stat.st_size, stat.st_mtime_ns
    return stats


def _load(path: Path, entries: Sequence[ShardEntry]) -> tuple[np.ndarray, np.ndarray]:
    """The cached index; zeros if it is missing or does not fit the dataset."""
    shards, samples = len(entries), sum(entry.samples for entry in entries)
    numbers = np.frombuffer(read_cached(path) or b"", np.int64)
    if len(numbers) == 2 * shards + COLUMNS * samples:
        stats, offsets = numbers[: 2 * shards].reshape(-1, 2), numbers[2 * shards :].reshape(-1, COLUMNS)
        lengths = np.repeat([entry.bytes for entry in entries], [entry.samples for entry in entries])[:, None]
        inside = (offsets >= 0) & (offsets <= lengths)
        if inside.all() and (offsets[:, 0::2] + offsets[:, 1::2] <= lengths).all():
            return stats, offsets
    return np.zeros((shards, 2), np.int64), np.zeros((samples, COLUMNS), np.int64)


def most_maps() -> int:
    """How many shards may be memory-mapped: each map holds a file descriptor, and other code needs some, too."""
    try:
        import resource  # POSIX only
    except ImportError:
        return 256  # half the limit of the C runtime on Windows
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_MAPS if soft == resource.RLIM_INFINITY else min(_MOST_MAPS, max(2, soft // 2))

"""``--dedup``: new photographs are read and hashed before the first chunk is made, faces are compared at the end."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import queue
import threading
import time

import numpy as np
import pyarrow as pa

from facegan.prep.photo_index import IndexedPhoto, PhotoIndex
from facegan.prep.sources.base import MAX_BYTES, Reader, Source
from facegan.prep.sources.prefetch import prefetching, schedule
from facegan.remote import MOST_REQUESTS
from facegan.shards.duplicates import first_within, kept_among
from facegan.shards.format import SPLITS

_BATCH = 2_000  # photographs
_LAST_SECONDS = 1.0  # that an interrupted search waits for reads in progress


def hash_photos(source: Source, index: PhotoIndex, threads: int, fetch_ahead: int) -> np.ndarray:
    """SHA-256 of every new photograph as [photographs in the index, 32] uint8; zeros where it is not new or unreadable.

    Most of the time is the disk's or a network's.
    """
    # Ctrl-C must not find this thread inside a future's lock, which it would leave locked: these queues are in C.
    todo: queue.SimpleQueue[list[IndexedPhoto] | None] = queue.SimpleQueue()
    checksums: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
    stopped, digests = threading.Event(), np.zeros((len(index), 32), np.uint8)

    def work(reader: Reader) -> None:
        while (photos := todo.get()) is not None:
            schedule(reader, (photo.entry for photo in photos if photo.entry.size <= MAX_BYTES))
            for photo in photos:
                if not stopped.is_set():
                    checksums.put((photo.row, _sha256(photo, reader)))
        with contextlib.suppress(OSError):
            reader.close()

    readers, at_once = [source.reader()], 1
    prefetched = prefetching(readers[0], min(threads * fetch_ahead, MOST_REQUESTS))
    if prefetched is not readers[0]:  # it has threads of its own, which need to know many photographs in advance
        readers, at_once = [prefetched], _BATCH
    else:
        readers += [source.reader() for _ in range(threads - 1)]
    pool = [threading.Thread(target=work, args=(reader,), daemon=True) for reader in readers]
    for thread in pool:
        thread.start()
    try:
        for split in SPLITS:
            photos = index.photos(split, with_left_out=True)
            while batch := list(itertools.islice(photos, _BATCH)):
                for start in range(0, len(batch), at_once):
                    todo.put(batch[start : start + at_once])
                for _ in batch:
                    row, digest = checksums.get()
                    digests[row] = np.frombuffer(digest, np.uint8)
    finally:
        stopped.set()
        for _ in pool:
            todo.put(None)
        end = time.monotonic() + _LAST_SECONDS
        for thread in pool:
            thread.join(max(0.0, end - time.monotonic()))  # one that waits for a silent server ends with the process
    return digests


def _sha256(photo: IndexedPhoto, reader: Reader) -> bytes:
    """Zeros where the photograph cannot be read: its chunk finds out why."""
    if photo.entry.size > MAX_BYTES:
        return bytes(32)
    try:
        return hashlib.sha256(reader.read(photo.entry)).digest()
    except Exception:
        return bytes(32)


# --dedup near: once all faces are measured.


def comparable(detections: pa.Table) -> pa.Table:
    """Of the faces that became samples path, side, sharpness and hash, where that could be measured."""
    pairs = zip(detections["key"].to_pylist(), detections["hash"].to_pylist(), strict=True)
    rows = pa.array([row for row, (key, face_hash) in enumerate(pairs) if key and face_hash], pa.int64())
    return detections.select(["path", "side", "sharpness", "hash"]).take(rows)


def near_duplicates(known: pa.Table, new: pa.Table, bits: int) -> dict[str, str]:
    """Which new photographs are near-duplicates, by path, and of which that is kept.

    Those of the dataset are kept, as far as they are. A new one is compared with them, then with new ones that are kept
    already: the largest comes first, then the sharpest, then the first by path. Both tables are of `comparable`.
    """
    new = new.sort_by([("side", "descending"), ("sharpness", "descending"), ("path", "ascending")])
    hashes, paths = new["hash"].to_numpy(), new["path"]
    of_known = first_within(hashes, known["hash"].to_numpy(), bits)
    others = np.flatnonzero(of_known < 0)
    of_new = others[kept_among(hashes[others], bits)]
    found = {paths[row].as_py(): known["path"][of_known[row]].as_py() for row in np.flatnonzero(of_known >= 0).tolist()}
    changed = np.flatnonzero(of_new != others).tolist()
    return found | {paths[int(others[row])].as_py(): paths[int(of_new[row])].as_py() for row in changed}


def without_samples(rows: pa.Table, detections: pa.Table, duplicates: dict[str, str]) -> tuple[pa.Table, pa.Table]:
    """A chunk's rows and detections, in which these photographs (see `near_duplicates`) have no samples."""
    values = {"outcome": "rejected", "reason": "near_duplicate", "keys": [], "key": ""}

    def changed(table: pa.Table, *names: str) -> pa.Table:
        of = [duplicates.get(path) for path in table["path"].to_pylist()]
        for name in names:
            column, old = table.schema.field(name), table[name].to_pylist()
            new = [a if path is None else values.get(name, path) for a, path in zip(old, of, strict=True)]
            table = table.set_column(table.column_names.index(name), column, pa.array(new, column.type))
        return table

    return changed(rows, "outcome", "reason", "keys", "duplicate_of"), changed(detections, "key")

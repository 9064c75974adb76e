"""``--dedup exact``: every new photograph is read and hashed before the first chunk is made."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import queue
import threading
import time

import numpy as np

from facegan.prep.photo_index import IndexedPhoto, PhotoIndex
from facegan.prep.sources.base import MAX_BYTES, Reader, Source
from facegan.prep.sources.prefetch import prefetching, schedule
from facegan.remote import MOST_REQUESTS
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
            photos = index.photos(split)
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

"""Photographs with the same bytes: every new one is read and summed before a chunk is begun."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import queue
import threading

from facegan.prep.photo_index import IndexedPhoto, PhotoIndex
from facegan.prep.sources.base import MAX_BYTES, Readable, Reader
from facegan.prep.sources.prefetch import prefetching, schedule
from facegan.remote import MOST_REQUESTS
from facegan.shards.format import SPLITS

_PHOTOS_AT_ONCE = 2_000
_LAST_SECONDS = 1.0


def mark_duplicates(source: Readable, index: PhotoIndex, threads: int, fetch_ahead: int) -> int:
    """Reads and sums every new photograph (most of the time is the disk's or a network's), and marks those that came
    before."""
    # Ctrl-C must not find this thread inside a lock of a future, which it would leave locked: these queues are in C.
    todo: queue.SimpleQueue[list[IndexedPhoto] | None] = queue.SimpleQueue()
    sums: queue.SimpleQueue[tuple[bytes, str]] = queue.SimpleQueue()
    stopped = threading.Event()

    def work(reader: Reader) -> None:
        while (photos := todo.get()) is not None:
            schedule(reader, (photo.entry for photo in photos if photo.entry.size <= MAX_BYTES))
            for photo in photos:
                if not stopped.is_set():
                    sums.put((photo.entry.name, _sum(photo, reader)))
        with contextlib.suppress(OSError):
            reader.close()

    readers, at_once = [source.reader()], 1
    ahead = prefetching(readers[0], min(threads * fetch_ahead, MOST_REQUESTS))
    if ahead is not readers[0]:  # it has threads of its own, and needs to know much of what will be asked for
        readers, at_once = [ahead], _PHOTOS_AT_ONCE
    else:
        readers += [source.reader() for _ in range(threads - 1)]
    pool = [threading.Thread(target=work, args=(reader,), daemon=True) for reader in readers]
    for thread in pool:
        thread.start()
    try:
        for split in SPLITS:
            photos = index.photos(split)
            while some := list(itertools.islice(photos, _PHOTOS_AT_ONCE)):
                for start in range(0, len(some), at_once):
                    todo.put(some[start : start + at_once])
                index.set_checksums(sums.get() for _ in some)
    finally:
        stopped.set()  # Ctrl-C waits for what is being read, not for all that was to be
        for _ in pool:
            todo.put(None)
        for thread in pool:
            thread.join(_LAST_SECONDS)  # one that waits for a server which says nothing goes with this process
    return index.mark_duplicates()


def _sum(photo: IndexedPhoto, reader: Reader) -> str:
    """SHA-256, or nothing: whatever is wrong with it is told when it is prepared."""
    if photo.entry.size > MAX_BYTES:
        return ""
    try:
        return hashlib.sha256(reader.read(photo.entry)).hexdigest()
    except Exception:
        return ""

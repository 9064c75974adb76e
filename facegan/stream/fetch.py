"""Shards behind a URL: fetched whole, several at once, into a bounded folder of the user cache, and checked."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import fcntl
import json
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from facegan.errors import DatasetError, FaceganError, SettingsError
from facegan.files import TEMPORARY, disk_errors, human_bytes, make_folder, sha256_file, user_cache
from facegan.remote import Unreachable, filesystem, patiently
from facegan.shards.layout import DATASET_FILE, DatasetInfo, ShardEntry
from facegan.stream.room import BOUND_VARIABLE, cache_bound, gigabytes_for, make_room, touch

_AT_ONCE = 8
_LOOK_SECONDS = 0.2  # between looks whether all was closed meanwhile
_FULL = (errno.ENOSPC, errno.EDQUOT)


def read_info(url: str) -> DatasetInfo:
    """dataset.json behind a URL.

    Raises:
        DatasetError: there is none, it can't be had, or it can't be read.
        SourceError: a protocol that fsspec does not know, or whose package is not installed.
    """
    fs, top = filesystem(url)
    where = f"{url.rstrip('/')}/{DATASET_FILE}"

    def read() -> bytes:
        data = fs.cat_file(f"{top.rstrip('/')}/{DATASET_FILE}")
        try:
            json.loads(data)
        except ValueError:  # a server that does not tell lengths may break off unnoticed
            raise OSError("what came is no whole JSON") from None
        return data

    try:
        return DatasetInfo.parse(patiently(read), where)
    except Unreachable as error:
        raise DatasetError(f"{where} can't be had: {error}\nIs {url} a dataset of facegan prep?") from None


class FetchedShards:
    """Shards of a dataset behind a URL, as files here under the name of their SHA-256.

    Attributes:
        block_shards: 0 where all fit in the bound. Else so many that two blocks of them do: one that is read, and the
            next one, which is fetched meanwhile.

    Raises:
        SettingsError: two shards do not fit in the bound.
    """

    def __init__(self, url: str, entries: Sequence[ShardEntry]) -> None:
        self.url, self._entries = url.rstrip("/"), entries
        fs, top = filesystem(url)
        self._fs, self._top = fs, top.rstrip("/")
        self._folder = make_folder(user_cache("shards"))
        self._bound = cache_bound()
        self.block_shards = self._choose_block()
        self._pool = concurrent.futures.ThreadPoolExecutor(_AT_ONCE, "fetch")
        self._lock = threading.Lock()
        self._coming: dict[int, concurrent.futures.Future[Path]] = {}
        self._closing = threading.Event()
        self._on_its_way = 0  # bytes

    def _choose_block(self) -> int:
        if sum(entry.bytes for entry in self._entries) <= self._bound:
            return 0
        largest = max(entry.bytes for entry in self._entries)
        if 2 * largest > self._bound:
            raise SettingsError(
                f"A shard of {self.url} has {human_bytes(largest)}, and two of them do not fit in the cache of "
                f"{human_bytes(self._bound)}: set {BOUND_VARIABLE} to {gigabytes_for(2 * largest)} or more."
            )
        return self._bound // 2 // largest

    def where(self, number: int) -> str:
        return f"{self.url}/{self._entries[number].name}"

    def ahead(self, numbers: Iterable[int]) -> None:
        """Begins to fetch these."""
        for number in numbers:
            self._begin(number)

    def path(self, number: int) -> Path:
        """A shard's file here, once it is here and has the right sum. It may go again when others need its room.

        Raises:
            DatasetError: it can't be had, or what comes has another sum.
        """
        while True:
            path = self._await(self._begin(number))
            if path.exists():
                touch(path)
                return path
            with self._lock:
                self._coming.pop(number, None)

    def close(self) -> None:
        """What is on its way is given up, and whoever waits for a shard gets an error."""
        self._closing.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _await(self, coming: concurrent.futures.Future[Path]) -> Path:
        while not concurrent.futures.wait([coming], _LOOK_SECONDS).done:
            self._stop_if_closing()
        if coming.cancelled():
            self._stop_if_closing()
        return coming.result()

    def _stop_if_closing(self) -> None:
        if self._closing.is_set() or not threading.main_thread().is_alive():
            raise FaceganError(f"{self.url} was closed.")  # no fault of the dataset: nothing stands in for it

    def _begin(self, number: int) -> concurrent.futures.Future[Path]:
        self._stop_if_closing()
        with self._lock:
            future = self._coming.get(number)
            gone = future is not None and future.done() and not future.exception() and not future.result().exists()
            if future is None or gone:
                future = self._coming[number] = self._pool.submit(self._fetch, number)
            return future

    def _fetch(self, number: int) -> Path:
        entry = self._entries[number]
        path = self._folder / f"{entry.sha256}.tar"
        with _locked(path.with_suffix(".lock")):  # another process may be fetching it too
            if path.exists() and _is_right(path, entry):
                touch(path)
                return path
            partial = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
            try:
                self._reserve(entry)
                patiently(lambda: self._download(number, partial))
                with self._lock:
                    partial.replace(path)
                    self._on_its_way -= entry.bytes
            except BaseException as error:
                with self._lock:
                    self._on_its_way -= entry.bytes
                partial.unlink(missing_ok=True)
                if not isinstance(error, Unreachable):
                    raise
                raise DatasetError(
                    f"The shard {self.where(number)} can't be had: {error}\n"
                    "Start it again later; with --skip-broken it goes on without such shards."
                ) from None
        return path

    def _reserve(self, entry: ShardEntry) -> None:
        """Room beside what else is on its way."""
        with self._lock:
            self._on_its_way += entry.bytes
            make_room(self._folder, ".tar", self._on_its_way, self._bound)

    def _download(self, number: int, partial: Path) -> None:
        self._stop_if_closing()
        entry = self._entries[number]
        try:
            self._fs.get_file(f"{self._top}/{entry.name}", str(partial), callback=self._watching())
        except OSError as error:
            if error.errno in _FULL:
                with disk_errors(self._folder, entry.bytes):
                    raise
            raise
        if not _is_right(partial, entry):
            raise OSError(f"what came has not the SHA-256 and the {entry.bytes:,} bytes that {DATASET_FILE} says")

    def _watching(self) -> Any:
        """Is called as bytes come."""
        from fsspec.callbacks import Callback

        stop = self._stop_if_closing

        class Watching(Callback):
            def relative_update(self, inc: int = 1) -> None:
                stop()

        return Watching()


def _is_right(path: Path, entry: ShardEntry) -> bool:
    return path.stat().st_size == entry.bytes and sha256_file(path) == entry.sha256


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits for whoever holds it."""
    with disk_errors(path.parent):
        file = path.open("a")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

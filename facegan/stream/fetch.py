"""Shards behind a URL: fetched whole, several at once, into a bounded folder of the user cache, and checked."""

from __future__ import annotations

import concurrent.futures
import errno
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from facegan.console import Console
from facegan.errors import DamagedFile, DatasetError, FaceganError, SettingsError
from facegan.files import TEMPORARY, disk_errors, human_bytes, make_folder, parse_json, sha256_file, user_cache
from facegan.remote import Unreachable, filesystem, patiently, retry_waits
from facegan.shards.layout import DATASET_FILE, DatasetInfo, ShardEntry
from facegan.stream.download import download
from facegan.stream.jobs import Jobs
from facegan.stream.partials import partial_file, remove_abandoned, turn
from facegan.stream.process import end_with_process
from facegan.stream.room import BOUND_VARIABLE, cache_bound, gigabytes_for, make_room, touch

_AT_ONCE = 8
_LOOK_SECONDS = 0.2  # between looks whether all was closed meanwhile
_END_SECONDS = 1.0  # for what is on its way to be given up when the process ends
_LEAST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 60.0  # before a shard that could not be had is asked for again
_MOST_INFO_BYTES = 256 << 20  # of dataset.json: a million shards
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
        with TemporaryDirectory() as folder:
            file = Path(folder) / DATASET_FILE
            download(fs, f"{top.rstrip('/')}/{DATASET_FILE}", file, _MOST_INFO_BYTES, lambda: None)
            data = file.read_bytes()
        try:
            parse_json(data, where)
        except DamagedFile:  # a server that does not tell lengths may break off unnoticed
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

    def __init__(self, url: str, entries: Sequence[ShardEntry], console: Console) -> None:
        self.url, self._entries, self._console = url.rstrip("/"), entries, console
        self._folder = make_folder(user_cache("shards"))
        remove_abandoned(self._folder)
        self._bound = cache_bound()
        self.block_shards = self._choose_block()
        self._closed = False
        self._here: set[int] = set()  # checked by this process
        self._failed: dict[int, _Failed] = {}
        self.renew()
        end_with_process(self)

    def renew(self) -> None:
        """Connections, threads and locks, none of which a forked process has from its parent."""
        self._connection: tuple[Any, str] | None = None
        self._lock = threading.Lock()
        self._jobs = Jobs(self._fetch, _AT_ONCE, "fetch")
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
        """Fetches these, in their order, when nobody waits for others."""
        self._stop_if_closed()
        self._jobs.expect(numbers)

    def path(self, number: int) -> Path:
        """A shard's file here, once it is here and has the right sum. It may go again when others need its room.

        Raises:
            DatasetError: it can't be had, or what comes has another sum.
        """
        while True:
            self._stop_if_closed()
            path = self._file(number)
            if number in self._here and path.exists():
                touch(path)
                return path
            coming = self._jobs.ask(number)
            while not concurrent.futures.wait([coming], _LOOK_SECONDS).done:
                self._stop_if_closed()
            coming.result()

    def close(self) -> None:
        """What is on its way is given up, and whoever waits for a shard gets an error."""
        self._closed = True
        self._jobs.forget()

    def end(self) -> None:
        """The process ends."""
        self.close()
        self._jobs.join(_END_SECONDS)

    def _stop_if_closed(self) -> None:
        if self._closed:
            raise FaceganError(f"{self.url} was closed.")  # no fault of the dataset: nothing stands in for it

    def _file(self, number: int) -> Path:
        return self._folder / f"{self._entries[number].sha256}.tar"

    def _fetch(self, number: int) -> None:
        self._stop_if_closed()
        entry, path = self._entries[number], self._file(number)
        if number in self._here and path.exists():
            return
        failed = self._failed.get(number)
        if failed and time.monotonic() < failed.until:
            raise failed.error
        # Another process may be fetching it too. One that gets no further is not waited for: it may have been stopped.
        with turn(path.with_suffix(".lock"), lambda: _sizes(path), self._stop_if_closed) as ours:
            if not ours:
                self._console.warn(f"Another process fetches {self.where(number)} and gets no further: fetched here.")
            if not _is_right(path, entry):
                try:
                    patiently(lambda: self._download(number))
                except Unreachable as error:
                    failed = self._failed[number] = _Failed(self.where(number), error, failed)
                    raise failed.error from None
            self._here.add(number)
        self._failed.pop(number, None)

    def _download(self, number: int) -> None:
        entry, path, on_its_way = self._entries[number], self._file(number), 0
        fs, top = self._connected()
        try:
            with self._lock:
                on_its_way = entry.bytes
                self._on_its_way += on_its_way
                make_room(self._folder, ".tar", self._on_its_way, self._bound)
            with partial_file(path) as partial:
                download(fs, f"{top}/{entry.name}", partial, entry.bytes, self._stop_if_closed)
                if not _is_right(partial, entry):
                    raise OSError(
                        f"what came has not the SHA-256 and the {entry.bytes:,} bytes that {DATASET_FILE} says"
                    )
                with self._lock:  # it is counted as here, or as on its way, but never as both
                    partial.replace(path)
                    self._on_its_way -= on_its_way
                    on_its_way = 0
        except OSError as error:
            if error.errno in _FULL:
                with disk_errors(self._folder, entry.bytes):
                    raise
            raise
        finally:
            with self._lock:
                self._on_its_way -= on_its_way

    def _connected(self) -> tuple[Any, str]:
        with self._lock:
            if not self._connection:
                fs, top = filesystem(self.url)
                self._connection = fs, top.rstrip("/")
            return self._connection


class _Failed:
    """Why a shard could not be had, and until when it is not asked for again: each time for twice as long."""

    def __init__(self, where: str, why: Unreachable, before: _Failed | None) -> None:
        self.error = DatasetError(
            f"The shard {where} can't be had: {why}\n"
            "Start it again later; with --skip-broken it goes on without such shards."
        )
        longer = 2 * before.pause if before else 0.0
        self.pause = min(max(_LEAST_PAUSE_SECONDS, retry_waits()[-1], longer), _LONGEST_PAUSE_SECONDS)
        self.until = time.monotonic() + self.pause


def _sizes(path: Path) -> list[tuple[str, int]]:
    """Of what processes have fetched of a shard."""
    found = []
    for partial in path.parent.glob(f".{path.name}.*{TEMPORARY}"):
        try:
            found.append((partial.name, partial.stat().st_size))
        except FileNotFoundError:
            continue
    return sorted(found)


def _is_right(path: Path, entry: ShardEntry) -> bool:
    try:
        return path.stat().st_size == entry.bytes and sha256_file(path) == entry.sha256
    except FileNotFoundError:  # others may have needed its room at any moment
        return False

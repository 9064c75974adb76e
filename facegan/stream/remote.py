"""A dataset behind a URL: downloaded whole into the bounded user cache, and checked."""

from __future__ import annotations

import contextlib
import tarfile
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from tempfile import TemporaryDirectory

import filelock

from facegan.console import Console
from facegan.errors import DamagedFile, DatasetError, SettingsError
from facegan.files import (
    CACHE_LIMIT_VARIABLE,
    TEMPORARY,
    atomic_path,
    cache_limit,
    evict_lru,
    human_bytes,
    make_folder,
    mark_used,
    parse_json,
    sha256_file,
    user_cache,
)
from facegan.remote import RemoteUnavailable, download, filesystem, retry, silence_seconds
from facegan.shards.format import DATASET_FILE, PHOTOS_FILE, DatasetInfo, ShardEntry

_CONNECTIONS = 8
_TABLES_BYTES = 1 << 30  # of all tables in the user cache
_MOST_INFO_BYTES = 256 << 20  # of dataset.json: a million shards


def read_info(url: str) -> DatasetInfo:
    """dataset.json behind a URL. Raises DatasetError if it is missing, unavailable or damaged."""
    fs, top = filesystem(url)
    where = f"{url.rstrip('/')}/{DATASET_FILE}"

    def read() -> bytes:
        with TemporaryDirectory() as folder:
            file = Path(folder) / DATASET_FILE
            download(fs, f"{top.rstrip('/')}/{DATASET_FILE}", file, _MOST_INFO_BYTES)
            data = file.read_bytes()
        try:
            parse_json(data, where)
        except DamagedFile:  # a server that sends no lengths may break off unnoticed
            raise OSError("incomplete JSON") from None
        return data

    try:
        return DatasetInfo.parse(retry(read), where)
    except RemoteUnavailable as error:
        raise DatasetError(f"{where} is unavailable: {error}\nIs {url} a dataset of facegan prep?") from None


def fits_in_cache(entries: Sequence[ShardEntry]) -> bool:
    return sum(entry.bytes for entry in entries) <= cache_limit()


class RemoteShards:
    """Shards behind a URL, as files ``paths`` of the user cache, named after their SHA-256.

    Raises SettingsError if they do not fit there, DatasetError if they cannot hold the samples in dataset.json.
    """

    def __init__(self, url: str, entries: Sequence[ShardEntry], console: Console) -> None:
        self.url, self._entries, self._console = url.rstrip("/"), entries, console
        for entry in entries:
            if entry.samples * tarfile.BLOCKSIZE > entry.bytes:
                raise DatasetError(
                    f"{url}: {entry.name} cannot hold {entry.samples:,} samples in {entry.bytes:,} bytes, as its "
                    f"{DATASET_FILE} says.\nPrepare it again with --force."
                )
        if not fits_in_cache(entries):
            size = sum(entry.bytes for entry in entries)
            raise SettingsError(
                f"{url} has {human_bytes(size)}; the user cache may hold {human_bytes(cache_limit())}.\n"
                f"Set {CACHE_LIMIT_VARIABLE} to {-(-size // 10**7) / 100:g} or more, or let facegan train stream it in "
                "an approximate order."
            )
        self._folder = make_folder(user_cache("shards"))
        self.paths = [self._folder / f"{entry.sha256}.tar" for entry in entries]

    def where(self, number: int) -> str:
        return f"{self.url}/{self._entries[number].name}"

    def download(self) -> dict[int, DatasetError]:
        """Download what is missing and compare every checksum. Returns what is unavailable by shard number."""
        for partial in self._folder.glob(f".*{TEMPORARY}"):  # of killed processes: nobody holds their lock
            shard = partial.name.removeprefix(".").partition(".")[0]
            with contextlib.suppress(filelock.Timeout), filelock.FileLock(self._folder / f"{shard}.lock", timeout=0):
                partial.unlink(missing_ok=True)
        self._make_room(range(len(self._entries)))
        stopped, failed = threading.Event(), {}
        threads = ThreadPoolExecutor(_CONNECTIONS, "download")
        try:
            tasks = {threads.submit(self.fetch, number, stopped): number for number in range(len(self._entries))}
            with self._console.progress(len(tasks), "shards") as progress:
                for task in as_completed(tasks):
                    try:
                        task.result()
                    except DatasetError as error:
                        failed[tasks[task]] = error
                    progress.advance(1)
        finally:
            stopped.set()  # after Ctrl-C, nobody waits for a slow server
            threads.shutdown(cancel_futures=True)
        return failed

    def restore(self, number: int) -> None:
        """As `fetch`, for a shard that was evicted meanwhile."""
        self._make_room([number])
        self.fetch(number)

    def fetch(self, number: int, stopped: threading.Event | None = None) -> None:
        """Make a shard's file exist with the right checksum, or raise DatasetError."""
        path = self.paths[number]
        lock = filelock.FileLock(path.with_suffix(".lock"))
        try:  # another process may be downloading it; files appear complete, so ours cannot hurt if it is stuck
            lock.acquire(timeout=silence_seconds())
        except filelock.Timeout:
            self._console.warn(f"Another process does not finish {self.where(number)}; downloading it here, too.")
        try:
            entry = self._entries[number]
            if _is_right(path, entry.sha256, entry.bytes):
                mark_used(path)
            else:
                retry(lambda: self._download(entry.name, path, entry.sha256, entry.bytes, stopped))
        except RemoteUnavailable as error:
            raise DatasetError(
                f"The shard {self.where(number)} is unavailable: {error}\n"
                "Try again later, or add --skip-broken to continue without such shards."
            ) from None
        finally:
            lock.release()

    def photos(self, sha256: str) -> Path:
        """The dataset's photos.parquet, downloaded and checked."""
        path = self._folder / f"{sha256}.parquet"
        try:
            if not _is_right(path, sha256):
                evict_lru(self._folder, ".parquet", 0, _TABLES_BYTES)
                retry(lambda: self._download(PHOTOS_FILE, path, sha256))
        except RemoteUnavailable as error:
            raise DatasetError(f"{self.url}/{PHOTOS_FILE} is unavailable: {error}") from None
        return path

    def _make_room(self, numbers: Iterable[int]) -> None:
        needed = sum(self._entries[number].bytes for number in numbers if not self.paths[number].exists())
        evict_lru(self._folder, ".tar", needed, cache_limit(), keep=self.paths)

    def _download(
        self, name: str, path: Path, sha256: str, size: int | None = None, stopped: threading.Event | None = None
    ) -> None:
        fs, top = filesystem(self.url)
        with atomic_path(path) as partial:
            download(fs, f"{top.rstrip('/')}/{name}", partial, size or _TABLES_BYTES, stopped)
            if not _is_right(partial, sha256, size):
                about = f" or the {size:,} bytes" if size else ""
                raise OSError(f"the download differs from the SHA-256{about} in {DATASET_FILE}")


def _is_right(path: Path, sha256: str, size: int | None = None) -> bool:
    try:
        return size in (None, path.stat().st_size) and sha256_file(path) == sha256
    except FileNotFoundError:
        return False

"""Files at an fsspec URL, by their names below it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from facegan.files import disk_errors, sha256_file
from facegan.prep.sources.remote import read_range
from facegan.remote import RemoteUnavailable, filesystem, retry

_THREADS = 16  # for requests of small files
_PIECE_BYTES = 8 << 20


class ObjectStore:
    """Files at an fsspec URL, by their names below it. Requests are retried; failures are `RemoteUnavailable`.

    Attributes:
        where: the URL.
        sizes: of the files at the URL, as listed or written by this run.
        stopping: while set, no upload starts.
    """

    def __init__(self, url: str) -> None:
        self.where = url.rstrip("/")
        self._fs, top = filesystem(url)
        self._top = top.rstrip("/")
        self.sizes: dict[str, int] = {}
        self.stopping = threading.Event()

    def path(self, name: str) -> str:
        return f"{self._top}/{name}"

    def listing(self) -> dict[str, int]:
        """Sizes of all files at the URL, by name."""

        def find() -> dict[str, Any]:
            self._fs.invalidate_cache()
            try:
                return self._fs.find(self._top, detail=True)
            except FileNotFoundError:
                return {}

        prefix = self._fs._strip_protocol(self._top).rstrip("/") + "/"
        return {path.removeprefix(prefix): int(info["size"] or 0) for path, info in retry(find).items()}

    def read(self, name: str) -> bytes | None:
        """A small file, or None if it is missing."""
        return retry(lambda: self._read(name))

    def _read(self, name: str) -> bytes | None:
        try:
            return self._fs.cat_file(self.path(name))
        except FileNotFoundError:
            return None

    def create(self, name: str, data: bytes) -> bool:
        """Creates a file; False if it exists with other bytes."""

        def put() -> bool:
            try:
                self._fs.pipe_file(self.path(name), data, mode="create")
            except FileExistsError:
                return self._read(name) == data  # an earlier try arrived, and only its answer was lost
            return True

        created = retry(put)
        if created:
            self.sizes[name] = len(data)
        return created

    def write(self, name: str, data: bytes) -> None:
        retry(lambda: self._fs.pipe_file(self.path(name), data))
        self.sizes[name] = len(data)

    def upload(self, name: str, path: Path) -> None:
        """Uploads a file and reads it back: size and checksum must match."""
        size, sha256 = path.stat().st_size, sha256_file(path)

        def put() -> None:
            if self.stopping.is_set():
                raise RemoteUnavailable("the run was stopped")
            self._fs.put_file(str(path), self.path(name))
            self._fs.invalidate_cache()
            arrived = self._fs.info(self.path(name))["size"]
            if arrived != size or self._sum(name, size) != sha256:
                raise OSError(f"{arrived:,} bytes of {name} arrived, which differ from the {size:,} sent")

        retry(put)
        self.sizes[name] = size

    def download(self, name: str, path: Path) -> None:
        """Writes a file of `sizes` to ``path``."""
        with disk_errors(path.parent), path.open("wb") as file:
            for piece in self._pieces(name, self.sizes[name]):
                file.write(piece)

    def sha256(self, name: str) -> str:
        """Of a file of `sizes`, by reading it."""
        return self._sum(name, self.sizes[name])

    def _sum(self, name: str, size: int) -> str:
        digest = hashlib.sha256()
        for piece in self._pieces(name, size):
            digest.update(piece)
        return digest.hexdigest()

    def _pieces(self, name: str, size: int) -> Iterator[bytes]:
        for start in range(0, size, _PIECE_BYTES):
            yield read_range(self._fs, self.path(name), start, min(start + _PIECE_BYTES, size))

    def copy(self, source: str, name: str) -> None:
        """Copies inside the store, if its protocol can."""
        retry(lambda: self._fs.cp_file(self.path(source), self.path(name)))
        self.sizes[name] = self.sizes.get(source, 0)

    def remove(self, names: Iterable[str]) -> None:
        """Deletes files; missing ones are ignored."""

        def remove_one(name: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self.path(name))
            self.sizes.pop(name, None)

        self.for_each(lambda name: retry(lambda: remove_one(name)), names)

    def for_each(self, do: Callable[[str], None], names: Iterable[str]) -> None:
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(do, list(names)):
                pass

"""A file that a source is read from: here, or behind an fsspec URL."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from facegan.files import replacing
from facegan.prep.sources.fetch import NoParts, fetch_whole, file_size, read_range
from facegan.remote import filesystem, is_http, is_url, patiently, without_query
from facegan.unpack import MAX_RATIO, Bounds

_BUFFER_BYTES = 1 << 20  # of a remote file, fetched at once
_MARK_BYTES = 1 << 16


@dataclass(frozen=True)
class Blob:
    """A file on this machine or behind an fsspec URL."""

    where: str
    max_ratio: int = MAX_RATIO  # of its unpacked bytes to its own

    def bounds(self, file: BinaryIO) -> Bounds:
        """What it may hold. The open file is at its beginning afterwards."""
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        return Bounds(self.where, size, self.max_ratio)

    def mark(self) -> str:
        """A digest of its size, its beginning and its end: tells one file from another without reading it whole."""
        with self.open() as file:
            size = file.seek(0, os.SEEK_END)
            digest = hashlib.sha256(b"%d" % size)
            for at in (0, max(0, size - _MARK_BYTES)):
                file.seek(at)
                digest.update(file.read(_MARK_BYTES))
        return digest.hexdigest()

    @property
    def name(self) -> str:
        return without_query(self.where).rstrip("/").rpartition("/")[2]

    def open(self) -> BinaryIO:
        """Seekable.

        Raises:
            Unreachable: it is remote, and can't be had; reading from it raises this as well.
            DiskError: its server does not give parts of files, and there is no room for all of it.
        """
        if not is_url(self.where):
            return Path(self.where).open("rb")
        if self.where not in _whole:
            try:
                return io.BufferedReader(_remote(self.where), _BUFFER_BYTES)
            except NoParts:
                _whole[self.where] = _fetched(self.where)
        number = _whole[self.where].fileno()
        pieces = _Pieces(os.fstat(number).st_size, lambda start, end: os.pread(number, max(0, end - start), start))
        return io.BufferedReader(pieces, _BUFFER_BYTES)

    def in_parts(self, folder: Path) -> Blob:
        """Itself; or where its server does not give parts of files what was fetched of it, in ``folder``: each process
        that reads photographs would fetch it again."""
        if not is_http(self.where):
            return self
        self.open().close()
        whole = _whole.pop(self.where, None)
        if whole is None:
            return self
        path = folder / f"{hashlib.sha256(self.where.encode()).hexdigest()[:16]}-{self.name}"
        with whole, replacing(path) as copy:
            whole.seek(0)
            shutil.copyfileobj(whole, copy, _BUFFER_BYTES)
        return Blob(str(path), self.max_ratio)

    def forget(self) -> None:
        """What was fetched of it for an earlier run is not looked at again: it may have changed."""
        if whole := _whole.pop(self.where, None):
            whole.close()


# Files that had to be fetched, by URL. They have no names, and go with this process.
_whole: dict[str, BinaryIO] = {}


@atexit.register
def _close_whole() -> None:
    while _whole:
        _whole.popitem()[1].close()


class _Pieces(io.RawIOBase):
    """A file of which any part can be had."""

    def __init__(self, size: int, part: Callable[[int, int], bytes]) -> None:
        super().__init__()
        self._size, self._part, self._at = size, part, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._part(self._at, min(self._at + len(buffer), self._size))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _remote(url: str) -> _Pieces:
    """A file behind a URL, read by ranges, each of them patiently.

    Raises:
        NoParts: they can't be had.
    """
    fs, path = filesystem(url)
    fs.invalidate_cache()
    size = patiently(lambda: file_size(fs, path))
    if size is None:
        raise NoParts("its server does not tell how long it is")
    if is_http(url) and size > 1:
        read_range(fs, path, 0, 1)
    return _Pieces(size, lambda start, end: read_range(fs, path, start, end))


def _fetched(url: str) -> BinaryIO:
    with contextlib.ExitStack() as failing:
        file = failing.enter_context(tempfile.TemporaryFile())
        fetch_whole(url, file, Path(tempfile.gettempdir()))
        failing.pop_all()
        return file

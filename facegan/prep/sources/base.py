"""What every source of photographs has in common: entries, what counts as a photograph, where bytes lie."""

from __future__ import annotations

import contextlib
import hashlib
import io
import lzma
import os
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeVar

from facegan.errors import SourceError
from facegan.shards.layout import has_photo_suffix

MAX_BYTES = 1 << 29  # of one photograph's file; a larger one is too_large without being read
RETRY_VARIABLE = "FACEGAN_RETRY_SECONDS"  # in the environment, and so in every worker's
TIMEOUT_VARIABLE = "FACEGAN_TIMEOUT_SECONDS"
_WAITS_SECONDS = "0.2,1,4"  # before each further try at something remote
_TIMEOUT_SECONDS = 30.0  # without a byte, and a connection is given up
_BUFFER_BYTES = 1 << 20  # of a remote file, fetched at once
_S3 = ("s3", "s3a")
_COME_AGAIN = (408, 425, 429)  # answers of a server that is busy; other 4xx are final

_MARK_BYTES = 1 << 16

T = TypeVar("T")


class Entry(NamedTuple):
    """A photograph in a source.

    Attributes:
        name: its path there.
        size: bytes of its file; 0 where that is not known before it is read.
        place: how its source finds it again.
        label: its class, 0 where the source has none.
        part: the source's own split (train, val, test); empty where it has none.
    """

    name: bytes
    size: int
    place: tuple[int, ...] = ()
    label: int = 0
    part: str = ""


class Source(Protocol):
    """Photographs with stable names."""

    @property
    def where(self) -> str:
        """As the user knows it."""
        ...

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        """Every photograph, in any order; of a name that comes twice the later one counts.

        Args:
            ignored: counts what is no photograph, by suffix.
        """
        ...

    def marks(self) -> tuple[str, ...]:
        """Digests of the files behind it, where neither names nor sizes tell one of its photographs from another
        source's; else none."""
        ...

    def unpacked(self, folder: Path) -> Readable:
        """The same entries, to be read in any order: itself, or what it had to unpack in ``folder``."""
        ...


class Readable(Protocol):
    """What `Source.unpacked` gives. Small and picklable: each worker opens its own reader."""

    @property
    def where(self) -> str: ...

    def reader(self) -> Reader: ...


class Reader(Protocol):
    """Reads photographs of one source inside one process.

    Raises:
        Unreachable, OSError: the bytes can't be had now; another time they may be.
        Exception: one of `DAMAGED`: they are there, and damaged.
    """

    def read(self, entry: Entry) -> bytes: ...

    def close(self) -> None: ...


class Unreachable(Exception):
    """A photograph's bytes can't be had now."""


# What reading raises for a file that is damaged, or a zip's member that is encrypted or packed in an unknown way.
DAMAGED = (EOFError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)


def is_photo(name: bytes) -> bool:
    # macOS puts a file ._NAME with its attributes beside every NAME it archives.
    return has_photo_suffix(name) and not (b"._" in name and name.rpartition(b"/")[2].startswith(b"._"))


def suffix(name: bytes) -> str:
    """By what a file that is no photograph is counted."""
    file = name.rpartition(b"/")[2]
    if file.startswith(b"._"):
        return "._"
    stem, dot, last = file.rpartition(b".")
    return "." + last.decode("utf-8", "backslashreplace").lower() if dot and stem else "(none)"


def archive_name(name: str) -> bytes:
    """A member's name as a path below the archive: no leading ``/`` or ``./``."""
    return below_archive(name.encode("utf-8", "surrogateescape"))


def below_archive(raw: bytes) -> bytes:
    while raw.startswith((b"/", b"./")):
        raw = raw.removeprefix(b".").removeprefix(b"/")
    return raw


def is_url(text: str) -> bool:
    return "://" in text


@dataclass(frozen=True)
class Blob:
    """A file on this machine or behind an fsspec URL."""

    where: str

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
        return self.where.rstrip("/").rpartition("/")[2]

    def open(self) -> BinaryIO:
        """Seekable.

        Raises:
            Unreachable: it is remote, and can't be had; reading from it raises this as well.
        """
        if not is_url(self.where):
            return Path(self.where).open("rb")
        return io.BufferedReader(_RemoteFile(self.where), _BUFFER_BYTES)


class _RemoteFile(io.RawIOBase):
    """A file behind a URL, read by ranges, each of them patiently."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._fs, self._path = filesystem(url)
        self._fs.invalidate_cache()
        size = patiently(lambda: self._fs.info(self._path)["size"])
        if size is None:
            raise Unreachable("its server does not tell how long it is")
        self._size, self._at = int(size), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        data = read_range(self._fs, self._path, self._at, end)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def read_range(fs: Any, path: str, start: int, end: int) -> bytes:
    """Bytes ``start`` … ``end`` of a remote file, all of them.

    Raises:
        Unreachable: they can't be had.
    """

    def read() -> bytes:
        data = fs.cat_file(path, start=start, end=end)
        if len(data) > end - start:
            raise Unreachable("its server does not give parts of files: fetch it, and name the file")
        if len(data) < end - start:
            raise OSError(f"{len(data):,} of {end - start:,} bytes came")
        return data

    return patiently(read) if end > start else b""


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path in it.

    Raises:
        SourceError: a protocol that fsspec does not know, or whose package is not installed.
    """
    import fsspec
    from fsspec.config import conf

    protocol = url.partition("://")[0]
    try:
        given = conf.get(protocol, {})  # the user's own settings for this protocol come before ours
        fs, path = fsspec.core.url_to_fs(url, **{**_options(protocol), **given})
    except ImportError as error:
        extra = protocol.replace("https", "http")
        raise SourceError(
            f"{url} needs a package that is not installed ({error}): pip install 'facegan[{extra}]'"
        ) from None
    except ValueError as error:
        raise SourceError(f"{url}: {error}") from None
    if protocol in _S3:
        fs.retries = 1  # `patiently` tries again; both together would do so twenty times
    return fs, path


def _options(protocol: str) -> dict[str, Any]:
    """A connection that goes quiet is given up: the libraries would wait for minutes, or for ever."""
    seconds = float(os.environ.get(TIMEOUT_VARIABLE) or _TIMEOUT_SECONDS)
    if protocol in _S3:
        retries = {"max_attempts": 0}
        return {"config_kwargs": {"connect_timeout": seconds, "read_timeout": seconds, "retries": retries}}
    if protocol in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, connect=seconds, sock_read=seconds)
        # Packed on the way a body's length would say nothing.
        return {"client_kwargs": {"timeout": timeout, "headers": {"Accept-Encoding": "identity"}}}
    return {"auto_mkdir": True} if protocol in ("file", "local") else {}


def patiently(read: Callable[[], T]) -> T:
    """What ``read`` gives, tried several times with longer and longer waits.

    Raises:
        Unreachable: it is not there, may not be read, or failed every time.
    """
    waits = [float(wait) for wait in (os.environ.get(RETRY_VARIABLE) or _WAITS_SECONDS).split(",")]
    for wait in (*waits, None):
        try:
            return read()
        except Unreachable:
            raise
        except Exception as error:  # every protocol's library has errors of its own, few of them OSErrors
            if wait is None or _is_final(error):
                raise Unreachable(_told(error)) from error
            time.sleep(wait)
    raise AssertionError("unreachable code")


def _is_final(error: Exception) -> bool:
    """Whether the server has answered that there is no such thing, or that we may not have it."""
    cause = error.__cause__  # fsspec's http calls any fault a FileNotFoundError, and tells here which it was
    for told in (error, cause):
        if isinstance(status := getattr(told, "status", None), int):
            return 400 <= status < 500 and status not in _COME_AGAIN
    return isinstance(error, FileNotFoundError | PermissionError) and (cause is None or hasattr(cause, "response"))


def _told(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}" + (f" ({error.__cause__!r})" if error.__cause__ else "")
    return text.splitlines()[0][:300]


@contextlib.contextmanager
def reachable(where: str) -> Iterator[None]:
    """Turns `Unreachable` into `SourceError`: for what a run can't do without.

    Raises:
        SourceError: the source can't be had.
    """
    try:
        yield
    except Unreachable as error:
        raise SourceError(f"{where} can't be reached: {error}") from None


def common_folder(first: bytes, last: bytes) -> bytes:
    """The deepest folder that holds all names between two sorted ones, with its final slash; empty at the top."""
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[: first.rfind(b"/", 0, same) + 1]

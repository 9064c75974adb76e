"""Photographs and archives behind fsspec URLs: whole photographs, ranges, files of sources."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import io
import ipaddress
import os
import shutil
import socket
import tempfile
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from facegan.errors import DiskError
from facegan.files import atomic_write, disk_errors, human_bytes
from facegan.prep.sources.base import MAX_BYTES, Entry, OnBytes, Request
from facegan.remote import (
    SLOWEST_BYTES,
    RemoteUnavailable,
    TooLarge,
    download,
    filesystem,
    is_http,
    is_url,
    retry,
    slow_seconds,
    too_slow,
    without_query,
)
from facegan.unpack import MAX_RATIO, Bounds

PRIVATE_VARIABLE = "FACEGAN_PRIVATE_URLS"  # environment variable: "allow"
_PROTOCOLS = ("http", "https", "s3", "gs", "gcs", "hf")  # of URLs in tables, which must not name this machine's files
_BUFFER_BYTES = 1 << 20  # fetched at once from a remote file
_DIGEST_BYTES = 1 << 16


class NoRanges(RemoteUnavailable):
    """The server sends whole files only."""


def read_range(fs: Any, path: str, start: int, end: int) -> bytes:
    """Exactly the bytes ``start`` … ``end`` of a remote file.

    Raises:
        NoRanges: the server sends more than that.
        RemoteUnavailable: the file is unavailable.
    """

    def refuse_more(declared: int, received: int) -> None:  # what is declared may be the length of an error page
        if received > end - start:
            raise NoRanges("its server does not support ranges")

    def read() -> bytes:
        if _is_http(fs):  # fsspec would read the whole file if the server sent that
            data = _get_http(fs, path, refuse_more, headers={"Range": f"bytes={start}-{end - 1}"})
        else:
            data = _cat(fs, path, end - start, start=start, end=end)
        if len(data) != end - start:
            raise OSError(f"got {len(data):,} of {end - start:,} bytes")
        return data

    return retry(read) if end > start else b""


def fetch(fs: Any, path: str, size: int = 0, on_bytes: OnBytes | None = None) -> bytes:
    """A whole photograph.

    Args:
        size: the expected bytes; 0 if unknown.
        on_bytes: called with the declared and the received bytes; may raise to stop.

    Raises:
        TooLarge: it has more than `MAX_BYTES`; the rest is not read.
        RemoteUnavailable: it is unavailable.
    """

    def check(count: int) -> None:
        if count > MAX_BYTES:
            raise TooLarge(f"more than {MAX_BYTES:,} bytes")
        if on_bytes:
            on_bytes(count)

    def read() -> bytes:
        if _is_http(fs):
            data = _get_http(fs, path, lambda declared, received: check(max(declared, received)))
        else:
            expected = size or file_size(fs, path) or 0
            check(expected)
            data = _cat(fs, path, expected)
        if size and len(data) != size:
            raise OSError(f"got {len(data):,} of {size:,} bytes")
        return data

    return retry(read)


def fetch_url(url: str, on_bytes: OnBytes | None = None) -> bytes:
    """A photograph whose URL is in a table. Tables may come from anyone, so it may name neither files of this machine
    nor, without ``FACEGAN_PRIVATE_URLS=allow``, servers of its network.

    Raises:
        ValueError: another kind of URL.
        TooLarge, RemoteUnavailable: as `fetch`.
    """
    protocol = url.partition("://")[0].lower()
    if protocol not in _PROTOCOLS:
        raise ValueError(f"a URL of another kind than {', '.join(_PROTOCOLS)}")
    guarded = protocol in ("http", "https") and os.environ.get(PRIVATE_VARIABLE) != "allow"
    fs, path = filesystem(url, **({"get_client": _public_client} if guarded else {}))
    return fetch(fs, path, on_bytes=on_bytes)


def _is_http(fs: Any) -> bool:
    return "http" in fs.protocol


def file_size(fs: Any, path: str) -> int | None:
    """None if its file system does not know."""
    info = _in_time(fs, fs._info(path)) if getattr(fs, "async_impl", False) else fs.info(path)
    return None if info["size"] is None else int(info["size"])


def _get_http(fs: Any, path: str, check: Callable[[int, int], None], **request: Any) -> bytes:
    """A body. ``check`` gets the declared and the received bytes, first before the body, and may raise to stop."""
    from fsspec.callbacks import Callback

    sink = io.BytesIO()
    callback = Callback(hooks={"check": lambda size, value, **_: check(size or 0, value)})
    _in_time(fs, fs._get_file(path, sink, callback=callback, **request), received=sink.tell)
    return sink.getvalue()


def _cat(fs: Any, path: str, size: int, **part: int) -> bytes:
    """A file whose protocol reports no progress: it gets as long as the slowest connection may take."""
    if not getattr(fs, "async_impl", False):
        return fs.cat_file(path, **part)
    return _in_time(fs, fs._cat_file(path, **part), seconds=slow_seconds() + size / SLOWEST_BYTES)


def _in_time(
    fs: Any, request: Coroutine[Any, Any, Any], received: Callable[[], int] | None = None, seconds: float | None = None
) -> Any:
    """The result of a request to an asynchronous file system, including name lookup, redirects and headers.

    Args:
        received: the bytes so far; they must grow at `SLOWEST_BYTES` a second in every window of ``seconds``.

    Raises:
        RemoteUnavailable: it takes too long. It is not retried: that would take as long each time.
    """
    seconds, before = seconds or slow_seconds(), 0
    connect = getattr(fs, "set_session", None)
    begun = threading.Event()

    async def respond() -> Any:
        try:
            if connect:
                await connect()
            begun.set()
            return await request
        finally:
            request.close()
            begun.set()

    future = asyncio.run_coroutine_threadsafe(respond(), fs.loop)
    try:
        begun.wait()  # the first request loads libraries, which is not the server's fault
        while not wait([future], seconds).done:
            now = received() if received else 0
            if now - before < SLOWEST_BYTES * seconds:
                raise too_slow()
            before = now
        return future.result()
    finally:
        future.cancel()


async def _public_client(**settings: Any) -> Any:
    """An aiohttp session that connects to no address of this machine's network, whatever names and redirects say."""
    import aiohttp

    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=_public_socket), **settings)


def _public_socket(info: tuple[Any, ...]) -> socket.socket:
    """aiohttp asks for a socket after name lookup and after each redirect, and connects it to this very address."""
    family, kind, protocol, _, address = info
    if not is_public(address[0]):
        raise RemoteUnavailable(f"{address[0]} is not a public address; set {PRIVATE_VARIABLE}=allow to allow it")
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)
    return made


# IPv4-mapped addresses (RFC 4291, 2.5.5.2), which are reached by IPv4, and NAT64 (RFC 6052, 2.1).
_IPV4_IN_IPV6 = [ipaddress.IPv6Network("::ffff:0:0/96"), ipaddress.IPv6Network("64:ff9b::/96")]
_UNICAST = ipaddress.IPv6Network("2000::/3")  # all that is assigned; ipaddress calls site-local ones global, too


def is_public(address: str) -> bool:
    """Whether an address, and the IPv4 address in it that a gateway would reach, are public."""
    host = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(host, ipaddress.IPv4Address):
        return host.is_global and not host.is_multicast
    last = ipaddress.IPv4Address(int(host) & 0xFFFFFFFF)
    if any(host in network for network in _IPV4_IN_IPV6):
        return is_public(str(last))
    is_isatap = int(host) >> 32 & 0xFDFFFFFF == 0x5EFE  # RFC 5214, 6.1: 0:5efe before the IPv4 address
    inner = [ipv4 for ipv4 in (host.sixtofour, last if is_isatap else None) if ipv4]
    return host in _UNICAST and host.is_global and all(is_public(str(ipv4)) for ipv4 in inner)


@dataclass(frozen=True)
class SourceFile:
    """A local or remote file of a source; remote ones are read by ranges.

    Attributes:
        max_ratio: of its unpacked bytes to its own.
        copy: the downloaded file, if its server does not support ranges.
    """

    where: str
    max_ratio: int = MAX_RATIO
    copy: BinaryIO | None = None

    @staticmethod
    def find(where: str, max_ratio: int = MAX_RATIO) -> SourceFile:
        """A file by path or URL. It is downloaded now if its server does not support ranges.

        Raises:
            RemoteUnavailable: it is unavailable.
            DiskError: it has to be downloaded and does not fit.
        """
        if not is_url(where):
            return SourceFile(where, max_ratio)
        try:
            _open_ranges(where)
        except NoRanges:
            copy = _download(where)
            file = SourceFile(where, max_ratio, copy)
            weakref.finalize(file, copy.close)
            return file
        return SourceFile(where, max_ratio)

    @property
    def name(self) -> str:
        return without_query(self.where).rstrip("/").rpartition("/")[2]

    def open(self) -> BinaryIO:
        """A seekable file; reading from it raises `RemoteUnavailable` as well."""
        if copy := self.copy:
            size = copy.seek(0, os.SEEK_END)
            return io.BufferedReader(_RangeReader(size, functools.partial(_read_part, copy)), _BUFFER_BYTES)
        return _open_ranges(self.where) if is_url(self.where) else Path(self.where).open("rb")

    def bounds(self, file: BinaryIO) -> Bounds:
        """What it may unpack to. The open file is at its start afterwards."""
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        return Bounds(self.where, size, self.max_ratio)

    def quick_digest(self) -> str:
        """Of its size, start and end: distinguishes files without reading them whole."""
        with self.open() as file:
            size = file.seek(0, os.SEEK_END)
            digest = hashlib.sha256(b"%d" % size)
            for at in (0, max(0, size - _DIGEST_BYTES)):
                file.seek(at)
                digest.update(file.read(_DIGEST_BYTES))
        return digest.hexdigest()

    def shareable(self, folder: Path) -> SourceFile:
        """A file that every process can open: itself, or a downloaded file moved into ``folder``."""
        if self.copy is None:
            return self
        path = folder / f"{hashlib.sha256(self.where.encode()).hexdigest()[:16]}-{self.name}"
        with self.open() as copy, atomic_write(path) as out:
            shutil.copyfileobj(copy, out, _BUFFER_BYTES)
        return SourceFile(str(path), self.max_ratio)


class UrlReader:
    """A `RemoteReader` of photographs behind a URL: whole objects or parts of one, as ``fetch`` gets them."""

    def __init__(self, where: str, fetch: Callable[[str, Entry, OnBytes | None], bytes]) -> None:
        self._where, self._fetch = where, fetch
        filesystem(where)

    def read(self, entry: Entry) -> bytes:
        return self._fetch(self._where, entry, None)

    def request(self, entry: Entry) -> Request:
        return functools.partial(self._fetch, self._where, entry)

    def close(self) -> None:
        pass


def _read_part(file: BinaryIO, start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(max(0, end - start))


def _open_ranges(url: str) -> BinaryIO:
    """
    Raises:
        NoRanges: the server does not support ranges or does not know the file's size.
    """
    fs, path = filesystem(url)
    fs.invalidate_cache()
    size = retry(lambda: file_size(fs, path))
    if size is None:
        raise NoRanges("its server does not report its size")
    if is_http(url) and size > 1:
        read_range(fs, path, 0, 1)
    return io.BufferedReader(_RangeReader(size, lambda start, end: read_range(fs, path, start, end)), _BUFFER_BYTES)


def _download(url: str) -> BinaryIO:
    """A temporary file without a name, so that a killed process leaves nothing."""
    fs, path = filesystem(url)
    size = retry(lambda: file_size(fs, path))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        free = shutil.disk_usage(folder).free * 9 // 10
        if size and size > free:
            raise DiskError(
                f"{url}: its server does not support ranges, and {folder.parent} has no space for the whole file "
                f"({human_bytes(size)}).\nFree some space, or choose another temporary folder with TMPDIR=FOLDER."
            )
        with disk_errors(folder.parent):
            retry(lambda: download(fs, path, folder / "file", size or free))
        return (folder / "file").open("rb")


class _RangeReader(io.RawIOBase):
    """A file of ``size`` bytes from a function that reads a range."""

    def __init__(self, size: int, read_part: Callable[[int, int], bytes]) -> None:
        super().__init__()
        self._size, self._read_part, self._at = size, read_part, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._read_part(self._at, min(self._at + len(buffer), self._size))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

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
from facegan.prep.sources.base import MAX_BYTES, Entry, OnBytes, Reader, Request
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
    """Exactly the bytes ``start`` … ``end`` of a remote file; raises NoRanges if the server sends more than that."""

    def refuse_more(declared: int, received: int) -> None:  # what is declared may be the length of an error page
        if received > end - start:
            raise NoRanges("its server does not support ranges")

    return _get(fs, path, end - start, refuse_more, start) if end > start else b""


def fetch(fs: Any, path: str, size: int = 0, on_bytes: OnBytes | None = None) -> bytes:
    """A whole photograph of ``size`` bytes (0: any number). Raises TooLarge above `MAX_BYTES`, without reading more,
    and RemoteUnavailable."""

    def check(declared: int, received: int) -> None:
        count = max(declared, received)
        if count > MAX_BYTES:
            raise TooLarge(f"more than {MAX_BYTES:,} bytes")
        if on_bytes:
            on_bytes(count)

    return _get(fs, path, size, check)


def _get(fs: Any, path: str, size: int, check: Callable[[int, int], None], start: int | None = None) -> bytes:
    """A file of ``size`` bytes (0: any number), or so many of its bytes from ``start`` on. ``check`` gets the declared
    and the received bytes, first before the body, and may raise to stop."""
    from fsspec.callbacks import Callback

    part = {} if start is None else {"start": start, "end": start + size}
    headers = {} if start is None else {"headers": {"Range": f"bytes={start}-{start + size - 1}"}}

    def get() -> bytes:
        if "http" in fs.protocol:  # fsspec's cat_file would read the whole file if the server sent that
            sink = io.BytesIO()
            callback = Callback(hooks={"check": lambda size, value, **_: check(size or 0, value)})
            _in_time(fs, fs._get_file(path, sink, callback=callback, **headers), received=sink.tell)
            data = sink.getvalue()
        else:
            expected = size or _file_size(fs, path) or 0
            check(expected, 0)
            if getattr(fs, "async_impl", False):  # no progress is reported: as long as the slowest connection may take
                seconds = slow_seconds() + expected / SLOWEST_BYTES
                data = _in_time(fs, fs._cat_file(path, **part), seconds=seconds)
            else:
                data = fs.cat_file(path, **part)
        if size and len(data) != size:
            raise OSError(f"got {len(data):,} of {size:,} bytes")
        return data

    return retry(get)


def fetch_url(url: str, on_bytes: OnBytes | None = None) -> bytes:
    """A photograph whose URL is in a table; raises as `fetch`, and ValueError for another kind of URL. Tables may come
    from anyone, so it may name neither files of this machine nor, without ``FACEGAN_PRIVATE_URLS=allow``, servers of
    its network."""
    protocol = url.partition("://")[0].lower()
    if protocol not in _PROTOCOLS:
        raise ValueError(f"a URL of another kind than {', '.join(_PROTOCOLS)}")
    guarded = protocol in ("http", "https") and os.environ.get(PRIVATE_VARIABLE) != "allow"
    fs, path = filesystem(url, **({"get_client": _public_client} if guarded else {}))
    return fetch(fs, path, on_bytes=on_bytes)


def _file_size(fs: Any, path: str) -> int | None:
    """None if its file system does not know."""
    info = _in_time(fs, fs._info(path)) if getattr(fs, "async_impl", False) else fs.info(path)
    return None if info["size"] is None else int(info["size"])


def _in_time(
    fs: Any, request: Coroutine[Any, Any, Any], received: Callable[[], int] = lambda: 0, seconds: float | None = None
) -> Any:
    """The result of a request to an asynchronous file system, including name lookup, redirects and headers.

    The bytes ``received`` so far must grow at `SLOWEST_BYTES` a second in every window of ``seconds``, or it raises
    RemoteUnavailable. That is not retried: it would take as long each time.
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
            if (now := received()) - before < SLOWEST_BYTES * seconds:
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
    """Whether an address, and the IPv4 address in it that a gateway would reach, are public; no 6to4 or ISATAP is."""
    host = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(host, ipaddress.IPv4Address):
        return host.is_global and not host.is_multicast
    if any(host in network for network in _IPV4_IN_IPV6):
        return is_public(str(ipaddress.IPv4Address(int(host) & 0xFFFFFFFF)))
    is_isatap = int(host) >> 32 & 0xFDFFFFFF == 0x5EFE  # RFC 5214, 6.1: 0:5efe before the IPv4 address
    return host in _UNICAST and host.is_global and not host.sixtofour and not is_isatap


class UrlReader(Reader):
    """A `RemoteReader` of the photographs whose URLs ``urls`` reads."""

    def __init__(self, urls: Reader) -> None:
        self._urls = urls

    def read(self, entry: Entry) -> bytes:
        return self.request(entry)(None)

    def request(self, entry: Entry) -> Request:
        return functools.partial(fetch_url, self._urls.read(entry).decode("utf-8", "surrogateescape"))

    def close(self) -> None:
        self._urls.close()


class ObjectReader(Reader):
    """A `RemoteReader` of the objects below a URL, or of an archive's members if entries have an offset in it."""

    def __init__(self, where: str) -> None:
        self._where = where
        filesystem(where)

    def read(self, entry: Entry) -> bytes:
        return self._fetch(entry, None)

    def request(self, entry: Entry) -> Request:
        return functools.partial(self._fetch, entry)

    def _fetch(self, entry: Entry, on_bytes: OnBytes | None) -> bytes:
        fs, path = filesystem(self._where)  # per thread, if its protocol's library needs that
        if not entry.locator:
            name = entry.name.decode("utf-8", "surrogateescape")
            return fetch(fs, f"{path.rstrip('/')}/{name}", entry.size, on_bytes)
        start, size = entry.locator[0], min(entry.size, MAX_BYTES + 1)
        if on_bytes:
            on_bytes(size)
        return read_range(fs, path, start, start + size)


@dataclass(frozen=True)
class SourceFile:
    """A local or remote file of a source; remote ones are read by ranges."""

    where: str
    max_ratio: int = MAX_RATIO  # of its unpacked bytes to its own
    copy: BinaryIO | None = None  # the downloaded file, if its server does not support ranges

    @staticmethod
    def find(where: str, max_ratio: int = MAX_RATIO) -> SourceFile:
        """A file by path or URL. It is downloaded now if its server does not support ranges; raises DiskError if it
        does not fit."""
        try:
            if is_url(where):
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
        if self.copy:  # has one offset, so it is read by one reader at a time
            file = os.fdopen(os.dup(self.copy.fileno()), "rb")
            file.seek(0)
            return file
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


def _open_ranges(url: str) -> BinaryIO:
    """Raises NoRanges if the server does not support ranges or does not know the file's size."""
    from fsspec.spec import AbstractBufferedFile

    fs, path = filesystem(url)
    fs.invalidate_cache()
    size = retry(lambda: _file_size(fs, path))
    if size is None:
        raise NoRanges("its server does not report its size")
    if is_http(url) and size > 1:
        read_range(fs, path, 0, 1)

    class Ranges(AbstractBufferedFile):
        def _fetch_range(self, start: int, end: int) -> bytes:
            return read_range(fs, path, start, min(end, size))

    file: Any = Ranges(fs, path, size=size, cache_type="none")
    return io.BufferedReader(file, _BUFFER_BYTES)


def _download(url: str) -> BinaryIO:
    """A temporary file without a name, so that a killed process leaves nothing."""
    fs, path = filesystem(url)
    size = retry(lambda: _file_size(fs, path))
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

"""Bytes from fsspec's file systems: parts of files, whole photographs, whole archives; never more than asked for."""

from __future__ import annotations

import asyncio
import io
import ipaddress
import os
import shutil
import socket
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import wait
from pathlib import Path
from typing import Any, BinaryIO

from facegan.errors import DiskError
from facegan.files import disk_errors, human_bytes
from facegan.prep.sources.base import MAX_BYTES, Room
from facegan.remote import SLOWEST_BYTES, TooLarge, Unreachable, filesystem, patiently, slow_seconds, too_slow

PRIVATE_VARIABLE = "FACEGAN_PRIVATE_URLS"  # in the environment: "allow"
_PROTOCOLS = ("http", "https", "s3", "gs", "gcs", "hf")  # a table may not make us read this machine's own files


class NoParts(Unreachable):
    """Its server gives whole files only."""


def read_range(fs: Any, path: str, start: int, end: int) -> bytes:
    """Bytes ``start`` … ``end`` of a remote file, all of them.

    Raises:
        NoParts: more came than was asked for.
        Unreachable: they can't be had.
    """

    def read() -> bytes:
        if _is_http(fs):  # fsspec would take in the whole file, whatever its size, where the server sends that
            sink = _Sink(end - start, NoParts("its server does not give parts of files"))
            _in_time(fs, fs._get_file(path, sink, headers={"Range": f"bytes={start}-{end - 1}"}), came=sink.tell)
            data = sink.getvalue()
        else:
            data = _cat(fs, path, end - start, start=start, end=end)
        if len(data) != end - start:
            raise OSError(f"{len(data):,} of {end - start:,} bytes came")
        return data

    return patiently(read) if end > start else b""


def any_number(taken: int) -> None:
    """Room for whatever a photograph may have."""


def fetch(fs: Any, path: str, size: int = 0, room: Room = any_number) -> bytes:
    """A photograph, whole.

    Args:
        size: that was told before; 0 where none was.

    Raises:
        TooLarge: it has more than `MAX_BYTES`, or than there is room for; no more than those were fetched.
        Unreachable: it can't be had.
    """

    too_large = TooLarge(f"more than {MAX_BYTES:,} bytes")

    def refuse(told: int) -> None:
        if told > MAX_BYTES:
            raise too_large
        room(told)

    def read() -> bytes:
        if _is_http(fs):
            sink = _Sink(MAX_BYTES, too_large, room)
            _in_time(fs, fs._get_file(path, sink, callback=_Told(refuse)), came=sink.tell)
            data = sink.getvalue()
        else:
            told = size or file_size(fs, path) or 0
            refuse(told)
            data = _cat(fs, path, told)
        if size and len(data) != size:
            raise OSError(f"{len(data):,} of {size:,} bytes came")
        return data

    return patiently(read)


def fetch_told(url: str, room: Room = any_number) -> bytes:
    """A photograph whose URL stands in a table, which may come from anywhere: neither files of this machine nor, unless
    ``FACEGAN_PRIVATE_URLS=allow`` stands in the environment, servers of this machine's own network are read.

    Raises:
        ValueError: a URL of another kind.
        TooLarge, Unreachable: as `fetch` does.
    """
    protocol = url.partition("://")[0].lower()
    if protocol not in _PROTOCOLS:
        raise ValueError(f"a URL of another kind than {', '.join(_PROTOCOLS)}")
    guarded = protocol in ("http", "https") and os.environ.get(PRIVATE_VARIABLE) != "allow"
    fs, path = filesystem(url, **({"get_client": _public_client} if guarded else {}))
    return fetch(fs, path, room=room)


def fetch_whole(url: str, file: BinaryIO, folder: Path) -> None:
    """Writes a remote file of any size into an open file, which lies in ``folder``, the one for temporary files.

    Raises:
        DiskError: it does not fit.
        Unreachable: it can't be had.
    """
    fs, path = filesystem(url)
    room = shutil.disk_usage(folder).free * 9 // 10

    def refuse_if_it_does_not_fit(size: int) -> None:
        if size > room:
            raise DiskError(
                f"{url}: its server gives no parts of files, and {folder} has no room for all of it "
                f"({human_bytes(size)}).\nMake room, or name another folder for temporary files with TMPDIR=FOLDER."
            )

    def read() -> None:
        file.seek(0)
        file.truncate()
        with disk_errors(folder):
            told = _Told(refuse_if_it_does_not_fit, lambda: refuse_if_it_does_not_fit(file.tell()))
            if _is_http(fs):
                _in_time(fs, fs._get_file(path, file, callback=told), came=file.tell)
            else:
                fs.get_file(path, file, callback=told)

    patiently(read)
    file.seek(0)


def _is_http(fs: Any) -> bool:
    return "http" in fs.protocol


def file_size(fs: Any, path: str) -> int | None:
    """As its file system tells it; None where it does not."""
    info = _in_time(fs, fs._info(path)) if getattr(fs, "async_impl", False) else fs.info(path)
    return None if info["size"] is None else int(info["size"])


def _cat(fs: Any, path: str, size: int, **part: int) -> bytes:
    """A file of a protocol that does not tell how much has come: it has as long as the slowest connection takes."""
    if not getattr(fs, "async_impl", False):
        return fs.cat_file(path, **part)
    return _in_time(fs, fs._cat_file(path, **part), seconds=slow_seconds() + size / SLOWEST_BYTES)


def _in_time(
    fs: Any, request: Coroutine[Any, Any, Any], came: Callable[[], int] | None = None, seconds: float | None = None
) -> Any:
    """What a request to an asynchronous file system gives, from its first step (names, redirects, headers) to the end.

    Args:
        came: how many bytes came until now; every ``seconds`` that have to be more.

    Raises:
        Unreachable: it takes too long. It is not tried again: that would take as long each time.
    """
    seconds, before = seconds or slow_seconds(), 0
    connect = getattr(fs, "set_session", None)
    begun = threading.Event()

    async def answered() -> Any:
        try:
            if connect:
                await connect()
            begun.set()
            return await request
        finally:
            request.close()
            begun.set()

    future = asyncio.run_coroutine_threadsafe(answered(), fs.loop)
    try:
        begun.wait()  # the first time libraries are loaded: that is not the server's time
        while not wait([future], seconds).done:
            now = came() if came else 0
            if now - before < SLOWEST_BYTES * seconds:
                raise too_slow()
            before = now
        return future.result()
    finally:
        future.cancel()


class _Sink(io.BytesIO):
    """Takes so many bytes, and at the next one raises."""

    def __init__(self, limit: int, beyond: Exception, room: Room = any_number) -> None:
        super().__init__()
        self._limit, self._beyond, self._room = limit, beyond, room

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self._limit:
            raise self._beyond
        self._room(self.tell() + len(data))
        return super().write(data)


class _Told:
    """Hears the length that a server tells before the first byte, and of each piece: what fsspec's http asks of a
    callback."""

    def __init__(self, heard: Callable[[int], None], piece: Callable[[], None] = lambda: None) -> None:
        self._heard, self._piece = heard, piece

    def set_size(self, size: int | None) -> None:
        if size is not None:
            self._heard(size)

    def relative_update(self, more: int) -> None:
        self._piece()


async def _public_client(**settings: Any) -> Any:
    """A client that opens no connection into this machine's own network, by whatever name or redirection."""
    import aiohttp

    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=_public_socket), **settings)


def _public_socket(found: tuple[Any, ...]) -> socket.socket:
    """The socket for an address. It is asked for after names are resolved, for each redirect again, and connected to
    that address."""
    family, kind, protocol, _, address = found
    if not is_public(address[0]):
        raise Unreachable(f"{address[0]} is no public address; {PRIVATE_VARIABLE}=allow in the environment lets it in")
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)
    return made


def is_public(address: str) -> bool:
    """Whether an address is one of the public internet, and so is the IPv4 address in it that a gateway would reach."""
    host = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(host, ipaddress.IPv4Address):
        return host.is_global and not host.is_multicast
    last = ipaddress.IPv4Address(int(host) & 0xFFFFFFFF)
    if any(host in network for network in _IPV4_IN_IPV6):
        return is_public(str(last))
    is_isatap = int(host) >> 32 & 0xFDFFFFFF == 0x5EFE  # RFC 5214, 6.1: behind any prefix 0:5efe and the IPv4 address
    inner = [ipv4 for ipv4 in (host.sixtofour, last if is_isatap else None) if ipv4]
    return host in _UNICAST and host.is_global and all(is_public(str(ipv4)) for ipv4 in inner)


# IPv4-mapped addresses (RFC 4291, 2.5.5.2), which the system reaches by IPv4, and NAT64's (RFC 6052, 2.1).
_IPV4_IN_IPV6 = [ipaddress.IPv6Network("::ffff:0:0/96"), ipaddress.IPv6Network("64:ff9b::/96")]
_UNICAST = ipaddress.IPv6Network("2000::/3")  # all that is given out; ipaddress calls more global, site-local ones too

"""Bytes from fsspec's file systems: parts of files, whole photographs, whole archives; never more than asked for."""

from __future__ import annotations

import io
import ipaddress
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from facegan.errors import DiskError
from facegan.files import disk_errors, human_bytes
from facegan.prep.sources.base import MAX_BYTES, Room
from facegan.remote import TooLarge, Unreachable, filesystem, patiently

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
            fs.get_file(path, sink, headers={"Range": f"bytes={start}-{end - 1}"})
            data = sink.getvalue()
        else:
            data = fs.cat_file(path, start=start, end=end)
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
            fs.get_file(path, sink, callback=_Told(refuse))
            data = sink.getvalue()
        else:
            refuse(size or int(fs.info(path)["size"] or 0))
            data = fs.cat_file(path)
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

    def refuse_if_it_does_not_fit(told: int) -> None:
        if told > shutil.disk_usage(folder).free:
            raise DiskError(
                f"{url}: its server gives no parts of files, and {folder} has no room for all of it "
                f"({human_bytes(told)}).\nMake room, or name another folder for temporary files with TMPDIR=FOLDER."
            )

    def read() -> None:
        file.seek(0)
        file.truncate()
        with disk_errors(folder):
            fs.get_file(path, file, callback=_Told(refuse_if_it_does_not_fit))

    patiently(read)
    file.seek(0)


def _is_http(fs: Any) -> bool:
    return "http" in fs.protocol


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
    """Hears the length that a server tells before the first byte: what fsspec's http asks of a callback."""

    def __init__(self, heard: Callable[[int], None]) -> None:
        self._heard = heard

    def set_size(self, size: int | None) -> None:
        if size is not None:
            self._heard(size)

    def relative_update(self, more: int) -> None:
        pass


async def _public_client(**settings: Any) -> Any:
    """A client that opens no connection into this machine's own network, by whatever name or redirection."""
    import aiohttp

    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=_public_socket), **settings)


def _public_socket(found: tuple[Any, ...]) -> socket.socket:
    """The socket for an address, asked for when names are resolved and it is about to be connected."""
    family, kind, protocol, _, address = found
    host = ipaddress.ip_address(address[0].partition("%")[0])
    if isinstance(host, ipaddress.IPv6Address):
        host = host.ipv4_mapped or host.sixtofour or host
    if not host.is_global:
        raise Unreachable(f"{address[0]} is no public address; {PRIVATE_VARIABLE}=allow in the environment lets it in")
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)
    return made

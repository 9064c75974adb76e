"""Folders of photographs behind fsspec URLs."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import hashlib
import io
import ipaddress
import os
import shutil
import socket
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from facegan.errors import DiskError
from facegan.files import atomic_write, disk_errors, human_bytes
from facegan.prep.sources.base import MAX_BYTES, Entry, Request, Room, is_photo, suffix
from facegan.prep.sources.stylegan_labels import LABELS_FILE, StyleGANLabels
from facegan.prep.temp_database import TempDatabase
from facegan.remote import (
    SLOWEST_BYTES,
    RemoteUnavailable,
    TooLarge,
    filesystem,
    is_http,
    is_url,
    retry,
    slow_seconds,
    too_slow,
    without_query,
)
from facegan.shards.format import DATASET_FILE, PHOTOS_FILE, STATE_FOLDER
from facegan.unpack import MAX_RATIO, Bounds

# Bytes from fsspec's file systems: parts of files, whole photographs, whole archives; never more than asked for.

PRIVATE_VARIABLE = "FACEGAN_PRIVATE_URLS"  # in the environment: "allow"
_PROTOCOLS = ("http", "https", "s3", "gs", "gcs", "hf")  # a table may not make us read this machine's own files


class NoParts(RemoteUnavailable):
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

    return retry(read) if end > start else b""


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
            _in_time(fs, fs._get_file(path, sink, callback=_SizeCallback(refuse)), came=sink.tell)
            data = sink.getvalue()
        else:
            told = size or file_size(fs, path) or 0
            refuse(told)
            data = _cat(fs, path, told)
        if size and len(data) != size:
            raise OSError(f"{len(data):,} of {size:,} bytes came")
        return data

    return retry(read)


def fetch_sized(url: str, room: Room = any_number) -> bytes:
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
            told = _SizeCallback(refuse_if_it_does_not_fit, lambda: refuse_if_it_does_not_fit(file.tell()))
            if _is_http(fs):
                _in_time(fs, fs._get_file(path, file, callback=told), came=file.tell)
            else:
                fs.get_file(path, file, callback=told)

    retry(read)
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


class _SizeCallback:
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
        raise RemoteUnavailable(
            f"{address[0]} is no public address; {PRIVATE_VARIABLE}=allow in the environment lets it in"
        )
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


# A file that a source is read from: here, or behind an fsspec URL.

_BUFFER_BYTES = 1 << 20  # of a remote file, fetched at once
_MARK_BYTES = 1 << 16


@dataclass(frozen=True)
class SourceFile:
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
        pieces = _RangeReader(os.fstat(number).st_size, lambda start, end: os.pread(number, max(0, end - start), start))
        return io.BufferedReader(pieces, _BUFFER_BYTES)

    def in_parts(self, folder: Path) -> SourceFile:
        """Itself; or where its server does not give parts of files what was fetched of it, in ``folder``: each process
        that reads photographs would fetch it again."""
        if not is_http(self.where):
            return self
        self.open().close()
        whole = _whole.pop(self.where, None)
        if whole is None:
            return self
        path = folder / f"{hashlib.sha256(self.where.encode()).hexdigest()[:16]}-{self.name}"
        with whole, atomic_write(path) as copy:
            whole.seek(0)
            shutil.copyfileobj(whole, copy, _BUFFER_BYTES)
        return SourceFile(str(path), self.max_ratio)

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


class _RangeReader(io.RawIOBase):
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


def _remote(url: str) -> _RangeReader:
    """A file behind a URL, read by ranges, each of them patiently.

    Raises:
        NoParts: they can't be had.
    """
    fs, path = filesystem(url)
    fs.invalidate_cache()
    size = retry(lambda: file_size(fs, path))
    if size is None:
        raise NoParts("its server does not tell how long it is")
    if is_http(url) and size > 1:
        read_range(fs, path, 0, 1)
    return _RangeReader(size, lambda start, end: read_range(fs, path, start, end))


def _fetched(url: str) -> BinaryIO:
    with contextlib.ExitStack() as failing:
        file = failing.enter_context(tempfile.TemporaryFile())
        fetch_whole(url, file, Path(tempfile.gettempdir()))
        failing.pop_all()
        return file


_CACHE_KB = 8_000
_PAGE_KEYS = 1000  # no server gives more


@dataclass(frozen=True)
class RemoteFolder:
    """All objects below an fsspec URL (``s3://bucket/photos``, ``hf://datasets/…``, ``memory://photos``)."""

    where: str

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        fs, top = filesystem(self.where)
        fs.invalidate_cache()
        with contextlib.closing(TempDatabase("CREATE TABLE found (name BLOB, size INTEGER)", _CACHE_KB)) as db:
            found = _Found()
            db.many("INSERT INTO found VALUES (?, ?)", found.heard(_listed(fs, top)))
            datasets = found.datasets()
            with contextlib.closing(self._labels(found.has_labels)) as labels:
                for name, size in db.rows("SELECT name, size FROM found ORDER BY rowid"):
                    if name.startswith(datasets):
                        continue
                    if is_photo(name):
                        yield Entry(name, size, label=labels.of(name))
                    else:
                        ignored[suffix(name)] += 1

    def _labels(self, there: bool) -> StyleGANLabels:
        if not there:
            return StyleGANLabels(None)
        with SourceFile(f"{self.where.rstrip('/')}/{LABELS_FILE}").open() as file:
            return StyleGANLabels(file)

    def marks(self) -> tuple[str, ...]:
        return ()

    def unpacked(self, folder: Path) -> RemoteFolder:
        return self

    def reader(self) -> RemoteReader:
        return RemoteReader(self.where)


def _listed(fs: Any, top: str) -> Iterator[tuple[str, int]]:
    """Names below ``top``, and sizes."""
    prefix = fs._strip_protocol(top).rstrip("/") + "/"
    pages = _pages(fs, prefix) if hasattr(fs, "call_s3") else iter([retry(lambda: fs.find(top, detail=True))])
    for page in pages:
        for path, info in page.items():
            yield path.removeprefix(prefix), int(info.get("size") or 0)


def _pages(fs: Any, prefix: str) -> Iterator[dict[str, Any]]:
    """Objects of S3 a thousand at a time: s3fs would gather, and keep, more than a kilobyte about each of them."""
    bucket, _, below = prefix.partition("/")
    asked: dict[str, Any] = {"Bucket": bucket, "Prefix": below, "MaxKeys": _PAGE_KEYS}
    while True:
        page = retry(lambda: fs.call_s3("list_objects_v2", **asked))
        yield {
            f"{bucket}/{told['Key']}": {"size": told["Size"]}
            for told in page.get("Contents", ())
            if not told["Key"].endswith("/")  # consoles make such for folders
        }
        if not page.get("IsTruncated"):
            return
        asked["ContinuationToken"] = page["NextContinuationToken"]


class _Found:
    """Hears of every name, and keeps what it needs to tell photographs from datasets of facegan's."""

    def __init__(self) -> None:
        self._begun: set[str] = set()
        self._tables: set[str] = set()
        self._told: set[str] = set()
        self.has_labels = False

    def heard(self, names: Iterator[tuple[str, int]]) -> Iterator[tuple[bytes, int]]:
        inside = f"/{STATE_FOLDER}/"
        for name, size in names:
            if inside in name:
                self._begun.add(name[: name.find(inside) + 1])
            elif name.endswith(f"/{PHOTOS_FILE}"):
                self._tables.add(name.removesuffix(PHOTOS_FILE))
            elif name.endswith(f"/{DATASET_FILE}"):
                self._told.add(name.removesuffix(DATASET_FILE))
            self.has_labels |= name == LABELS_FILE
            yield name.encode("utf-8", "surrogateescape"), size

    def datasets(self) -> tuple[bytes, ...]:
        """Folders that hold a dataset, or the beginnings of one."""
        return tuple(name.encode("utf-8", "surrogateescape") for name in self._begun | (self._tables & self._told))


class RemoteReader:
    """Whole objects below a URL, each tried again when it fails, its size checked against the listing's."""

    def __init__(self, where: str) -> None:
        self._where = where
        filesystem(where)

    def read(self, entry: Entry) -> bytes:
        return self._fetched(entry, any_number)

    def request(self, entry: Entry) -> Request:
        return functools.partial(self._fetched, entry)

    def _fetched(self, entry: Entry, room: Room) -> bytes:
        fs, top = filesystem(self._where)  # this thread's own, where its protocol's library needs that
        return fetch(fs, top.rstrip("/") + "/" + entry.name.decode("utf-8", "surrogateescape"), entry.size, room)

    def close(self) -> None:
        pass

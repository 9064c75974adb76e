"""fsspec URLs: file systems with timeouts, one retry loop, one downloader."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from facegan.errors import FaceganError, SourceError
from facegan.files import human_bytes

RETRY_VARIABLE = "FACEGAN_RETRY_SECONDS"  # environment variables, so that every worker has them
TIMEOUT_VARIABLE = "FACEGAN_TIMEOUT_SECONDS"
_WAITS_SECONDS = "0.2,1,4"  # before each further attempt
_TIMEOUT_SECONDS = 30.0  # a connection without a byte for so long is dropped
_SILENT_TIMEOUTS = 3  # for protocols whose libraries have no timeouts
_POLL_SECONDS = 0.1
MOST_REQUESTS = 100  # at once in a process: aiohttp opens no more connections, and waiting for one counts as silence
FETCH_AHEAD = 64  # concurrent requests of each prep worker
_S3 = ("s3", "s3a")
_RETRYABLE_STATUS = (408, 425, 429)  # a busy server; other 4xx are final

SLOWEST_BYTES = 1000  # a second; a slower connection is dropped after `slow_seconds`
_SLOW_TIMEOUTS = 4

T = TypeVar("T")


class RemoteUnavailable(Exception):
    """A remote file cannot be read now; it may be available later."""


class TooLarge(Exception):
    """A photograph has more bytes than the limit."""


def is_url(text: str) -> bool:
    return "://" in text


def is_http(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def without_query(text: str) -> str:
    """A web address without query and fragment; any other text unchanged."""
    return re.split(r"[?#]", text, maxsplit=1)[0] if is_http(text) else text


def filesystem(url: str, **more: Any) -> tuple[Any, str]:
    """fsspec's file system for a URL (with more settings for it), and the path in it."""
    import fsspec
    from fsspec.config import conf

    protocol = url.partition("://")[0]
    try:
        given = conf.get(protocol, {})  # the user's settings for this protocol override ours
        fs, path = fsspec.core.url_to_fs(url, **{**_options(protocol), **more, **given})
    except ImportError as error:
        extra = protocol.replace("https", "http")
        why = f"{url} needs a package that is not installed ({error})"
        raise SourceError(f"{why}: pip install 'facegan[{extra}]'") from None
    except ValueError as error:
        raise SourceError(f"{url}: {error}") from None
    if protocol in _S3:
        fs.retries = 1  # `retry` retries; both together would make twenty attempts
    return fs, path


def _options(protocol: str) -> dict[str, Any]:
    """Timeouts for silent connections: by default the libraries wait for minutes, or forever."""
    seconds = timeout_seconds()
    if protocol in _S3:
        once = {"retries": {"max_attempts": 0}, "max_pool_connections": MOST_REQUESTS}
        return {"config_kwargs": {"connect_timeout": seconds, "read_timeout": seconds, **once}}
    if protocol in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, connect=seconds, sock_read=seconds)
        # With compressed bodies Content-Length would not be the file's size.
        return {"client_kwargs": {"timeout": timeout, "headers": {"Accept-Encoding": "identity"}}}
    return {"auto_mkdir": True} if protocol in ("file", "local") else {}


def timeout_seconds() -> float:
    """How long a connection may send nothing."""
    return float(os.environ.get(TIMEOUT_VARIABLE) or _TIMEOUT_SECONDS)


def slow_seconds() -> float:
    """How long a connection may send less than `SLOWEST_BYTES` a second: a slow drip is never silent."""
    return _SLOW_TIMEOUTS * timeout_seconds()


def too_slow() -> RemoteUnavailable:
    limit = f"{slow_seconds():g} seconds ({TIMEOUT_VARIABLE} is a quarter of it)"
    return RemoteUnavailable(f"less than {SLOWEST_BYTES:,} bytes a second came for {limit}")


def silence_seconds() -> float:
    """How long any transfer may make no progress; longer than the libraries' own timeouts."""
    return _SILENT_TIMEOUTS * timeout_seconds()


def download(
    fs: Any, path: str, target: Path, limit_bytes: int | None = None, stopped: threading.Event | None = None
) -> None:
    """Download one file to ``target`` (overwritten), in a thread that can be abandoned if its library never returns.

    Raises RemoteUnavailable, where retrying cannot help, if more than ``limit_bytes`` came, or too slowly, or
    ``stopped`` was set; OSError without progress for too long; and whatever the protocol's library raises.
    """

    def check_limit(received: int) -> None:
        if limit_bytes is not None and received > limit_bytes:
            raise RemoteUnavailable(f"the server sends more than {human_bytes(limit_bytes)}")

    transfer = _Transfer(fs, path, target)
    transfer.start()
    size, since = -1, time.monotonic()
    window_bytes, window_start = 0, since
    try:
        while not transfer.ended.wait(_POLL_SECONDS):
            if stopped and stopped.is_set():
                raise RemoteUnavailable("stopped")
            now = max(transfer.received, target.stat().st_size if target.exists() else 0)
            check_limit(now)
            if now != size:
                size, since = now, time.monotonic()
            elif time.monotonic() - since > silence_seconds():
                raise OSError(f"no data for {silence_seconds():g} seconds")
            if time.monotonic() - window_start > slow_seconds():
                if now - window_bytes < SLOWEST_BYTES * slow_seconds():
                    raise too_slow()
                window_bytes, window_start = now, time.monotonic()
    finally:
        transfer.abandoned = True
    if transfer.error:
        raise transfer.error
    check_limit(target.stat().st_size)


class _Transfer(threading.Thread):
    """``fs.get_file`` in a daemon thread."""

    def __init__(self, fs: Any, path: str, target: Path) -> None:
        super().__init__(name="download", daemon=True)
        self.received, self.abandoned, self.ended = 0, False, threading.Event()
        self.error: BaseException | None = None
        self._fs, self._path, self._file = fs, path, target

    def run(self) -> None:
        from fsspec.callbacks import Callback

        try:
            self._fs.get_file(self._path, str(self._file), callback=Callback(hooks={"received": self._on_update}))
        except BaseException as error:  # raised again by the thread that waits
            self.error = error
        finally:
            self.ended.set()

    def _on_update(self, _size: int | None, value: int, **_more: Any) -> None:
        self.received = value
        if self.abandoned:
            raise OSError("abandoned")


def retry(read: Callable[[], T]) -> T:
    """Call ``read`` until it succeeds, a few times, or raise `RemoteUnavailable`. Waits get longer and respect a
    server's Retry-After, up to the timeout."""
    waits = (os.environ.get(RETRY_VARIABLE) or _WAITS_SECONDS).split(",")
    for wait in (*map(float, waits), None):
        try:
            return read()
        except (RemoteUnavailable, TooLarge, FaceganError):
            raise
        except Exception as error:  # each protocol's library has its own errors, few of them OSErrors
            if wait is None or _is_final(error):
                text = f"{type(error).__name__}: {error}" + (f" ({error.__cause__!r})" if error.__cause__ else "")
                raise RemoteUnavailable(text.splitlines()[0][:300]) from error
            time.sleep(max(wait, min(_retry_after_seconds(error), timeout_seconds())))
    raise AssertionError("unreachable code")


def _is_final(error: Exception) -> bool:
    """Whether the server answered that the file does not exist, or that we may not read it."""
    cause = error.__cause__  # fsspec's http raises FileNotFoundError for any fault, from the actual one
    for fault in (error, cause):
        if isinstance(status := getattr(fault, "status", None), int):
            return 400 <= status < 500 and status not in _RETRYABLE_STATUS
    return isinstance(error, FileNotFoundError | PermissionError) and (cause is None or hasattr(cause, "response"))


def _retry_after_seconds(error: Exception) -> float:
    """A busy server's ``Retry-After`` (RFC 9110, 10.2.3); 0 without one."""
    value = str((getattr(error, "headers", None) or {}).get("Retry-After", ""))
    return float(value) if value.isascii() and value.isdigit() else 0.0


@contextlib.contextmanager
def as_source_error(where: str) -> Iterator[None]:
    """Turn `RemoteUnavailable` into `SourceError`, for files that a run cannot do without."""
    try:
        yield
    except RemoteUnavailable as error:
        raise SourceError(f"{where} is unavailable: {error}") from None

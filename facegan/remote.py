"""Files behind an fsspec URL, asked for patiently: what fails is tried again, with longer and longer waits."""

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

RETRY_VARIABLE = "FACEGAN_RETRY_SECONDS"  # in the environment, and so in every worker's
TIMEOUT_VARIABLE = "FACEGAN_TIMEOUT_SECONDS"
_WAITS_SECONDS = "0.2,1,4"  # before each further try at something remote
_TIMEOUT_SECONDS = 30.0  # without a byte, and a connection is given up
_SILENCE = 3  # times the timeout, for protocols without timeouts of their own
_POLL_SECONDS = 0.1
MOST_REQUESTS = 100  # at once in a process: aiohttp holds no more connections, and waiting for one counts as silence
FETCH_AHEAD = 64  # requests at once of each process that prepares photographs
_S3 = ("s3", "s3a")
_RETRYABLE_STATUS = (408, 425, 429)  # answers of a server that is busy; other 4xx are final

SLOWEST_BYTES = 1000  # a second; a connection that gives less for so many timeouts is given up
_SLOW_TIMEOUTS = 4

T = TypeVar("T")


class RemoteUnavailable(Exception):
    """A remote file can't be had now."""


class TooLarge(Exception):
    """More bytes than are taken."""


def is_url(text: str) -> bool:
    return "://" in text


def is_http(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def without_query(text: str) -> str:
    """The part of a web address that names a file."""
    return re.split(r"[?#]", text, maxsplit=1)[0] if is_http(text) else text


def filesystem(url: str, **more: Any) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path in it.

    Args:
        more: settings of this file system.

    Raises:
        SourceError: a protocol that fsspec does not know, or whose package is not installed.
    """
    import fsspec
    from fsspec.config import conf

    protocol = url.partition("://")[0]
    try:
        given = conf.get(protocol, {})  # the user's own settings for this protocol come before ours
        fs, path = fsspec.core.url_to_fs(url, **{**_options(protocol), **more, **given})
    except ImportError as error:
        extra = protocol.replace("https", "http")
        raise SourceError(
            f"{url} needs a package that is not installed ({error}): pip install 'facegan[{extra}]'"
        ) from None
    except ValueError as error:
        raise SourceError(f"{url}: {error}") from None
    if protocol in _S3:
        fs.retries = 1  # `retry` tries again; both together would do so twenty times
    return fs, path


def _options(protocol: str) -> dict[str, Any]:
    """A connection that goes quiet is given up: the libraries would wait for minutes, or for ever."""
    seconds = timeout_seconds()
    if protocol in _S3:
        retries = {"max_attempts": 0}
        patience = {"connect_timeout": seconds, "read_timeout": seconds, "retries": retries}
        return {"config_kwargs": {**patience, "max_pool_connections": MOST_REQUESTS}}
    if protocol in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, connect=seconds, sock_read=seconds)
        # Packed on the way a body's length would say nothing.
        return {"client_kwargs": {"timeout": timeout, "headers": {"Accept-Encoding": "identity"}}}
    return {"auto_mkdir": True} if protocol in ("file", "local") else {}


def timeout_seconds() -> float:
    """How long a connection may go without a byte."""
    return float(os.environ.get(TIMEOUT_VARIABLE) or _TIMEOUT_SECONDS)


def slow_seconds() -> float:
    """How long a connection may give less than `SLOWEST_BYTES` a second: each byte of a slow drip ends a silence."""
    return _SLOW_TIMEOUTS * timeout_seconds()


def too_slow() -> RemoteUnavailable:
    return RemoteUnavailable(
        f"less than {SLOWEST_BYTES:,} bytes a second came for {slow_seconds():g} seconds "
        f"({TIMEOUT_VARIABLE} is a quarter of it)"
    )


def silence_seconds() -> float:
    """How long any transfer may go without progress. The libraries' own timeouts should come first."""
    return _SILENCE * timeout_seconds()


def download(
    fs: Any, path: str, target: Path, limit_bytes: int | None = None, stopped: threading.Event | None = None
) -> None:
    """Download one file. Not every fsspec protocol has timeouts, so it runs in a thread that may be abandoned.

    Args:
        target: is overwritten.
        stopped: once set, the download ends.

    Raises:
        OSError: no progress for too long, more than ``limit_bytes``, or stopped.
        Exception: whatever the protocol's library raises.
    """
    transfer = _Transfer(fs, path, target)
    size, since = -1, time.monotonic()
    window_bytes, window_start = 0, since
    try:
        while not transfer.ended.wait(_POLL_SECONDS):
            if stopped and stopped.is_set():
                raise RemoteUnavailable("stopped")
            now = max(transfer.received, target.stat().st_size if target.exists() else 0)
            if limit_bytes is not None and now > limit_bytes:
                raise OSError(f"the server sends more than {human_bytes(limit_bytes)}")
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
    if limit_bytes is not None and target.stat().st_size > limit_bytes:
        raise OSError(f"the server sends more than {human_bytes(limit_bytes)}")


class _Transfer:
    def __init__(self, fs: Any, path: str, target: Path) -> None:
        self.received, self.abandoned, self.ended = 0, False, threading.Event()
        self.error: BaseException | None = None
        self._fs, self._path, self._target = fs, path, target
        threading.Thread(target=self._run, name="download", daemon=True).start()

    def _run(self) -> None:
        try:
            self._fs.get_file(self._path, str(self._target), callback=self._callback())
        except BaseException as error:  # raised again by the thread that waits
            self.error = error
        finally:
            self.ended.set()

    def _callback(self) -> Any:
        from fsspec.callbacks import Callback

        transfer = self

        class Watch(Callback):
            def relative_update(self, inc: int = 1) -> None:
                transfer.received += inc
                if transfer.abandoned:
                    raise OSError("abandoned")

        return Watch()


def retry_waits() -> list[float]:
    """Seconds before each further try."""
    return [float(wait) for wait in (os.environ.get(RETRY_VARIABLE) or _WAITS_SECONDS).split(",")]


def retry(read: Callable[[], T]) -> T:
    """What ``read`` gives, tried several times with longer and longer waits: at least as long as a busy server asks
    for, if that is no longer than silence is borne.

    Raises:
        Unreachable: it is not there, may not be read, or failed every time.
    """
    for wait in (*retry_waits(), None):
        try:
            return read()
        except (RemoteUnavailable, TooLarge, FaceganError):
            raise
        except Exception as error:  # every protocol's library has errors of its own, few of them OSErrors
            if wait is None or _is_final(error):
                raise RemoteUnavailable(_error_text(error)) from error
            time.sleep(max(wait, min(_asked_to_wait(error), timeout_seconds())))
    raise AssertionError("unreachable code")


def _is_final(error: Exception) -> bool:
    """Whether the server has answered that there is no such thing, or that we may not have it."""
    cause = error.__cause__  # fsspec's http calls any fault a FileNotFoundError, and tells here which it was
    for told in (error, cause):
        if isinstance(status := getattr(told, "status", None), int):
            return 400 <= status < 500 and status not in _RETRYABLE_STATUS
    return isinstance(error, FileNotFoundError | PermissionError) and (cause is None or hasattr(cause, "response"))


def _asked_to_wait(error: Exception) -> float:
    """Seconds that a busy server names in ``Retry-After`` (RFC 9110, 10.2.3); 0 where it does not."""
    named = str((getattr(error, "headers", None) or {}).get("Retry-After", ""))
    return float(named) if named.isascii() and named.isdigit() else 0.0


def _error_text(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}" + (f" ({error.__cause__!r})" if error.__cause__ else "")
    return text.splitlines()[0][:300]


@contextlib.contextmanager
def as_source_error(where: str) -> Iterator[None]:
    """Turns `RemoteUnavailable` into `SourceError`: for what a run can't do without.

    Raises:
        SourceError: the source can't be had.
    """
    try:
        yield
    except RemoteUnavailable as error:
        raise SourceError(f"{where} can't be reached: {error}") from None

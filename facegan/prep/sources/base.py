"""What every source of photographs has in common: entries, what counts as a photograph, where bytes lie."""

from __future__ import annotations

import contextlib
import lzma
import os
import re
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from facegan.errors import FaceganError, SourceError
from facegan.shards.layout import has_photo_suffix

MAX_BYTES = 1 << 29  # of one photograph's file; a larger one is too_large without being read
RETRY_VARIABLE = "FACEGAN_RETRY_SECONDS"  # in the environment, and so in every worker's
TIMEOUT_VARIABLE = "FACEGAN_TIMEOUT_SECONDS"
_WAITS_SECONDS = "0.2,1,4"  # before each further try at something remote
_TIMEOUT_SECONDS = 30.0  # without a byte, and a connection is given up
_S3 = ("s3", "s3a")
_COME_AGAIN = (408, 425, 429)  # answers of a server that is busy; other 4xx are final

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
        TooLarge: there are more of them than a photograph may have.
        Exception: one of `DAMAGED`: they are there, and damaged.
    """

    def read(self, entry: Entry) -> bytes: ...

    def close(self) -> None: ...


class Unreachable(Exception):
    """A photograph's bytes can't be had now."""


class TooLarge(Exception):
    """A photograph has more than `MAX_BYTES`."""


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
        except (Unreachable, TooLarge, FaceganError):
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

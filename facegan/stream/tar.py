"""The images of a tar shard that facegan did not make: a file, a URL or the output of a command, read within bounds."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import re
import select
import signal
import subprocess
import tarfile
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from facegan.files import TEMPORARY, human_bytes, make_folder, user_cache
from facegan.plugins import PIPE, command_environment
from facegan.remote import TIMEOUT_VARIABLE, download, filesystem, is_url, retry, timeout_seconds
from facegan.unpack import MAX_PHOTO_BYTES, BoundedFile, Bounds

IMAGE_SUFFIXES = ("png", "jpg", "jpeg", "webp")
_META = re.compile(r"__[^/]*__($|/)")  # webdataset's own notes
_OPENERS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}  # by their first bytes
_GRACE_SECONDS = 1.0  # from SIGTERM to SIGKILL
_SILENCE = 10  # times the connection timeout: a command may have something to prepare


def tar_images(url: str, stopped: threading.Event) -> Generator[dict[str, Any], None, None]:
    """``fname`` and ``data`` of each image, as webdataset's ``group_by_keys`` expects them.

    ``stopped``, set from another thread, ends the wait for a command or a server.
    """
    with _open(url, stopped) as stream:
        packed = _CountedReader(stream)
        opener = next((opener for magic, opener in _OPENERS.items() if packed.start.startswith(magic)), None)
        plain = BoundedFile(
            opener(packed) if opener else packed,
            lambda at: Bounds(url, packed.count, remedy="Unpack it yourself if you trust it.").check_bytes(at),
        )
        with tarfile.open(fileobj=cast(BinaryIO, plain), mode="r|") as archive:
            for member in archive:
                is_image = member.name.rpartition(".")[2].lower() in IMAGE_SUFFIXES and not _META.match(member.name)
                if is_image and member.isreg() and not member.issparse():
                    if member.size > MAX_PHOTO_BYTES:
                        raise ValueError(f"{member.name} has {human_bytes(member.size)}")
                    data = cast(IO[bytes], archive.extractfile(member)).read()
                    yield {"fname": member.name, "data": data, "__url__": url}
                cast(Any, archive).members = []  # tarfile would keep them all


@contextlib.contextmanager
def _open(url: str, stopped: threading.Event) -> Iterator[IO[bytes] | _Pipe]:
    """A shard's bytes. A remote one is downloaded first, so that the download can be retried."""
    if url.startswith(PIPE):
        with contextlib.closing(_Pipe(url.removeprefix(PIPE), stopped)) as pipe:
            yield pipe
    elif is_url(url):
        fs, path = filesystem(url)
        with tempfile.NamedTemporaryFile(dir=make_folder(user_cache("shards")), suffix=TEMPORARY) as file:
            retry(lambda: download(fs, path, Path(file.name), None, stopped))
            with Path(file.name).open("rb") as stream:
                yield stream
    else:
        with Path(url).open("rb") as stream:
            yield stream


class _CountedReader:
    """A stream that counts the bytes read."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.start = self._pending = stream.read(tarfile.BLOCKSIZE)
        self.count = 0

    def read(self, size: int) -> bytes:
        data = self._pending[:size] or self._stream.read(size)
        self._pending = self._pending[size:]
        self.count += len(data)
        return data

    def tell(self) -> int:
        return self.count


class _Pipe:
    """The output of a shell command, in a session of its own, so that `close` ends whatever the command started."""

    def __init__(self, command: str, stopped: threading.Event) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", command], stdout=subprocess.PIPE, start_new_session=True, env=command_environment()
        )
        self._output, self._stopped = cast(IO[bytes], self._process.stdout), stopped
        self._end = weakref.finalize(self, _kill, self._process)  # also when this process exits

    def close(self) -> None:
        self._end()

    def read(self, size: int) -> bytes:
        """Raises OSError if the command failed, printed nothing for too long, or the stream was closed."""
        data, since, patience = b"", time.monotonic(), _SILENCE * timeout_seconds()
        while len(data) < min(size, tarfile.BLOCKSIZE):  # what is there, for the command may pause
            if select.select([self._output], [], [], 0.1)[0]:
                piece, since = os.read(self._output.fileno(), size - len(data)), time.monotonic()
                data += piece
                if not piece:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        if status := self._process.wait(1):
                            raise OSError(f"its exit code is {status}")
                    break
            elif self._stopped.is_set() or time.monotonic() - since > patience:
                raise OSError(f"it printed nothing for {patience:g} seconds ({TIMEOUT_VARIABLE} × {_SILENCE})")
        return data


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.stdout:
        process.stdout.close()
    for kind in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, kind)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_SECONDS)

"""Decoded faces, kept: in memory or in a file. Each is decoded when it is first asked for, or in the background."""

from __future__ import annotations

import contextlib
import os
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from facegan.console import Console
from facegan.errors import SettingsError
from facegan.files import TEMPORARY, disk_errors, exclusive, flush, human_bytes, make_folder, user_cache
from facegan.stream.room import BOUND_VARIABLE, cache_bound, gigabytes_for, make_room, touch

Rows = np.ndarray | Sequence[np.ndarray]  # uint8 (n, size, size, channels), or n of them one by one


class Images(Protocol):
    """Decoded images by number, all of one size."""

    size: int
    channels: int
    fingerprint: str
    format: str  # of the files: png, jpg or webp

    @property
    def counts(self) -> np.ndarray:
        """int64 (shards,): the samples of each shard."""
        ...

    @property
    def block_shards(self) -> int: ...

    @property
    def remote(self) -> bool: ...

    @property
    def skipped(self) -> int: ...

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray, out: Rows) -> None: ...

    def ahead(self, numbers: list[int]) -> None: ...

    def rest(self) -> None: ...


def decoded_bytes(images: Images) -> int:
    return len(images) * images.size**2 * images.channels


class MemoryCache:
    """All faces in memory: uint8 (N, size, size, channels), of which the machine gives pages as they are filled."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self._shape = (len(images), images.size, images.size, images.channels)
        self.faces = np.empty(self._shape, np.uint8)
        self._begin_empty()

    def _begin_empty(self) -> None:
        self.filled = np.zeros(len(self._images), bool)
        self._left = len(self._images)
        self._lock = threading.Lock()
        self.whole = False

    def read(self, indices: np.ndarray, out: np.ndarray) -> None:
        """As `Images.read`; faces that are not here yet are decoded and kept."""
        if not self.whole:
            self.fill(indices)
        np.take(self.faces, indices, axis=0, out=out, mode="clip")  # any other mode buffers ``out``

    def fill(self, indices: np.ndarray) -> None:
        missing = indices[~self.filled[indices]]
        if len(missing):
            self._fill(missing)
            with self._lock:
                self._left -= int((~self.filled[np.unique(missing)]).sum())  # another thread may have been at them too
                self.filled[missing] = True
                ended = self._left == 0 and not self.whole
                self.whole = self._left == 0
            if ended:
                self._end()

    def _fill(self, missing: np.ndarray) -> None:
        self._images.read(missing, [self.faces[i] for i in missing.tolist()])

    def _end(self) -> None:
        """All is filled."""
        self._images.rest()

    def close(self) -> None:
        pass


class FileCache(MemoryCache):
    """The same in a file of the user cache, mapped into memory, which the next run finds there.

    The file is written under a temporary name and gets its own when all of it is there: the faces, then the CRC-32 of
    each. A run that finds it compares a face's sum when it first reads the face; one that does not fit is decoded.

    Raises:
        Busy: another run is making the same file.
        DiskError: there is no room for it.
        SettingsError: it is larger than the cache may be.
    """

    def __init__(self, images: Images, console: Console) -> None:
        self._images, self._console = images, console
        self._shape = (len(images), images.size, images.size, images.channels)
        self._begin_empty()
        self._path = cache_file(images)
        self._bytes = decoded_bytes(images) + 4 * len(images)
        make_folder(self._path.parent)
        self.reused = self._open()
        with contextlib.ExitStack() as held:
            if not self.reused:
                held.enter_context(exclusive(self._path.with_suffix(".lock"), "Another run is making this cache"))
                self.reused = self._open()  # the other may just have ended
            if not self.reused:
                self._begin(held)
            self._held = held.pop_all()

    def _open(self) -> bool:
        """The file of an earlier run. What is written into its memory stays in this process."""
        if not self._path.is_file() or self._path.stat().st_size != self._bytes:
            return False
        touch(self._path)
        self._map(self._path, "c")
        return True

    def _begin(self, held: contextlib.ExitStack) -> None:
        bound = cache_bound()
        if self._bytes > bound:
            raise SettingsError(
                f"The decoded faces have {human_bytes(self._bytes)}, and the cache may take {human_bytes(bound)}.\n"
                f"Set {BOUND_VARIABLE} to {gigabytes_for(self._bytes)} or more, or choose another --cache."
            )
        make_room(self._path.parent, ".faces", self._bytes, bound)
        self._partial = self._path.with_name(f".{self._path.name}{TEMPORARY}")
        held.callback(self._partial.unlink, missing_ok=True)
        with disk_errors(self._path.parent, self._bytes), self._partial.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, self._bytes)  # a page that finds no room later would kill the process
        self._map(self._partial, "r+")

    def _map(self, path: Path, mode: Literal["c", "r+"]) -> None:
        everything = np.memmap(path, np.uint8, mode)
        at = decoded_bytes(self._images)
        self.faces = everything[:at].reshape(self._shape)
        self._sums = everything[at:].view(np.uint32)
        self._everything = everything

    def _fill(self, missing: np.ndarray) -> None:
        if self.reused:
            missing = np.array(
                [i for i in missing.tolist() if zlib.crc32(self.faces[i].data) != self._sums[i]], np.int64
            )
            if not len(missing):
                return
            self._console.warn(f"{self._path} is damaged: its faces are decoded anew, and the next run makes it anew.")
            self._path.unlink(missing_ok=True)
        super()._fill(missing)
        self._sums[missing] = [zlib.crc32(self.faces[i].data) for i in missing.tolist()]

    def _end(self) -> None:
        super()._end()
        if self.reused or self._images.skipped:  # a file with stand-ins in it is nobody else's
            return
        self._everything.flush()
        with self._partial.open("rb") as file:
            os.fsync(file.fileno())
        self._partial.replace(self._path)
        flush(self._path.parent)

    def close(self) -> None:
        self._held.close()


def cache_file(images: Images) -> Path:
    return user_cache("decoded") / f"{images.fingerprint}.faces"

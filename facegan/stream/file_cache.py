"""Decoded faces in a file of the user cache, which other processes and later runs find there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from facegan.console import Console
from facegan.errors import FaceganError, SettingsError
from facegan.files import TEMPORARY, Busy, disk_errors, flush, human_bytes, make_folder, user_cache
from facegan.stream.cache import Images, MemoryCache, decoded_bytes
from facegan.stream.partials import is_at, locked, new_file, remove_abandoned, turn
from facegan.stream.room import BOUND_VARIABLE, cache_bound, gigabytes_for, make_room, touch


class FileCache(MemoryCache):
    """The faces, then the CRC-32 of each, in a file that is mapped into memory.

    A face is there where its sum is right: so several processes fill one file, and nobody believes what is damaged.
    The file is written under a temporary name and gets its own when a process has all of it. One with stand-ins in it
    is of use to nobody else: with ``skip_broken`` a process has its file for itself, and only a whole one stays.

    Raises:
        Busy: another process has the file for itself.
        DiskError: there is no room for it.
        SettingsError: it is larger than the user cache may be.
    """

    def __init__(self, images: Images, console: Console) -> None:
        self._images, self._console = images, console
        self._shape = (len(images), images.size, images.size, images.channels)
        self._begin_empty()
        self._path = cache_file(images)
        own = ".own" if images.skip_broken else ""
        self._partial = self._path.with_name(f".{self._path.name}{own}{TEMPORARY}")
        self._bytes = decoded_bytes(images) + 4 * len(images)
        remove_abandoned(make_folder(self._path.parent))
        self._held = contextlib.ExitStack()
        self._naming, self._kept = threading.Lock(), False
        self.reused = self._reuse()
        if not self.reused:
            with self._alone():
                self.reused = self._reuse()  # another may just have ended
                if not self.reused and not self._join():
                    self._begin()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """For the moments in which a file is made, given its name, or removed."""
        with turn(self._path.with_suffix(".lock"), lambda: None, lambda: None) as ours:
            if not ours:
                raise Busy(f"Another process makes {self._path} and gets no further.")
            yield

    def _reuse(self) -> bool:
        """The file of an earlier run. What is written into its memory stays in this process."""
        if self._images.skipped or not self._path.is_file() or self._path.stat().st_size != self._bytes:
            return False
        touch(self._path)
        with self._path.open("rb") as file:
            self._map(file, "c")
        return True

    def _join(self) -> bool:
        """The file that another process is filling."""
        if self._images.skip_broken or not self._partial.is_file() or self._partial.stat().st_size != self._bytes:
            return False
        with contextlib.ExitStack() as held:
            file = held.enter_context(self._partial.open("r+b"))
            try:
                held.enter_context(locked(file, fcntl.LOCK_SH))
            except BlockingIOError:
                return False
            held.callback(self._give_up, file)
            self._map(file, "r+")
            self._file, self._held = file, held.pop_all()
        return True

    def _begin(self) -> None:
        bound = cache_bound()
        if self._bytes > bound:
            raise SettingsError(
                f"The decoded faces have {human_bytes(self._bytes)}, and the cache may take {human_bytes(bound)}.\n"
                f"Set {BOUND_VARIABLE} to {gigabytes_for(self._bytes)} or more, or choose another --cache."
            )
        make_room(self._path.parent, ".faces", self._bytes, bound)
        with contextlib.ExitStack() as held:
            try:
                file = held.enter_context(new_file(self._partial))
            except BlockingIOError:
                raise Busy("Another run is making this cache.") from None
            held.callback(self._give_up, file)
            with disk_errors(self._path.parent, self._bytes):
                os.posix_fallocate(file.fileno(), 0, self._bytes)  # a page without room later would kill the process
            if not self._images.skip_broken:
                fcntl.flock(file, fcntl.LOCK_SH)
            self._map(file, "r+")
            self._file, self._held = file, held.pop_all()

    def _give_up(self, file: BinaryIO) -> None:
        """Removes what is half filled, unless others go on with it."""
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_at(file, self._partial):
                self._partial.unlink()

    def _map(self, file: BinaryIO, mode: Literal["c", "r+"]) -> None:
        everything = np.memmap(file, np.uint8, mode)
        at = decoded_bytes(self._images)
        self.faces = everything[:at].reshape(self._shape)
        self._sums = everything[at:].view(np.uint32)
        self._everything = everything

    @property
    def settled(self) -> bool:
        return self.whole or self.reused

    def _fill(self, missing: np.ndarray) -> None:
        """A sum is written behind its face."""
        there = [i for i in missing.tolist() if self._sums[i] and self._sum(i) == self._sums[i]]
        missing = np.setdiff1d(missing, np.array(there, np.int64))
        if not len(missing):
            return
        if self.reused:
            self._console.warn(f"{self._path} is damaged: its faces are decoded anew, and the next run makes it anew.")
            self._path.unlink(missing_ok=True)
        super()._fill(missing)
        self._sums[missing] = [self._sum(i) for i in missing.tolist()]

    def _sum(self, i: int) -> int:
        return zlib.crc32(self.faces[i].data) or 1  # 0: not there

    def _end(self) -> None:
        super()._end()
        self._keep()

    def _keep(self) -> None:
        """Gives a whole file its name, once."""
        with self._naming:
            if self._kept or self.reused or self._images.skipped or cache_file(self._images) != self._path:
                return
            self._kept = True
            try:
                self._everything.flush()
                os.fsync(self._file.fileno())
                with self._alone():
                    if is_at(self._file, self._partial):  # another process may have named it
                        self._partial.replace(self._path)
                        flush(self._path.parent)
            except (OSError, FaceganError) as error:  # this run has the faces all the same
                self._console.warn(f"{self._path} can't be kept for later runs: {error}")

    def close(self) -> None:
        if self.whole:
            self._keep()  # the thread that found it whole may not have come to it
        with self._naming:
            self._kept = True
            self._held.close()


def cache_file(images: Images) -> Path:
    return user_cache("decoded") / f"{images.decoded_key}.faces"

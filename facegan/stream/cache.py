"""Decoded faces, kept in memory. Each is decoded when it is first asked for, or in the background."""

from __future__ import annotations

import threading
from typing import Protocol

import numpy as np


class Images(Protocol):
    """Decoded images by number, all of one size."""

    size: int
    channels: int
    fingerprint: str
    format: str  # of the files: png, jpg or webp
    skip_broken: bool

    @property
    def decoded_key(self) -> str:
        """What decoded faces may be kept under: another one where shards were altered."""
        ...

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

    def read(self, indices: np.ndarray, out: np.ndarray, rows: np.ndarray | None = None) -> None:
        """Image ``indices[k]`` → ``out[rows[k]]``; without ``rows``, ``out[k]``."""
        ...

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

    @property
    def settled(self) -> bool:
        """Shards are not needed any more."""
        return self.whole

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
        self._images.read(missing, self.faces, missing)

    def _end(self) -> None:
        """All is filled."""
        self._images.rest()

    def close(self) -> None:
        pass

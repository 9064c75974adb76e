"""What can't be read, and which faces stand in for it."""

from __future__ import annotations

import threading

import numpy as np

from facegan.console import Console
from facegan.errors import DatasetError


class Broken(DatasetError):
    """A shard that can't be had or read, or one image of it: that of number ``index`` in the dataset."""

    def __init__(self, message: str, *, shard: int, index: int | None = None) -> None:
        super().__init__(message)
        self.shard, self.index = shard, index


class StandIns:
    """Faces in the place of broken ones, the same whenever and in whatever order the breakage is found.

    A face of a broken shard is replaced by one of the next whole shard, a broken face by the next whole one.
    """

    def __init__(self, counts: np.ndarray, console: Console) -> None:
        self._counts, self._console = counts, console
        self._starts = np.cumsum(counts) - counts
        self._shards = np.zeros(len(counts), bool)  # broken
        self._faces: set[int] = set()  # broken
        self.renew()

    def renew(self) -> None:
        """In a forked process: a thread that is not there may have held the lock."""
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """Broken faces, those of broken shards among them."""
        with self._lock:
            single = sum(not self._shards[self._shard_of(index)] for index in self._faces)
            return int(self._counts[self._shards].sum()) + single

    def has(self, shard: int) -> bool:
        return bool(self._shards[shard])

    def add(self, broken: Broken) -> None:
        """
        Raises:
            DatasetError: now nothing is whole any more.
        """
        with self._lock:
            if broken.index is None:
                new = not self._shards[broken.shard]
                self._shards[broken.shard] = True
                left_out = f"its {self._counts[broken.shard]:,} faces are"
            else:
                new = broken.index not in self._faces
                self._faces.add(broken.index)
                left_out = "this face is"
            nothing_left = self._shards.all() or len(self._faces) == self._counts.sum()
        if nothing_left:
            raise DatasetError(f"No shard is whole. The last one: {broken}")
        if new:
            self._console.warn(f"{str(broken).splitlines()[0]} With --skip-broken {left_out} left out.")

    def instead_of(self, indices: np.ndarray) -> np.ndarray:
        """The faces to read for these."""
        if not (self._shards.any() or self._faces):
            return indices
        with self._lock:
            return np.array([self._next_whole(int(index)) for index in indices], np.int64)

    def _next_whole(self, index: int) -> int:
        for _ in range(len(self._faces) + 1):
            shard = self._shard_of(index)
            if self._shards[shard]:
                within = index - self._starts[shard]
                while self._shards[shard]:
                    shard = (shard + 1) % len(self._counts)
                index = int(self._starts[shard] + within % self._counts[shard])
            if index not in self._faces:
                return index
            index = (index + 1) % int(self._counts.sum())
        raise DatasetError("No face is whole.")

    def _shard_of(self, index: int) -> int:
        return int(np.searchsorted(self._starts, index, "right")) - 1

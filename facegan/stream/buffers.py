"""Memory of batches, used again once nobody holds the batch: allocating it anew each time leaves holes in the heap."""

from __future__ import annotations

import math
import mmap
import weakref

import numpy as np


class Buffers:
    """uint8 arrays of one shape. Memory is as much as were ever held at the same time."""

    def __init__(self, *shape: int) -> None:
        self._shape = shape
        self._free: list[mmap.mmap] = []

    def take(self) -> np.ndarray:
        """An array with anything in it. Its memory comes back when the last view or tensor of it has gone."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = mmap.mmap(-1, math.prod(self._shape), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        array = np.ndarray(self._shape, np.uint8, memory)
        weakref.finalize(array, self._free.append, memory).atexit = False
        return array

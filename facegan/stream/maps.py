"""Shards as memory, opened when they are first read."""

from __future__ import annotations

import errno
import mmap
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection

_MOST = 4096


class Maps:
    """Memory maps of shards by number; beyond a limit the one that was used longest ago is given up.

    Each holds a file descriptor, of which a process may have a thousand or so.
    """

    def __init__(self, open_shard: Callable[[int], mmap.mmap]) -> None:
        self._open_shard = open_shard
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = _MOST if soft == resource.RLIM_INFINITY else max(2, min(_MOST, soft // 2))
        self._maps: OrderedDict[int, memoryview] = OrderedDict()
        self.renew()

    def renew(self) -> None:
        """In a forked process: a thread that is not there may have held the lock."""
        self._lock = threading.Lock()

    def get(self, number: int) -> memoryview:
        with self._lock:
            if number in self._maps:
                self._maps.move_to_end(number)
                return self._maps[number]
        while True:
            try:
                data = memoryview(self._open_shard(number))
                break
            except OSError as error:
                if error.errno != errno.EMFILE or not self._give_up_half():
                    raise
        with self._lock:
            self._maps[number] = data
            while len(self._maps) > self._most:
                self._maps.popitem(last=False)  # closed when nobody reads from it any more
        return data

    def _give_up_half(self) -> bool:
        """For others in this process hold files as well. Whether there was one to give up."""
        with self._lock:
            count = -(-len(self._maps) // 2)
            for _ in range(count):
                self._maps.popitem(last=False)
        return count > 0

    def keep_only(self, numbers: Collection[int]) -> None:
        with self._lock:
            for number in self._maps.keys() - set(numbers):
                del self._maps[number]

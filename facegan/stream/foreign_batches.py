"""Endless batches from shards that have no index: one thread reads, shuffles and has decoded, ahead of who asks."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from facegan.errors import DatasetError, SettingsError
from facegan.shards.images import decode_into
from facegan.stream.foreign import Closed, ForeignShards
from facegan.stream.order import whole_number

_SHUFFLED = 2000  # faces held to draw from
_PIECE = 256  # faces decoded together
_AHEAD = 4  # batches
_END_SECONDS = 5.0  # for the thread to end; it is a daemon
_HOPELESS = 10_000  # images in a row of which none can be decoded

Named = tuple[str, bytes]


class ForeignBatches:
    """Of W ranks each reads everything, and takes every W-th face.

    Raises:
        SettingsError: a batch that ranks can't share evenly.
    """

    cache = "off"

    def __init__(
        self, faces: ForeignShards, batch_size: int, seed: int, device: torch.device, rank: int, world_size: int
    ) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise SettingsError(f"A batch of {batch_size} can't be shared evenly by {world_size} processes.")
        self._faces, self._batch_size, self._seed, self._device = faces, batch_size, seed, device
        self._rank, self._world_size = rank, world_size
        self._position = 0
        self._threads = ThreadPoolExecutor(faces.workers, "decode")
        self._reader: _Reader | None = None
        self._closed = False

    def __iter__(self) -> Iterator[torch.Tensor]:
        return self

    def __next__(self) -> torch.Tensor:
        if self._closed:
            raise Closed("The faces were closed.")
        self._reader = self._reader or _Reader(self._arrays)
        batch = torch.from_numpy(self._reader.next())
        self._position += self._batch_size
        return batch.to(self._device).permute(0, 3, 1, 2)

    def _arrays(self, stop: Callable[[], None]) -> Generator[np.ndarray, None, None]:
        """Batches, uint8 NHWC, without end."""
        from webdataset.filters import shuffle

        rng = random.Random(f"{self._seed} {self._position} {self._rank}")
        images = shuffle(_SHUFFLED, initial=_SHUFFLED, rng=rng)(self._endless(stop))
        decoded, share = self._decoded(images), self._batch_size // self._world_size
        while True:
            yield np.stack(list(itertools.islice(decoded, share)))

    def _endless(self, stop: Callable[[], None]) -> Iterator[Named]:
        for epoch in itertools.count():
            urls = list(self._faces.urls)
            random.Random(f"{self._seed} {self._position} {epoch}").shuffle(urls)  # the same on all ranks
            found = 0
            for found, sample in enumerate(self._faces.samples(urls, stop), 1):
                if found % self._world_size == self._rank:
                    yield sample
            if found < self._world_size:
                raise DatasetError(f"{self._faces.shards} holds {found} images, too few for {self._world_size} ranks.")

    def _decoded(self, images: Iterator[Named]) -> Iterator[np.ndarray]:
        failed = 0
        while failed < _HOPELESS:
            for rgb in self._threads.map(self._decode, itertools.islice(images, _PIECE)):
                failed = 0 if rgb is not None else failed + 1
                if rgb is not None:
                    yield rgb
        raise DatasetError(f"{self._faces.shards}: of {failed:,} images in a row none can be decoded.")

    def _decode(self, named: Named) -> np.ndarray | None:
        (name, data), size = named, self._faces.size
        out = np.empty((size, size, 3), np.uint8)
        if decode_into(memoryview(data), out):
            return out
        why = f"{name} is no whole image of {size}×{size} pixels, as the first one is."
        if not self._faces.skip_broken:
            raise DatasetError(f"{why}\nFaces have to be squares of one size; with --skip-broken others are left out.")
        self._faces.skip(why)
        return None

    def state_dict(self) -> dict[str, Any]:
        """How many faces were shown. The order does not follow from it."""
        return {"position": self._position, "fingerprint": self._faces.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on after as many faces, with others than a run that never stopped.

        Raises:
            DatasetError: they were of other shards.
        """
        if state["fingerprint"] != self._faces.fingerprint:
            raise DatasetError("These are not the shards that the position belongs to.")
        self._stop()
        self._position = whole_number(state, "position")

    def describe(self) -> dict[str, Any]:
        """What a record of the run tells of it."""
        return {"cache": self.cache, "workers": self._faces.workers, "skipped": self._faces.skipped}

    def _stop(self) -> None:
        if self._reader:
            self._reader.stop()
            self._reader = None

    def close(self) -> None:
        """Also from another thread: one that waits for a batch gets an error."""
        self._closed = True
        self._stop()
        self._threads.shutdown(wait=True, cancel_futures=True)


class _Reader:
    """Runs an iterator in a thread, some items ahead.

    Args:
        items: makes it, from a function that raises `Closed` when nobody waits for items any more.
    """

    def __init__(self, items: Callable[[Callable[[], None]], Generator[np.ndarray, None, None]]) -> None:
        self._ready: deque[np.ndarray] = deque()
        self._error: Exception | None = None
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, args=(items(self._stop),), name="read", daemon=True)
        self._thread.start()

    def next(self) -> np.ndarray:
        """
        Raises:
            DatasetError: the iterator did; then each time.
            Closed: it was stopped meanwhile.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._error or self._stopping)
            self._stop()
            if not self._ready and self._error:
                raise self._error
            item = self._ready.popleft()
            self._changed.notify_all()
            return item

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(_END_SECONDS)

    def _stop(self) -> None:
        if self._stopping:
            raise Closed("The faces were closed.")

    def _run(self, items: Generator[np.ndarray, None, None]) -> None:
        error: Exception | None = None
        with contextlib.closing(items):
            while error is None and not self._stopping:
                try:
                    item = next(items)
                except Exception as raised:  # it is told to who asks
                    error = raised
                    continue
                with self._changed:
                    self._ready.append(item)
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: len(self._ready) < _AHEAD or self._stopping)
        with self._changed:
            self._error = error
            self._changed.notify_all()

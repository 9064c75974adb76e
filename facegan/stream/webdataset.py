"""Faces by webdataset's pipeline: tar shards that facegan did not make, the output of commands, and remote datasets
that exceed the user cache.

Such a stream has no exact order: shards come in random order, faces are drawn at random from a buffer, every epoch
decodes again, and a resumed run sees other faces than one that never stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import queue
import random
import re
import threading
from collections.abc import Generator, Iterator
from typing import Any, cast

import numpy as np
import torch

from facegan.console import Console, shown
from facegan.errors import DatasetError, FaceganError, SettingsError
from facegan.plugins import PIPE
from facegan.remote import without_query
from facegan.shards.images import decode_image, decode_into
from facegan.stream.loader import RankSlice, StreamOptions
from facegan.stream.sampler import saved_position
from facegan.stream.tar import IMAGE_SUFFIXES, tar_images

_TAR = re.compile(r"\.(tar|tgz|tar\.(gz|bz2|xz))$", re.IGNORECASE)
_SHUFFLE_BUFFER, _AHEAD = 2000, 4  # faces, batches


def is_webdataset(shards: str) -> bool:
    """Whether this names tar files or a command, rather than a dataset of facegan."""
    return shards.startswith(PIPE) or bool(_TAR.search(without_query(shards)))


class WebDatasetShards:
    """Square images of one size from tar files, URLs of such (``{000..009}`` for several), or ``pipe:COMMAND``.

    A shell runs the command: it must come from the user. ``urls`` are the tar files if ``shards`` is a dataset.
    """

    def __init__(
        self, shards: str, options: StreamOptions, console: Console, channels: int = 3, urls: list[str] | None = None
    ) -> None:
        from braceexpand import braceexpand

        if options.cache not in ("auto", "off"):
            raise SettingsError(f"--cache {options.cache} needs numbered faces, and {shards} has none. Choose off.")
        if options.workers:
            raise SettingsError(f"--workers has no effect on {shards}: one thread reads it. Leave it out.")
        self.shards, self.options, self.console, self.channels = shards, options, console, channels
        try:
            self.urls = urls or ([shards] if shards.startswith(PIPE) else list(braceexpand(shards)))
        except ValueError as error:
            raise SettingsError(f"{shards}: {error}") from None
        self.fingerprint = hashlib.sha256("\n".join(self.urls).encode()).hexdigest()
        self.skipped = 0
        self._count: int | None = None
        with contextlib.closing(self.samples(self.urls, threading.Event())) as samples:
            name, data = next(samples, ("", b""))
        image = decode_image(data) if name else None
        if image is None:
            raise DatasetError(f"{name} cannot be decoded." if name else f"{shards} has no images {IMAGE_SUFFIXES}.")
        self.size = image.shape[0]
        if image.shape[1] != self.size:
            raise DatasetError(
                f"{name} has {image.shape[1]}×{self.size} pixels; faces must be squares of one size.\n"
                "Make such faces with: facegan prep … --crop aligned"
            )
        console.note(f"{shards} is read by webdataset: in random but not exact order. A resumed run sees other faces.")

    def __len__(self) -> int:
        """Counted by reading all shards once, without decoding."""
        if self._count is None:
            self.console.note(f"Counting the faces of {self.shards} …")
            self._count = sum(1 for _ in self.samples(self.urls, threading.Event()))
        return self._count

    def samples(self, urls: list[str], stopped: threading.Event) -> Generator[tuple[str, bytes], None, None]:
        """Name and bytes of each image."""
        from webdataset.tariterators import group_by_keys

        for url in urls:
            try:
                with contextlib.closing(tar_images(url, stopped)) as images:
                    for sample in group_by_keys(images):
                        suffix = next(suffix for suffix in sample if not suffix.startswith("__"))
                        yield shown(f"{sample['__key__']}.{suffix} in {url}"), sample[suffix]
            except Exception as error:  # tarfile and every protocol have errors of their own
                self.skip(f"{url} cannot be read: {str(error.args[0]) if error.args else error!r}")

    def skip(self, why: str) -> None:
        """Raises DatasetError without ``skip_broken``."""
        if not self.options.skip_broken:
            raise DatasetError(why) from None
        self.skipped += 1
        self.console.warn(f"{why.splitlines()[0]} It is left out (--skip-broken).")

    def batches(
        self, batch_size: int, seed: int = 0, device: str | torch.device = "cpu", rank: int = 0, world_size: int = 1
    ) -> WebDatasetBatches:
        """An endless iterator of uint8 (batch_size / world_size, channels, size, size) tensors on ``device``."""
        return WebDatasetBatches(self, batch_size, seed, torch.device(device), RankSlice(rank, world_size))

    def close(self) -> None:
        pass


class WebDatasetBatches:
    """A thread reads, decodes and shuffles ahead. Each of W ranks reads everything and takes every W-th face."""

    cache = "off"

    def __init__(
        self, faces: WebDatasetShards, batch_size: int, seed: int, device: torch.device, ranks: RankSlice
    ) -> None:
        share = ranks.of(batch_size)
        self._faces, self._batch_size, self._seed, self._device, self._ranks = faces, batch_size, seed, device, ranks
        self._share, self._position = share.stop - share.start, 0
        self._stopped, self._error = threading.Event(), cast(Exception | None, None)
        self._ready: queue.Queue[np.ndarray | Exception] = queue.Queue(_AHEAD)
        self._thread: threading.Thread | None = None

    def __iter__(self) -> Iterator[torch.Tensor]:
        return self

    def __next__(self) -> torch.Tensor:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="webdataset", daemon=True)
            self._thread.start()
        while self._error is None or self._stopped.is_set():
            if self._stopped.is_set():
                raise FaceganError("The stream was closed.")
            with contextlib.suppress(queue.Empty):
                batch = self._ready.get(timeout=0.1)
                if isinstance(batch, np.ndarray):
                    self._position += self._batch_size
                    return torch.from_numpy(batch).to(self._device).permute(0, 3, 1, 2)
                self._error = batch
        raise self._error

    def _run(self) -> None:
        from webdataset.filters import shuffle

        rng = random.Random(f"{self._seed} {self._position} {self._ranks.rank}")
        with contextlib.closing(self._decoded()) as decoded:
            shuffled = shuffle(_SHUFFLE_BUFFER, initial=_SHUFFLE_BUFFER // 4, rng=rng)(decoded)
            item: np.ndarray | Exception | None = None
            while not self._stopped.is_set() and not isinstance(item, Exception):
                try:
                    item = np.stack(list(itertools.islice(shuffled, self._share)))
                except Exception as error:  # raised again by the thread that asks
                    item = error
                while not self._stopped.is_set():
                    with contextlib.suppress(queue.Full):
                        self._ready.put(item, timeout=0.1)
                        break

    def _decoded(self) -> Generator[np.ndarray, None, None]:
        faces, ranks = self._faces, self._ranks
        for epoch in itertools.count():
            urls, decoded = list(faces.urls), 0
            random.Random(f"{self._seed} {self._position} {epoch}").shuffle(urls)  # the same on all ranks
            with contextlib.closing(faces.samples(urls, self._stopped)) as samples:
                for name, data in itertools.islice(samples, ranks.rank, None, ranks.world_size):
                    pixels = np.empty((faces.size, faces.size, faces.channels), np.uint8)
                    if decode_into(memoryview(data), pixels):
                        decoded += 1
                        yield pixels
                    else:
                        faces.skip(f"{name} is not an image of {faces.size}×{faces.size} pixels, as the first one is.")
            if not decoded:
                raise DatasetError(f"{faces.shards} has too few images for {ranks.world_size} processes.")

    def state_dict(self) -> dict[str, Any]:
        """The number of images shown; it does not determine the order."""
        return {"position": self._position, "fingerprint": self._faces.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after as many images, with other faces than a run that never stopped. Call it before `next`."""
        if state["fingerprint"] != self._faces.fingerprint:
            raise DatasetError("These are not the shards of the saved position.")
        self._position = saved_position(state)

    def describe(self) -> dict[str, Any]:
        return {"cache": self.cache, "workers": 1, "skipped": self._faces.skipped}

    def close(self) -> None:
        """From any thread; one that waits for a batch gets an error."""
        self._stopped.set()
        if self._thread:
            self._thread.join(5)

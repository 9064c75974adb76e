"""The real side: faces of one split of a dataset, as views see them, and how far they are from one another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from facegan.errors import SettingsError
from facegan.evaluate.kept import Arrays, Kept
from facegan.evaluate.views import View
from facegan.remote import is_url
from facegan.shards.layout import DatasetInfo
from facegan.stream import FaceShards
from facegan.stream.remote import read_info
from facegan.stream.webdataset import is_webdataset

_BATCH = 64
_BLOCK = 2_048  # faces of the training at a time
_PREFERRED = ("test", "train")


def open_split(shards: str, split: str) -> FaceShards:
    """The faces of ``split``; with ``auto`` of test where there is one, else of train, else of the first.

    Raises:
        DatasetError: there is no such dataset or split, or it is damaged.
        SettingsError: the shards are others' than facegan's.
    """
    if is_webdataset(shards):
        raise SettingsError(
            f"--shards {shards}: nothing tells which faces these are, nor their splits.\n"
            "facegan eval takes a dataset of facegan prep."
        )
    if split == "auto":
        splits = splits_of(shards)
        split = next((name for name in _PREFERRED if name in splits), splits[0] if splits else "train")
    return FaceShards(shards, split, cache="off")


def splits_of(shards: str) -> list[str]:
    """
    Raises:
        DatasetError: there is no such dataset.
    """
    return info_of(shards).splits


def info_of(shards: str) -> DatasetInfo:
    """dataset.json of a folder or URL; raises as `splits_of`."""
    return read_info(shards) if is_url(shards) else DatasetInfo.read(Path(shards))


class RealFaces:
    """Up to 2 ``n`` faces of a split, in the order of the stream by the seed.

    The first ``n`` are what samples are compared with. The two halves of all are what the floor is of: where the split
    has 2 ``n`` faces, each half is as large as what is compared.

    Attributes:
        count: how many there are of these.
        reference, halves: rows of them.
    """

    def __init__(self, faces: FaceShards, n: int, seed: int) -> None:
        self._faces, self._seed = faces, seed
        self.count = min(2 * n, len(faces))
        half = self.count // 2
        self.reference = slice(0, min(n, self.count))
        self.halves = (slice(0, half), slice(half, 2 * half))
        self.size, self.channels, self.split = faces.size, faces.channels, faces.split
        self.fingerprint = faces.fingerprint
        self.kept = Kept({"faces": faces.content_key, "split": faces.split, "count": self.count, "seed": seed})
        self._images: Tensor | None = None
        self._seen: dict[tuple[str, int, int], Arrays] = {}

    def images(self) -> Tensor:
        """uint8 (count, C, S, S); read when it is first asked for."""
        if self._images is None:
            self._images = read_faces(self._faces, self.count, self._seed)
        return self._images

    def seen(self, view: View, rows: slice) -> Arrays:
        """These rows, as a view sees them."""
        if not view.rowwise:
            return self._once(view, rows)
        whole = self._once(view, slice(0, self.count))
        return {name: array[rows] for name, array in whole.items()}

    def floor(self, view: View, wanted: tuple[str, ...]) -> dict[str, float]:
        """What one half comes to beside the other."""

        def compare() -> Arrays:
            first, second = (self.seen(view, rows) for rows in self.halves)
            found = view.compare(first, second, wanted)
            return {name: np.array([value]) for name, value in found.items()}

        kept = self.kept.get(f"floor-{view.name}", {**view.key(), **view.settings(), "wanted": sorted(wanted)}, compare)
        return {name: float(value[0]) for name, value in kept.items()}

    def _once(self, view: View, rows: slice) -> Arrays:
        place = (view.name, rows.start, rows.stop)
        if place not in self._seen:
            key = {**view.key(), "rows": [rows.start, rows.stop]}
            self._seen[place] = self.kept.get(view.name, key, lambda: view.see(self.images()[rows]))
        return self._seen[place]


def read_faces(faces: FaceShards, count: int, seed: int) -> Tensor:
    """The first ``count`` of the stream's order by the seed: uint8 (count, C, S, S)."""
    images = torch.empty((count, faces.channels, faces.size, faces.size), dtype=torch.uint8)
    for first, block in _batches(faces, count, seed):
        images[first : first + len(block)] = block
    return images


def blocks_of(faces: FaceShards) -> Iterator[Tensor]:
    """All faces, each once, in blocks: uint8 (up to 2,048, C, S, S). The same blocks each time."""
    waiting: list[Tensor] = []
    for _, block in _batches(faces, len(faces), seed=0):
        waiting.append(block.contiguous())
        if len(waiting) * _BATCH >= _BLOCK:
            yield torch.cat(waiting)
            waiting = []
    if waiting:
        yield torch.cat(waiting)


def _batches(faces: FaceShards, count: int, seed: int) -> Iterator[tuple[int, Tensor]]:
    with closing(faces.batches(_BATCH, seed=seed)) as batches:
        for first in range(0, count, _BATCH):
            yield first, next(batches)[: count - first]

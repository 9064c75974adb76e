"""The real side: faces of one split of a dataset, as views see them, and how far they are from one another."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facegan.errors import DiskError, SettingsError
from facegan.evaluate.extractors import Arrays, Extractor
from facegan.evaluate.memorization import AGAINST, copy_rate, neighbours, neighbours_picture
from facegan.files import make_folder, read_cached, user_cache, write_cached
from facegan.remote import is_url
from facegan.shards.format import DatasetInfo
from facegan.stream import FaceShards
from facegan.stream.remote import read_info
from facegan.stream.webdataset import is_webdataset

# What was computed of real faces, kept in the user's cache: they are the same for all that is measured.
#
# A file is named by all that its numbers hang on, and holds arrays (safetensors) and their checksum. One that does not
# match it is computed again. Of more than 2 GB the least used go.

FORMAT = 2
_MOST_BYTES = 2_000_000_000


class FeatureCache:
    """Arrays of real faces by what they are of.

    Args:
        faces: all that tells these faces from others: dataset, split, how many, which.

    Attributes:
        found: names of what was there already.
    """

    def __init__(self, faces: Mapping[str, Any]) -> None:
        self.faces, self.folder = dict(faces), user_cache("real-features")
        self.found: list[str] = []

    def get(self, name: str, key: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
        """What was kept of ``name`` and ``key`` (all but the faces that the numbers hang on); else computed, and kept.

        A disk that is full or may not be written costs nothing but the time of the next run.
        """
        from safetensors.numpy import load, save

        told = {"format": FORMAT, "facegan": metadata.version("facegan"), "faces": self.faces, "key": dict(key)}
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        path = self.folder / f"{name}-{digest[:40]}.safetensors"
        data = read_cached(path)
        if data is None:
            arrays = compute()
            with contextlib.suppress(DiskError, OSError):
                make_folder(self.folder)
                write_cached(path, save({part: np.ascontiguousarray(array) for part, array in arrays.items()}))
                self._thin_out(path)
            return arrays
        with contextlib.suppress(OSError):
            os.utime(path)
        self.found.append(name)
        return load(data)

    def _thin_out(self, newest: Path) -> None:
        files = sorted(self.folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
        total = 0
        for path in files:
            total += path.stat().st_size
            if total > _MOST_BYTES and path != newest:
                path.unlink(missing_ok=True)


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


class ReferenceFaces:
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
        self.kept = FeatureCache({"faces": faces.content_key, "split": faces.split, "count": self.count, "seed": seed})
        self._images: Tensor | None = None
        self._seen: dict[tuple[str, int, int], Arrays] = {}

    def images(self) -> Tensor:
        """uint8 (count, C, S, S); read when it is first asked for."""
        if self._images is None:
            self._images = read_faces(self._faces, self.count, self._seed)
        return self._images

    def seen(self, view: Extractor, rows: slice) -> Arrays:
        """These rows, as a view sees them."""
        if not view.rowwise:
            return self._once(view, rows)
        whole = self._once(view, slice(0, self.count))
        return {name: array[rows] for name, array in whole.items()}

    def floor(self, view: Extractor, wanted: tuple[str, ...]) -> dict[str, float]:
        """What one half comes to beside the other."""

        def compare() -> Arrays:
            first, second = (self.seen(view, rows) for rows in self.halves)
            found = view.compare(first, second, wanted)
            return {name: np.array([value]) for name, value in found.items()}

        kept = self.kept.get(f"floor-{view.name}", {**view.key(), **view.settings(), "wanted": sorted(wanted)}, compare)
        return {name: float(value[0]) for name, value in kept.items()}

    def _once(self, view: Extractor, rows: slice) -> Arrays:
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


# The faces of the training: who of the samples copies one of them, and which are nearest.

_TRAIN = "train"
LEAST_FACES = AGAINST  # of which copies can be told


class TrainingFaces:
    """The dataset's split train, or the split that is measured by where there is none; read in blocks.

    Args:
        measured: the split that samples are measured by.
        trained_on: fingerprint of the faces that a generator was trained on; "" where nothing tells.

    Attributes:
        unseen: the split that is measured by holds faces that no training saw.
        others: the generator was trained on other faces than these.
    """

    def __init__(self, shards: str, measured: str, trained_on: str) -> None:
        self.split = _TRAIN if _TRAIN in splits_of(shards) else measured
        self._faces = FaceShards(shards, self.split, cache="off")
        self.unseen = self.split != measured
        self.fingerprint = self._faces.content_key
        self.others = bool(trained_on) and trained_on != self._faces.fingerprint

    def __len__(self) -> int:
        return len(self._faces)

    def copied(self, samples: Tensor) -> float:
        """`facegan.evaluate.memorization.copied_share` of uint8 (N, C, S, S)."""
        return copy_rate(samples, blocks_of(self._faces))

    def picture(self, samples: Tensor) -> NDArray[np.uint8]:
        """`facegan.evaluate.memorization.neighbours_picture`: uint8 (H, W, 3)."""
        found = neighbours(samples, blocks_of(self._faces))
        return neighbours_picture(samples, blocks_of(self._faces), found)

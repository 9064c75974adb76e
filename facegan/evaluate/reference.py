"""Real faces of a dataset: the reference that samples are compared with, and the faces that a generator may copy.

What is computed from them is kept in the user's cache, since it is the same for every generator.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facegan.errors import DiskError, SettingsError
from facegan.evaluate.extractors import Arrays, Extractor
from facegan.files import evict_lru, make_folder, mark_used, read_cached, user_cache, write_cached
from facegan.remote import is_url
from facegan.shards.format import DatasetInfo
from facegan.stream import FaceShards
from facegan.stream.remote import read_info
from facegan.stream.webdataset import WebDatasetShards, is_webdataset

_CACHE_FORMAT, _CACHE_BYTES = 3, 2_000_000_000
_BLOCK = 512  # training faces at a time: 50 MB as float64 at 64 px


def open_split(shards: str, split: str) -> FaceShards:
    """The faces of ``split``. ``auto`` is test if the dataset has it, else train, else the first split.

    Raises:
        DatasetError: there is no such dataset or split, or it is damaged.
        SettingsError: the shards are not a dataset of facegan's.
    """
    if is_webdataset(shards):
        raise SettingsError(
            f"--shards {shards} does not describe its faces and splits.\nName a dataset that facegan prep wrote."
        )
    if split == "auto":
        splits = dataset_info(shards).splits
        split = next((name for name in ("test", "train", *splits) if name in splits), "train")
    return FaceShards(shards, split, cache="off")


def dataset_info(shards: str) -> DatasetInfo:
    """dataset.json of a folder or URL; raises DatasetError if there is none."""
    return read_info(shards) if is_url(shards) else DatasetInfo.read(Path(shards))


def first_faces(
    faces: FaceShards | WebDatasetShards, count: int, seed: int, block: int = 64
) -> Iterator[tuple[int, Tensor]]:
    """The first ``count`` faces of the stream by the seed, in blocks uint8 (n, C, S, S), each with its first number."""
    with closing(faces.batches(block, seed=seed)) as batches:
        for first in range(0, count, block):
            yield first, next(batches)[: count - first]


def read_first_faces(faces: FaceShards | WebDatasetShards, count: int, seed: int) -> Tensor:
    """uint8 (count, C, S, S)."""
    images = torch.empty((count, faces.channels, faces.size, faces.size), dtype=torch.uint8)
    for first, block in first_faces(faces, count, seed):
        images[first : first + len(block)] = block
    return images


class FeatureCache:
    """Arrays computed from real faces, in files with a checksum; the least recently used go beyond 2 GB.

    Args:
        faces: what identifies these faces: dataset, split, number, seed.

    Attributes:
        hits: names of the arrays that were in the cache.
    """

    def __init__(self, faces: Mapping[str, Any]) -> None:
        self.faces, self.folder = dict(faces), user_cache("real-features")
        self.hits: list[str] = []

    def get(self, name: str, key: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
        """The cached arrays of ``name`` and ``key`` (everything besides the faces that determines them), else computed.

        If the disk is full or read-only, they are computed each time.
        """
        from safetensors.numpy import load, save

        versions = {"format": _CACHE_FORMAT, "facegan": metadata.version("facegan")}
        identity = json.dumps({**versions, "faces": self.faces, "key": dict(key)}, sort_keys=True)
        path = self.folder / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:40]}.safetensors"
        data = read_cached(path)
        if data is not None:
            mark_used(path)
            self.hits.append(name)
            return load(data)
        arrays = compute()
        with contextlib.suppress(DiskError, OSError):
            data = save({part: np.ascontiguousarray(array) for part, array in arrays.items()})
            evict_lru(make_folder(self.folder), ".safetensors", len(data), _CACHE_BYTES)
            write_cached(path, data)
        return arrays


class ReferenceFaces:
    """Up to 2 ``n`` faces of a split, in the order of the stream by the seed.

    Samples are compared with the first ``n``. The two halves of all faces are compared with each other: if the split
    has 2 ``n`` faces, each half is as large as the reference.

    Attributes:
        faces: the whole split.
        half: the number of faces in each half.
        reference: the rows that samples are compared with.
    """

    def __init__(self, faces: FaceShards, n: int, seed: int) -> None:
        self.faces, self.seed = faces, seed
        self.count = min(2 * n, len(faces))
        self.half = self.count // 2
        self.reference = slice(0, min(n, self.count))
        self.cache = FeatureCache({"faces": faces.content_key, "split": faces.split, "count": self.count, "seed": seed})
        self._extracted: dict[tuple[str, int, int], Arrays] = {}

    @cached_property
    def images(self) -> Tensor:
        """uint8 (count, C, S, S)."""
        return read_first_faces(self.faces, self.count, self.seed)

    def extract(self, extractor: Extractor, rows: slice) -> Arrays:
        """The extractor's arrays of these rows, from the cache if possible."""
        extracted = slice(0, self.count) if extractor.per_image else rows
        place = (extractor.name, extracted.start, extracted.stop)
        if place not in self._extracted:
            key = {**extractor.key, "rows": [extracted.start, extracted.stop]}
            self._extracted[place] = self.cache.get(
                extractor.name, key, lambda: extractor.extract(self.images[extracted])
            )
        arrays = self._extracted[place]
        return {name: array[rows] for name, array in arrays.items()} if extractor.per_image else arrays

    def real_vs_real(self, extractor: Extractor, wanted: tuple[str, ...]) -> dict[str, float]:
        """The metrics of one half against the other."""

        def compare() -> Arrays:
            halves = slice(0, self.half), slice(self.half, 2 * self.half)
            first, second = (self.extract(extractor, rows) for rows in halves)
            return {name: np.array([value]) for name, value in extractor.compare(first, second, wanted).items()}

        key = {**extractor.key, **extractor.settings, "wanted": sorted(wanted)}
        found = self.cache.get(f"{extractor.name}-real-vs-real", key, compare)
        return {name: float(value[0]) for name, value in found.items()}


class TrainingFaces:
    """The split train, or the measured split if the dataset has no train, in blocks uint8 (n, C, S, S).

    Args:
        measured: the faces that samples are compared with.
        trained_on: fingerprint of the faces that the generator was trained on, "" if unknown.

    Attributes:
        is_separate: the measured split is another one, so its faces are not copies of training faces.
        is_other_dataset: the generator was trained on other faces than these.
    """

    def __init__(self, shards: str, measured: FaceShards, trained_on: str) -> None:
        self.is_separate = measured.split != "train" and "train" in measured.splits
        self.faces = FaceShards(shards, "train", cache="off") if self.is_separate else measured
        self.is_other_dataset = bool(trained_on) and trained_on != self.faces.fingerprint

    def __len__(self) -> int:
        return len(self.faces)

    def __iter__(self) -> Iterator[Tensor]:
        return (block for _, block in first_faces(self.faces, len(self.faces), seed=0, block=_BLOCK))

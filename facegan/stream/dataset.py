"""`FaceShards`: a dataset of faces over local shards, by number or in batches."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from facegan.errors import DatasetError, one_of
from facegan.shards.images import decode_image
from facegan.shards.index import Shard
from facegan.shards.layout import DATASET_FILE, DatasetInfo
from facegan.stream.batches import Batches


class FaceShards(Dataset[tuple[np.ndarray, dict[str, Any]]]):
    """The faces of one split of a dataset, a map-style dataset that any ``DataLoader`` takes.

    ``faces[i]`` is (uint8 (size, size, 3) RGB array, the sample's JSON as a dict), in the order of the shards.

    Args:
        path: a folder that ``facegan prep`` wrote.
        split: ``train``, ``val`` or ``test``.

    Raises:
        DatasetError: the dataset, the split or a shard is missing, cut short or altered.
    """

    channels = 3

    def __init__(self, path: str | os.PathLike[str], split: str = "train") -> None:
        self.path, self.split = Path(path), split
        info = DatasetInfo.read(self.path)
        entries = info.split_shards(split)
        if not entries:
            has = f"it has {one_of(info.splits)}" if info.splits else "it holds no faces at all"
            raise DatasetError(f"{self.path} has no split '{split}': {has}.")
        self.size: int = info.settings["size"]
        self.fingerprint = hashlib.sha256("".join(entry.sha256 for entry in entries).encode()).hexdigest()
        self._shards: list[Shard] = []
        for entry in entries:
            path = self.path / entry.name
            self._check_bytes(path, entry.bytes)
            shard = Shard(path)
            self._shards.append(shard)
            if len(shard) != entry.samples:
                raise DatasetError(
                    f"The shard {path} was altered: it holds {len(shard)} samples, "
                    f"{DATASET_FILE} says {entry.samples}.\n"
                    f"See what is wrong: facegan verify {self.path}"
                )
        self._ends = list(itertools.accumulate(map(len, self._shards)))

    def _check_bytes(self, path: Path, expected: int) -> None:
        found = path.stat().st_size if path.is_file() else None
        if found is None:
            raise DatasetError(f"The shard {path} is missing. See what else is wrong: facegan verify {self.path}")
        if found != expected:
            how = "cut short" if found < expected else "altered"
            raise DatasetError(
                f"The shard {path} was {how}: it has {found:,} bytes, {DATASET_FILE} says {expected:,}.\n"
                f"See what else is wrong: facegan verify {self.path}"
            )

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> tuple[np.ndarray, dict[str, Any]]:
        shard, sample = self._locate(index)
        meta = json.loads(bytes(shard.read(sample.meta))) if sample.meta else {}
        return self.pixels(index), meta

    def pixels(self, index: int) -> np.ndarray:
        """The image alone: uint8 (size, size, 3), RGB. Threads may decode side by side."""
        shard, sample = self._locate(index)
        rgb = decode_image(shard.read(sample.image))
        if rgb is None or rgb.shape != (self.size, self.size, self.channels):
            raise DatasetError(
                f"{sample.image.name} in {shard.path} is no image of {self.size}×{self.size} pixels.\n"
                f"See what else is wrong: facegan verify {self.path}"
            )
        return rgb

    def _locate(self, index: int) -> tuple[Shard, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"face {index} of {len(self)}")
        index %= len(self)
        number = bisect.bisect_right(self._ends, index)
        shard = self._shards[number]
        return shard, shard.samples[index - self._ends[number] + len(shard)]

    def batches(
        self,
        batch_size: int,
        seed: int = 0,
        device: str | torch.device = "cpu",
        cache: str = "auto",
        rank: int = 0,
        world_size: int = 1,
    ) -> Batches:
        """An endless iterator of uint8 (batch_size / world_size, 3, size, size) tensors on ``device``.

        What it gives is a pure function of (dataset, seed, position): see `Batches`.
        """
        return Batches(self, batch_size, seed, torch.device(device), cache, rank, world_size)

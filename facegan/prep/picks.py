"""Photographs of datasets that stand, and which of their faces a selection takes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from facegan.config import SelectConfig
from facegan.console import Progress, shown
from facegan.errors import DamagedFile, DatasetError
from facegan.files import parsing
from facegan.shards.checksums import check_photos, check_shard
from facegan.shards.index import Sample, Shard
from facegan.shards.layout import DATASET_FILE, PHOTOS_FILE, SPLITS, DatasetInfo
from facegan.shards.photos import SCHEMA, read_batches
from facegan.shards.where import SAMPLES, Where

_FURTHER_FACE = re.compile(r"=f([0-9]{1,9})$")


@dataclass(frozen=True)
class Pick:
    """A photograph, and which of its samples are taken."""

    source: Standing
    row: dict[str, Any]
    keys: list[str]

    def sample(self, key: str) -> tuple[bytes, bytes]:
        return self.source.read(self.row["shard"], key)


class Standing:
    """One of the datasets to select from. Keeps open the shard that it read last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.info = DatasetInfo.read(folder)
        self._entries = {entry.name: entry for entry in self.info.shards}
        self._checked: set[str] = set()
        self._name = ""
        self._shard: Shard | None = None
        self._samples: dict[str, Sample] = {}

    def read(self, shard: str, key: str) -> tuple[bytes, bytes]:
        """A sample's image and JSON as they lie in the shard.

        Raises:
            DatasetError: the dataset is damaged.
        """
        if shard != self._name or self._shard is None:
            self._open(shard)
        sample = self._samples.get(key)
        if sample is None or sample.meta is None or self._shard is None:
            raise self._damaged(
                f"{PHOTOS_FILE} tells of the sample {shown(key)}, but {self.folder / shard} does not hold it"
            )
        return bytes(self._shard.read(sample.image)), bytes(self._shard.read(sample.meta))

    def _open(self, name: str) -> None:
        self.close()
        entry = self._entries.get(name)
        if entry is None:
            raise self._damaged(f"{PHOTOS_FILE} names the shard {name!r}, which {DATASET_FILE} does not list")
        if name not in self._checked:
            check_shard(self.folder, entry)
            self._checked.add(name)
        self._name, self._shard = name, Shard(self.folder / name)
        self._samples = {sample.key: sample for sample in self._shard.samples}

    def score(self, row: dict[str, Any], key: str) -> float:
        """The sample's own score. A row tells those of all faces found, of which some may have given no sample."""
        if len(set(row["scores"])) <= 1:
            return round(float(row["scores"][0]), 3) if row["scores"] else 0.0
        try:
            with parsing(shard := row["shard"]):
                return float(json.loads(self.read(shard, key)[1])["score"])
        except DamagedFile:
            raise self._damaged(f"{shown(key)}.json in {self.folder / row['shard']} tells no score") from None

    def _damaged(self, what: str) -> DatasetError:
        return DatasetError(f"{what}.\nSee what else is wrong: facegan verify {self.folder}")

    def close(self) -> None:
        if self._shard is not None:
            self._shard.close()
            self._shard = None


def picked(sources: list[Standing], config: SelectConfig, progress: Progress) -> Iterator[Pick]:
    """The photographs with faces that fit, in order, each once."""
    where = Where(config.where) if config.where else None
    before: _Before = {}
    left = config.limit
    for source in sources:
        check_photos(source.folder, source.info)
        for batch in read_batches(source.folder / PHOTOS_FILE):
            for pick in _fitting(source, batch, config.splits or list(SPLITS), where):
                if len(sources) > 1 and not _is_new(pick, before):
                    continue
                yield Pick(source, pick.row, pick.keys[:left])
                if left is not None:
                    left -= len(pick.keys[:left])
                if left == 0:
                    return
            progress.advance(len(batch))
        source.close()


def _fitting(source: Standing, batch: pa.RecordBatch, splits: list[str], where: Where | None) -> Iterator[Pick]:
    gave = [len(keys) for keys in batch.column("keys").to_pylist()]
    wanted = [
        count > 0 and split in splits for count, split in zip(gave, batch.column("split").to_pylist(), strict=True)
    ]
    rows = pa.Table.from_batches([batch]).filter(pa.array(wanted, pa.bool_())).combine_chunks()
    as_python = rows.to_pylist()
    if where is None:
        yield from (Pick(source, row, row["keys"]) for row in as_python)
        return
    parents = np.repeat(np.arange(len(rows)), [len(row["keys"]) for row in as_python])
    keys = [key for row in as_python for key in row["keys"]]
    own = {
        "key": keys,
        "face": [int(found[1]) if (found := _FURTHER_FACE.search(key)) else 0 for key in keys],
        "score": [
            source.score(as_python[i], key) if "score" in where.columns else 0.0
            for i, key in zip(parents, keys, strict=True)
        ],
    }
    spread = rows.take(pa.array(parents))
    columns = {**own, **{name: spread[name] for name in SCHEMA.names}}
    chosen: dict[int, list[str]] = {}
    for number in where.fits(pa.table(columns, schema=SAMPLES)).tolist():
        chosen.setdefault(int(parents[number]), []).append(keys[number])
    yield from (Pick(source, as_python[i], taken) for i, taken in chosen.items())


_Before = dict[str, tuple[Standing, str, list[str]]]  # by path: the dataset that gave it first, its shard, its keys


def _is_new(pick: Pick, before: _Before) -> bool:
    """False where an earlier dataset gave just the same.

    Raises:
        DatasetError: it gave something else under the same name.
    """
    path, shard = pick.row["path"], pick.row["shard"]
    first, its_shard, keys = before.setdefault(path, (pick.source, shard, pick.keys))
    if first is pick.source:
        return True
    if keys != pick.keys or any(first.read(its_shard, key) != pick.sample(key) for key in keys):
        raise DatasetError(
            f"{first.folder} and {pick.source.folder} both hold {shown(pick.keys[0])} (of {shown(path)}), and "
            f"not the same.\n"
            "Select from one of them, or prepare one from a folder above, so that its paths differ."
        )
    return False

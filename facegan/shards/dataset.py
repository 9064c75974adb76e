"""The one writer of a dataset's tables: photos.parquet, detections.parquet, the cards and, last, dataset.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from facegan.files import sha256_file, write_json
from facegan.manifests import known_datasets
from facegan.shards.attributes import sample_attributes, summary
from facegan.shards.cards import write_cards
from facegan.shards.detections import with_origins
from facegan.shards.format import (
    DATASET_FILE,
    DETECTIONS_FILE,
    PHOTOS_FILE,
    ChunkEntry,
    DatasetInfo,
    ShardEntry,
    Totals,
    shard_name,
)
from facegan.shards.photos import Fingerprint, TableWriter, photo_counts


class DatasetWriter:
    """Collects the shards and rows of a dataset and writes its other files; prep, select and sample share it.

    Call `add_shard` for every shard and `write_tables` once, then `write` with the result of `info`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards: list[ShardEntry] = []
        self.chunks: list[ChunkEntry] = []  # for a repair, which must know how the photographs were cut
        self._count = Counter[str]()  # shards by split
        self.files: dict[str, Path] = {}  # the present path of each shard, by its name
        self._counts, self._rejected = Counter(photos=0, kept=0, faces=0), Counter[str]()
        self._fingerprint = Fingerprint()

    def next_name(self, split: str) -> str:
        """Of the split's next shard; numbers have no gaps."""
        return shard_name(split, self._count[split])

    def add_shard(self, split: str, stats: Mapping[str, Any], path: Path | None = None) -> str:
        """Adds the split's next shard, now at ``path``, with the fields of its `ShardStats`; returns its name."""
        name = self.next_name(split)
        self.shards.append(ShardEntry.model_validate({**stats, "name": name, "split": split}))
        self.files[name] = path or self.folder / name
        self._count[split] += 1
        return name

    def write_tables(
        self, tables: Iterable[tuple[pa.Table, pa.Table | None]], origins: Iterable[dict[str, Any]] = ()
    ) -> None:
        """Writes photos.parquet and, if there are any, detections.parquet; counts the rows as they pass.

        Args:
            tables: rows of photos.parquet and those of detections.parquet for the same photographs.
            origins: see `facegan.shards.detections.with_origins`.
        """
        detections_writer = TableWriter(self.folder / DETECTIONS_FILE, with_origins(origins))
        with TableWriter(self.folder / PHOTOS_FILE) as photos_writer, detections_writer:
            for photos, detections in tables:
                kept, faces, rejected = photo_counts(photos)
                self._counts.update(photos=len(photos), kept=kept, faces=faces)
                self._rejected.update(rejected)
                self._fingerprint.add(photos["path"].to_pylist(), photos["bytes"].to_pylist())
                photos_writer.add(photos)
                if detections is not None:
                    detections_writer.add(detections)

    def info(
        self,
        settings: dict[str, Any],
        versions: dict[str, str],
        data_set: str = "",
        source: tuple[str, ...] = (),
        ignored: dict[str, int] | None = None,
    ) -> DatasetInfo:
        """dataset.json, once the tables are written; ``ignored`` counts other files of the source by suffix."""
        detections = self.folder / DETECTIONS_FILE
        return DatasetInfo(
            data_set=data_set,
            source=source,
            settings=settings,
            versions=versions,
            fingerprint=str(self._fingerprint),
            totals=Totals(
                **self._counts,
                rejected=dict(sorted(self._rejected.items())),
                ignored=ignored or {},
                bytes=sum(entry.bytes for entry in self.shards),
            ),
            shards=tuple(self.shards),
            chunks=tuple(self.chunks),
            photos_sha256=sha256_file(self.folder / PHOTOS_FILE),
            detections_sha256=sha256_file(detections) if detections.is_file() else "",
        )

    def write(self, info: DatasetInfo) -> None:
        """Writes the cards and, last, dataset.json: where it exists, the dataset is complete."""
        attributes = sample_attributes(self.folder / PHOTOS_FILE, info.shards, (), str(self.folder))
        write_cards(self.folder, info, known_datasets().get(info.data_set), summary(attributes))
        write_json(self.folder / DATASET_FILE, info.model_dump(mode="json"))

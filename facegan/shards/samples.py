"""Samples of a dataset, one by one: by key, or all of them, or some spread evenly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegan.console import shown
from facegan.errors import DatasetError
from facegan.shards.deep import read_meta
from facegan.shards.index import Sample, Shard
from facegan.shards.layout import PHOTOS_FILE, DatasetInfo, ShardEntry
from facegan.shards.photos import read_batches
from facegan.shards.schema import SampleMeta


@dataclass(frozen=True)
class Found:
    """One sample. ``image`` is the file's bytes, ``name`` the file's name."""

    key: str
    split: str
    shard: str
    name: str
    image: bytes
    meta: SampleMeta


def find_sample(folder: Path, info: DatasetInfo, wanted: str) -> Found:
    """A sample by its key, or by the path of its photograph (then its first face).

    Raises:
        DatasetError: there is none, the photograph was rejected, or the dataset is damaged.
    """
    key, shard = _place(folder / PHOTOS_FILE, wanted)
    for entry in info.shards:
        if entry.name == shard:
            for found in read_samples(folder, entry, keys={key}):
                return found
    raise DatasetError(
        f"{folder / PHOTOS_FILE} tells of {shown(key)} in {shown(shard)}, which does not hold it.\n"
        f"See what else is wrong: facegan verify {folder}"
    )


def find_rejected(folder: Path, wanted: str) -> dict[str, Any] | None:
    """The row of the rejected photograph of that path; None where there is none.

    Raises:
        DatasetError: the table can't be read.
    """
    for batch in read_batches(folder / PHOTOS_FILE):
        if wanted in batch.column("path").to_pylist():
            row = batch.to_pylist()[batch.column("path").to_pylist().index(wanted)]
            return row if row["outcome"] == "rejected" else None
    return None


def _place(photos: Path, wanted: str) -> tuple[str, str]:
    """Key and shard."""
    example = ""
    for batch in read_batches(photos, ["path", "reason", "keys", "shard"]):
        keys = batch.column("keys").flatten().to_pylist()
        example = example or (keys[0] if keys else "")
        if wanted not in keys and wanted not in batch.column("path").to_pylist():
            continue
        row = next(row for row in batch.to_pylist() if wanted in row["keys"] or wanted == row["path"])
        if not row["keys"]:
            raise DatasetError(f"{shown(wanted)} gave no face: it was rejected as {shown(row['reason'])}.")
        return (wanted if wanted in row["keys"] else row["keys"][0]), row["shard"]
    like = f" Its keys are like {shown(example)}." if example else ""
    raise DatasetError(f"{photos.parent} holds no sample {shown(wanted)}, nor a photograph of that path.{like}")


def read_samples(
    folder: Path, entry: ShardEntry, *, keys: set[str] | None = None, numbers: list[int] | None = None
) -> Iterator[Found]:
    """The samples of one shard, in order.

    Args:
        keys: only these.
        numbers: only those at these places.

    Raises:
        DatasetError: the shard is damaged, or a sample's JSON does not fit.
    """
    shard = Shard(folder / entry.name)
    try:
        chosen = shard.samples if numbers is None else [shard.samples[i] for i in numbers if i < len(shard)]
        for sample in chosen:
            if keys is None or sample.key in keys:
                meta = _sound(folder, shard, sample)
                yield Found(sample.key, entry.split, entry.name, sample.image.name, _image(shard, sample), meta)
    finally:
        shard.close()


def _image(shard: Shard, sample: Sample) -> bytes:
    return bytes(shard.read(sample.image))


def _sound(folder: Path, shard: Shard, sample: Sample) -> SampleMeta:
    meta = read_meta(shard, sample)
    if isinstance(meta, str):
        raise DatasetError(
            f"{shown(sample.key)}.json in {shard.path} {shown(meta)}.\n"
            f"See what else is wrong: facegan verify {folder} --deep"
        )
    return meta

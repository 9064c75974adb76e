"""The attributes of samples, from photos.parquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from facegan.console import shown
from facegan.errors import DatasetError, SettingsError, suggest
from facegan.shards.checksums import check_detections, check_photos, see_verify
from facegan.shards.detections import SCHEMA as DETECTIONS
from facegan.shards.format import DETECTIONS_FILE, PHOTOS_FILE, DatasetInfo, ShardEntry
from facegan.shards.photos import attribute_schema, int64_array, read_batches

_CLASSES = 20  # of an attribute, in summaries


def read_attributes(folder: Path, entries: Sequence[ShardEntry], names: Sequence[str] = ()) -> pa.Table:
    """Attributes of all samples of some shards, in the order of the shards and of the samples in each.

    Args:
        names: of the columns; () for all. A column is bool (binary), int64 (class) or double.

    Raises SettingsError if the dataset lacks one, DatasetError if its photos.parquet is missing, altered or damaged.
    """
    check_photos(folder, DatasetInfo.read(folder))
    return sample_attributes(folder / PHOTOS_FILE, entries, names, str(folder))


def summary(attributes: pa.Table) -> list[tuple[str, int, float]]:
    """A text, how many samples it is true of, and their share: for a binary attribute its name, for a class attribute
    each of its most frequent classes, for a number its quantiles."""
    rows = list[tuple[str, int, float]]()
    for name, column in zip(attributes.column_names, attributes.columns, strict=True):
        values = column.to_numpy()
        if values.dtype == bool:
            found = {name: values.sum()}
        elif values.dtype == np.int64:
            classes, counts = np.unique(values, return_counts=True)
            found = {f"{name} = {classes[i]}": counts[i] for i in np.argsort(-counts, kind="stable")[:_CLASSES]}
        else:
            low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
            found = {f"{name}: median {middle:.4g}, 90 % within {low:.4g} to {high:.4g}": len(values)}
        rows += [(text, int(count), int(count) / max(1, len(values))) for text, count in found.items()]
    return rows


def sample_attributes(table: Path, entries: Sequence[ShardEntry], names: Sequence[str], where: str) -> pa.Table:
    """As `read_attributes`, from a photos.parquet that was checked; ``where`` names the dataset."""
    available = attribute_schema(table).names
    for name in names:
        if name not in available:
            has = f"It has {', '.join(map(shown, available)) or 'none'}."
            advice = "" if available else f" Add some with: facegan annotate {where} FILE"
            raise SettingsError(f"{where} has no attribute {shown(name)}.{suggest(name, available)} {has}{advice}")
    names = names or available
    return _samples(table, entries, names, where).select(names) if names else pa.table({})


def read_measures(folder: Path, entries: Sequence[ShardEntry], names: Sequence[str]) -> pa.Table:
    """Columns of detections.parquet of all samples of some shards, double, as `read_attributes` has attributes.

    A table without columns if faces were not detected. Raises DatasetError as `read_attributes` does.
    """
    info = DatasetInfo.read(folder)
    if not info.detections_sha256:
        return pa.table({})
    check_photos(folder, info)
    check_detections(folder, info)
    keys = _samples(folder / PHOTOS_FILE, entries, [], str(folder))["key"].to_pylist()
    found = pa.Table.from_batches(read_batches(folder / DETECTIONS_FILE, ["key", *names], schema=DETECTIONS))
    rows = {key: row for row, key in enumerate(found["key"].to_pylist()) if key}
    if missing := next((key for key in keys if key not in rows), ""):
        raise DatasetError(f"{DETECTIONS_FILE} of {folder} lacks the face {shown(missing)}.\n{see_verify(folder)}")
    return found.select(names).take(int64_array(np.array([rows[key] for key in keys], np.int64)))


def _samples(table: Path, entries: Sequence[ShardEntry], names: Sequence[str], where: str) -> pa.Table:
    """The samples' ``key``, and ``shard`` and the columns ``names`` of their photographs."""
    numbers = {entry.name: number for number, entry in enumerate(entries)}
    parts, shards = list[pa.Table](), list[np.ndarray]()
    for batch in read_batches(table, ["keys", "shard", *names]):
        keys, photos = batch.column("keys"), np.arange(len(batch))
        ends = np.frombuffer(keys.buffers()[1], np.int32)[keys.offset : keys.offset + len(keys) + 1]
        shard = np.array([numbers.get(name, -1) for name in batch.column("shard").to_pylist()], np.int64)
        of_sample = np.repeat(photos, np.where(shard < 0, 0, np.diff(ends)))
        of_keys = np.repeat(shard >= 0, np.diff(ends))
        part = pa.Table.from_batches([batch]).select([*names, "shard"]).take(int64_array(of_sample))
        parts.append(part.append_column("key", keys.flatten().filter(pa.array(of_keys.tolist(), pa.bool_()))))
        shards.append(shard[of_sample])
    order = np.concatenate([np.zeros(0, np.int64), *shards])
    if np.bincount(order, minlength=len(entries)).tolist() != [entry.samples for entry in entries]:
        raise DatasetError(f"{PHOTOS_FILE} of {where} has other samples than its shards.\n{see_verify(where)}")
    return pa.concat_tables(parts).take(int64_array(np.argsort(order, kind="stable")))

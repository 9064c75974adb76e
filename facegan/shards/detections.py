"""detections.parquet: one row per face found in any photograph, kept or not, in the order of photos.parquet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from facegan.errors import DamagedFile, DatasetError
from facegan.files import parsing
from facegan.shards.format import DETECTIONS_FILE
from facegan.shards.photos import SCHEMA as PHOTOS
from facegan.shards.photos import int64_array, read_batches, read_schema

# Type and meaning of each column.
COLUMNS = {
    "path": (pa.string(), "the photograph, as in photos.parquet"),
    "sha256": (pa.string(), "of the photograph's file"),
    "index": (pa.int32(), "number of the face in its photograph, from 0"),
    "key": (pa.string(), "key of the sample that was cut from it; empty if there is none"),
    "detector": (pa.string(), "the detector that found it"),
    "rotation": (pa.int32(), "degrees clockwise by which the photograph was rotated to find it"),
    "faint": (pa.bool_(), "whether only the second look found it, with a score from 0.1"),
    "is_face": (pa.bool_(), "whether people would see the best face of that second look; true for faces not faint"),
    "box": (pa.list_(pa.float32()), "[x, y, width, height] in pixels of the upright photograph"),
    "keypoints": (pa.list_(pa.float32()), "x and y of the six keypoints, one after the other"),
    "score": (pa.float64(), "the detector's score, 0 to 1"),
    "side": (pa.float64(), "side of the aligned crop at margin 1, in pixels of the photograph"),
    "outside": (pa.float64(), "share of the aligned crop at margin 1 outside the photograph"),
    "outside_box": (pa.float64(), "the same of the detector's box, --crop box"),
    "sharpness": (pa.float64(), "variance of the Laplacian of the grey aligned crop at 64 × 64 pixels"),
    "brightness": (pa.float64(), "mean of that crop, 0 to 255"),
    "contrast": (pa.float64(), "standard deviation of that crop"),
    "yaw": (pa.float64(), "estimated degrees to the right of the picture (left: negative)"),
    "pitch": (pa.float64(), "estimated degrees upwards"),
    "roll": (pa.float64(), "estimated degrees clockwise"),
    "hash": (pa.uint64(), "perceptual hash of that crop, 64 bits"),
}
SCHEMA = pa.schema([(name, kind) for name, (kind, _) in COLUMNS.items()])
_OF_PHOTO = ("path", "sha256")
_FIELDS = [column for column in SCHEMA if column.name not in _OF_PHOTO]
IN_CHUNK = pa.field("detections", pa.list_(pa.struct(_FIELDS)))  # of a photograph's row in a chunk
MEASURES = [column for column in SCHEMA if column.type in (pa.float64(), pa.uint64())]  # with the score
# One row per sample: its own columns, those of its detection, and those of photos.parquet.
SAMPLES = pa.schema([("key", pa.string()), ("face", pa.int32()), *MEASURES, *PHOTOS])
_ORIGINS = b"facegan"  # entry of the file's metadata
Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)


def of_chunk(rows: pa.Table) -> pa.Table:
    """The detections in a chunk's rows."""
    rows = rows.combine_chunks()
    lists = rows["detections"].chunk(0)
    ends = np.frombuffer(lists.buffers()[1], np.int32)[lists.offset : lists.offset + len(lists) + 1]
    faces = lists.values.slice(ends[0], ends[-1] - ends[0])
    photos = int64_array(np.repeat(np.arange(len(lists)), np.diff(ends)))
    columns = [rows[name].chunk(0).take(photos) for name in _OF_PHOTO]
    columns += [faces.field(column.name) for column in _FIELDS]
    return pa.Table.from_batches([pa.RecordBatch.from_arrays(columns, schema=SCHEMA)])


def with_detections(folder: Path, photos: Iterable[Rows]) -> Iterator[tuple[Rows, pa.Table]]:
    """Groups of rows of photos.parquet, in its order, each with the detections of its photographs."""
    path, pending = folder / DETECTIONS_FILE, SCHEMA.empty_table()
    batches = read_batches(path, schema=SCHEMA) if path.is_file() else iter(())
    for rows in photos:
        wanted = set(rows["path"].to_pylist())
        while not len(pending) or pending["path"][-1].as_py() in wanted:
            if (batch := next(batches, None)) is None:
                break
            pending = pa.concat_tables([pending, pa.Table.from_batches([batch])])
        paths = pending["path"].to_pylist()
        count = next((number for number, path in enumerate(paths) if path not in wanted), len(paths))
        yield rows, pending.slice(0, count)
        pending = pending.slice(count)


def read_detections(path: Path) -> Iterator[pa.RecordBatch]:
    """Raises DatasetError if the table is unreadable."""
    return read_batches(path, schema=SCHEMA)


def with_origins(origins: Iterable[dict[str, Any]]) -> pa.Schema:
    """The schema of a file with detections of these origins: detector, models, library versions and CPU."""
    return SCHEMA.with_metadata({_ORIGINS: json.dumps(list(origins), sort_keys=True).encode()})


def read_origins(path: Path) -> list[dict[str, Any]]:
    """Raises DatasetError if the file is unreadable."""
    metadata = read_schema(path).metadata or {}
    try:
        with parsing(path):
            return list(json.loads(metadata.get(_ORIGINS, b"[]")))
    except DamagedFile as error:
        raise DatasetError(f"{path} could not be read ({error.why}).") from None

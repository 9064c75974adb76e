"""photos.parquet: one row per photograph seen, in the order in which they were added."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.json as pj
import pyarrow.parquet as pq

from facegan.console import shown
from facegan.errors import DamagedFile, DatasetError
from facegan.files import atomic_write, parsing
from facegan.shards.format import DATASET_FILE

# Type and meaning of each column.
COLUMNS = {
    "path": (pa.string(), "the photograph, relative to the source folder; undecodable bytes as \\xNN"),
    "bytes": (pa.int64(), "size of the photograph's file"),
    "sha256": (pa.string(), "of the photograph's file; empty if it could not be read"),
    "width": (pa.int32(), "of the upright photograph, in pixels; 0 if it could not be read"),
    "height": (pa.int32(), "of the upright photograph, in pixels; 0 if it could not be read"),
    "outcome": (pa.string(), "kept or rejected"),
    "reason": (pa.string(), "why it was rejected; empty if it was kept"),
    "faces": (pa.int32(), "number of faces found"),
    "scores": (pa.list_(pa.float32()), "the detector's score of each face; if none was found, the best score"),
    "box": (pa.list_(pa.float32()), "[x, y, width, height] of the best face, in pixels of the upright photograph"),
    "keys": (pa.list_(pa.string()), "keys of the photograph's samples"),
    "duplicate_of": (pa.string(), "path of the photograph that a duplicate or near_duplicate repeats; else empty"),
    "identity": (pa.string(), "the person, from the list of --identity; empty if unknown"),
    "split": (pa.string(), "train, val or test"),
    "shard": (pa.string(), "the file with its samples; empty if it has none"),
}
SCHEMA = pa.schema([(name, kind) for name, (kind, _) in COLUMNS.items()])
ATTRIBUTE_TYPES = (pa.bool_(), pa.int64(), pa.float64())  # binary, class, number: columns after the fixed ones
_CHUNK_SCHEMA = pa.schema([column for column in SCHEMA if column.name not in ("split", "shard")])
_ROWS_A_GROUP = 50_000
_BATCH_ROWS = 10_000


def attribute_schema(table: Path | pa.Schema) -> pa.Schema:
    """The columns of a table of photographs that are attributes. Raises DatasetError if the file is unreadable."""
    schema = read_schema(table) if isinstance(table, Path) else table
    return pa.schema([field for field in schema if field.name not in SCHEMA.names and field.type in ATTRIBUTE_TYPES])


def require_same_attributes(one: pa.Schema, name: str, other: pa.Schema, other_name: str) -> None:
    """Raises DatasetError unless both are the same in any order; the names are those of datasets or lists."""
    if wrong := {*one} ^ {*other}:
        column = shown(min(field.name for field in wrong))
        raise DatasetError(
            f"{name} and {other_name} have different attributes: {column} has other values, or is in one of them alone."
            "\nGive both the same; those of a dataset change with: facegan annotate OUT FILE"
        )


def with_attributes(schema: pa.Schema) -> pa.Schema:
    """`SCHEMA` and the attributes in another."""
    return pa.schema([*SCHEMA, *attribute_schema(schema)])


def read_batches(
    path: Path, columns: list[str] | None = None, rows: int = _BATCH_ROWS, schema: pa.Schema = SCHEMA
) -> Iterator[pa.RecordBatch]:
    """Some columns (None: all) in batches of at most ``rows`` rows, in order; those of photographs may be attributes.

    Read by this thread alone through a Python file: pyarrow's own paths must be UTF-8, and its threads, reading through
    Python, sometimes outlive the interpreter and abort the process. Raises DatasetError if the table is unreadable.
    """
    with _opened(path) as table:
        found = table.schema_arrow
        wanted = with_attributes(found) if schema is SCHEMA else schema
        if not found.equals(wanted) or len({*found.names}) < len(found):
            wrong = ", ".join(map(shown, sorted({*found.names} ^ {*wanted.names}))) or "their types"
            raise DatasetError(
                f"{path} has other columns ({wrong}) than this facegan writes. Prepare again with --force."
            )
        for batch in table.iter_batches(rows, columns=columns, use_threads=False):
            batch.validate(full=True)  # text is UTF-8, lists are within their array
            if any(map(_holds_null, batch.columns)):
                raise DatasetError(f"{path} has null values; a table of facegan prep has none.")
            yield batch


def read_schema(path: Path) -> pa.Schema:
    """With the file's metadata. Raises DatasetError if the table is unreadable."""
    with _opened(path) as table:
        return table.schema_arrow


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with path.open("rb") as file, parsing(path), pq.ParquetFile(file, pre_buffer=False) as table:
            yield table
    except FileNotFoundError:
        raise DatasetError(f"{path} is missing.") from None
    except DamagedFile as error:
        raise DatasetError(f"{path} could not be read ({error.why}).") from None


def _holds_null(column: pa.Array) -> bool:
    return column.null_count > 0 or (pa.types.is_list(column.type) and column.flatten().null_count > 0)


def read_columns(path: Path, columns: list[str]) -> pa.Table:
    """Columns of every photograph in the dataset."""
    return pa.Table.from_batches(read_batches(path, columns))


def read_in_pieces(path: Path, sizes: Iterable[int]) -> Iterator[pa.Table]:
    """The table in pieces of the given numbers of rows. Raises DatasetError if it is unreadable or has others."""
    batches, pending = read_batches(path), with_attributes(read_schema(path)).empty_table()
    for size in sizes:
        while len(pending) < size:
            if (batch := next(batches, None)) is None:
                raise DatasetError(f"{path} has fewer rows than {DATASET_FILE} counts photographs.")
            pending = pa.concat_tables([pending, pa.Table.from_batches([batch])])
        yield pending.slice(0, size)
        pending = pending.slice(size)
    if len(pending) or next(batches, None) is not None:
        raise DatasetError(f"{path} has more rows than {DATASET_FILE} counts photographs.")


def photo_counts(table: pa.Table) -> tuple[int, int, dict[str, int]]:
    """Photographs kept, their faces, and photographs rejected by reason."""
    # Without pyarrow's own count and flatten: they load 30 MB of functions.
    reasons = Counter(table["reason"].to_pylist())
    kept = reasons.pop("", 0)
    ends = [(keys.offsets[0].as_py(), keys.offsets[-1].as_py()) for keys in table["keys"].chunks]
    return kept, sum(last - first for first, last in ends), reasons


class Fingerprint:
    """Sum modulo 2²⁵⁶ of the SHA-256 of each photograph's path and size: independent of order and grouping."""

    def __init__(self) -> None:
        self._sum = 0

    def add(self, paths: Iterable[str], sizes: Iterable[int]) -> None:
        sha256, number, photos = hashlib.sha256, int.from_bytes, zip(paths, sizes, strict=True)
        self._sum += sum(number(sha256(f"{path}\0{size}".encode()).digest()) for path, size in photos)

    def __str__(self) -> str:
        return f"{self._sum % (1 << 256):064x}"


def read_rows(path: Path, *further: pa.Field) -> pa.Table:
    """A chunk's rows: a JSON object a line, without split and shard, and with further columns.

    Parsed by pyarrow: a million rows as Python objects would take a minute.
    """
    data = path.read_bytes()
    with parsing(path, "Delete it, then run facegan prep again to rebuild these photographs."):
        rows = pj.read_json(
            pa.BufferReader(data),
            pj.ReadOptions(use_threads=False, block_size=len(data) + 1),
            pj.ParseOptions(explicit_schema=pa.schema([*_CHUNK_SCHEMA, *further]), unexpected_field_behavior="error"),
        )
        if any(_holds_null(chunk) for column in rows.columns for chunk in column.chunks):
            raise ValueError("a field is missing")
        return rows


def in_shard(rows: pa.Table, split: str, shard: str) -> pa.Table:
    """A chunk's rows with their split, and with their shard where a photograph has samples."""
    rows, schema = rows.combine_chunks(), with_attributes(rows.schema)
    keys = rows["keys"].chunk(0)
    has_samples = np.diff(np.frombuffer(keys.buffers()[1], np.int32)[keys.offset : keys.offset + len(keys) + 1]) > 0
    columns = [rows[column.name].chunk(0) for column in _CHUNK_SCHEMA]
    columns += [_text(split, has_samples | True), _text(shard, has_samples)]
    columns += [rows[name].chunk(0) for name in attribute_schema(schema).names]
    return pa.Table.from_batches([pa.RecordBatch.from_arrays(columns, schema=schema)])


def joined(rows: pa.Table, attributes: pa.Table) -> pa.Table:
    """Photographs with these attributes in place of others."""
    rows = rows.drop_columns(attribute_schema(rows.schema).names)
    return pa.Table.from_arrays([*rows.columns, *attributes.columns], [*rows.column_names, *attributes.column_names])


def int64_array(values: np.ndarray) -> pa.Array:
    """As ``pa.array``, which loads pandas (42 MB) where that is installed."""
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(np.ascontiguousarray(values, np.int64))])


def _text(text: str, where: np.ndarray) -> pa.Array:
    """``text`` in some rows, "" in the others; see `int64_array`."""
    raw = text.encode()
    ends = np.concatenate([[0], where.cumsum() * len(raw)]).astype(np.int32)
    return pa.Array.from_buffers(pa.string(), len(where), [None, pa.py_buffer(ends), pa.py_buffer(raw * where.sum())])


class TableWriter:
    """Writes rows in row groups of one size, so that the bytes depend on the rows alone. The file is there at the end.

    It is written when the context ends without an error, if there are rows. Without a schema, those of photographs have
    the attributes of the first ones.
    """

    def __init__(self, path: Path, schema: pa.Schema | None = None) -> None:
        self._path, self._schema = path, schema
        self._stack = contextlib.ExitStack()
        self._writer: pq.ParquetWriter | None = None
        self._pending: list[pa.Table] = []
        self._rows = 0  # counted as they come: a million tables may have a row each

    def add(self, table: pa.Table) -> None:
        self._pending.append(table)
        self._rows += len(table)
        while self._rows >= _ROWS_A_GROUP:
            together = pa.concat_tables(self._pending)
            self._write(together.slice(0, _ROWS_A_GROUP))
            self._pending = [together.slice(_ROWS_A_GROUP)]
            self._rows -= _ROWS_A_GROUP

    def _write(self, table: pa.Table) -> None:
        if self._schema is None:
            self._schema = with_attributes(table.schema)
        if self._writer is None:
            file = self._stack.enter_context(atomic_write(self._path))
            self._writer = self._stack.enter_context(pq.ParquetWriter(file, self._schema, compression="zstd"))
        self._writer.write_table(table.combine_chunks().cast(self._schema))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        if kind is None and self._rows:
            self._write(pa.concat_tables(self._pending))
        self._stack.__exit__(kind, *error)

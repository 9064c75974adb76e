"""photos.parquet: one row for every photograph seen, in the order they were added."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.json as pj
import pyarrow.parquet as pq

from facegan.errors import DamagedFile, DatasetError
from facegan.files import atomic_write, parsing
from facegan.shards.format import DATASET_FILE

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("outcome", pa.string()),
        ("reason", pa.string()),
        ("faces", pa.int32()),
        ("scores", pa.list_(pa.float32())),
        ("box", pa.list_(pa.float32())),
        ("keys", pa.list_(pa.string())),
        ("split", pa.string()),
        ("shard", pa.string()),
    ]
)
_AGAIN = "Delete it, and start facegan prep again: it makes these photographs again."
_ROWS_A_GROUP = 50_000
_BATCH = 10_000


def read_columns(path: Path, columns: list[str]) -> pa.Table:
    """Some columns of the table, read by this thread alone.

    pyarrow itself takes no path that is not UTF-8, and its threads, where they read through a Python file, now and then
    outlive the interpreter and end the process with SIGABRT.
    """
    with path.open("rb") as file, parsing(path):
        return pq.ParquetFile(file, pre_buffer=False).read(columns=columns, use_threads=False)


def read_batches(path: Path, columns: list[str] | None = None, rows: int = 10_000) -> Iterator[pa.RecordBatch]:
    """Some columns of the table (all where None), so many rows at a time, in order.

    Raises:
        DatasetError: the table can't be read, or is not one of ours.
    """
    try:
        with path.open("rb") as file, parsing(path), pq.ParquetFile(file, pre_buffer=False) as table:
            _require_columns(path, table)
            for batch in table.iter_batches(rows, columns=columns, use_threads=False):
                batch.validate(full=True)  # its text is UTF-8, its lists lie inside it
                if any(map(_holds_null, batch.columns)):
                    raise DatasetError(f"{path} has empty fields, which a table of facegan prep has not.")
                yield batch
    except FileNotFoundError:
        raise DatasetError(f"{path} is missing.") from None
    except DamagedFile as error:
        raise DatasetError(f"{path} can't be read ({error.why}).") from None


def _require_columns(path: Path, table: pq.ParquetFile) -> None:
    if not table.schema_arrow.equals(SCHEMA):
        names = set(table.schema_arrow.names)
        wrong = [name for name in SCHEMA.names if name not in names] or sorted(names - {*SCHEMA.names}) or ["types"]
        raise DatasetError(
            f"{path} has other columns ({', '.join(wrong)}) than a table of this facegan prep. "
            "Prepare its photographs again with --force."
        )


def _holds_null(column: pa.Array) -> bool:
    return column.null_count > 0 or (pa.types.is_list(column.type) and column.flatten().null_count > 0)


def read_known(path: Path) -> Iterator[tuple[str, int, str]]:
    """Path, size in bytes and SHA-256 of every photograph that the dataset accounts for."""
    for batch in read_batches(path, ["path", "bytes", "sha256"], _BATCH):
        yield from zip(*(batch.column(i).to_pylist() for i in range(3)), strict=True)


def read_in_pieces(path: Path, sizes: Iterable[int]) -> Iterator[pa.Table]:
    """The table in pieces of so many rows.

    Raises:
        DatasetError: it can't be read, or has fewer or more rows than that.
    """
    batches = read_batches(path, rows=_BATCH)
    waiting = SCHEMA.empty_table()
    for size in sizes:
        parts = [waiting]
        missing = size - len(waiting)
        while missing > 0:
            batch = next(batches, None)
            if batch is None:
                raise DatasetError(f"{path} has fewer rows than {DATASET_FILE} counts photographs.")
            parts.append(pa.Table.from_batches([batch]))
            missing -= len(batch)
        together = pa.concat_tables(parts)
        waiting = together.slice(size)
        yield together.slice(0, size)
    if len(waiting) or next(batches, None) is not None:
        raise DatasetError(f"{path} has more rows than {DATASET_FILE} counts photographs.")


def photo_counts(table: pa.Table) -> tuple[int, int, dict[str, int]]:
    """Photographs kept, their faces, and photographs rejected by reason."""
    # Neither pyarrow's own count nor its flatten: they load 30 MB of functions.
    reasons = Counter(table["reason"].to_pylist())
    kept = reasons.pop("", 0)
    ends = [(keys.offsets[0].as_py(), keys.offsets[-1].as_py()) for keys in table["keys"].chunks]
    faces = sum(last - first for first, last in ends)
    return kept, faces, reasons


class Fingerprint:
    """Of the paths and sizes of all photographs: the sum of each one's SHA-256, modulo 2²⁵⁶.

    It does not depend on their order, nor on how many additions they came in.
    """

    def __init__(self) -> None:
        self._sum = 0

    def add(self, rows: pa.Table) -> None:
        self.add_photos(zip(rows["path"].to_pylist(), rows["bytes"].to_pylist(), strict=True))

    def add_photos(self, photos: Iterable[tuple[str, int]]) -> None:
        sha256, number = hashlib.sha256, int.from_bytes
        self._sum += sum(number(sha256(f"{path}\0{size}".encode()).digest()) for path, size in photos)

    def __str__(self) -> str:
        return f"{self._sum % (1 << 256):064x}"


def read_rows(path: Path) -> pa.Table:
    """Rows as a chunk left them: a JSON object a line, without the last two columns.

    Parsed by pyarrow: a million rows as Python objects would take a minute.
    """
    data = path.read_bytes()
    told = pa.schema([field for field in SCHEMA if field.name not in ("split", "shard")])
    with parsing(path, _AGAIN):
        rows = pj.read_json(
            pa.BufferReader(data),
            pj.ReadOptions(use_threads=False, block_size=len(data) + 1),
            pj.ParseOptions(explicit_schema=told, unexpected_field_behavior="error"),
        )
        if any(_holds_null(chunk) for column in rows.columns for chunk in column.chunks):
            raise ValueError("a field is missing")
        return rows


def in_shard(rows: pa.Table, split: str, shard: str) -> pa.Table:
    """Rows with their split and with the shard that holds the samples of those that gave some."""
    rows = rows.combine_chunks()
    keys = rows["keys"].chunk(0)
    gave = np.diff(np.frombuffer(keys.buffers()[1], np.int32)[keys.offset : keys.offset + len(keys) + 1]) > 0
    told = [rows[field.name].chunk(0) for field in SCHEMA if field.name not in ("split", "shard")]
    columns = [*told, _text(split, gave | True), _text(shard, gave)]
    return pa.Table.from_batches([pa.RecordBatch.from_arrays(columns, schema=SCHEMA)])


def _text(text: str, where: np.ndarray) -> pa.Array:
    """``text`` in some rows, an empty string in the others. (Where pandas is installed pa.array imports it first.)"""
    raw = text.encode()
    ends = np.concatenate([[0], where.cumsum() * len(raw)]).astype(np.int32)
    return pa.Array.from_buffers(pa.string(), len(where), [None, pa.py_buffer(ends), pa.py_buffer(raw * where.sum())])


def write_photos(path: Path, tables: Iterable[pa.Table]) -> None:
    """The rows of all tables. Row groups are filled alike however they come, so that the bytes follow from the rows."""
    with atomic_write(path) as file, pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        waiting: list[pa.Table] = []
        rows = 0  # that wait: counted as they come, for a million tables may have a row each
        for table in tables:
            waiting.append(table)
            rows += len(table)
            while rows >= _ROWS_A_GROUP:
                together = pa.concat_tables(waiting)
                writer.write_table(together.slice(0, _ROWS_A_GROUP).combine_chunks())
                waiting = [together.slice(_ROWS_A_GROUP)]
                rows -= _ROWS_A_GROUP
        if rows:
            writer.write_table(pa.concat_tables(waiting).combine_chunks())

"""photos.parquet: one row for every photograph seen, in the order they were added."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.json as pj
import pyarrow.parquet as pq

from facegan.errors import DatasetError
from facegan.files import replacing

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
        ("keys", pa.list_(pa.string())),
        ("split", pa.string()),
        ("shard", pa.string()),
    ]
)
_ROWS_A_GROUP = 50_000


def read_columns(path: Path, columns: list[str]) -> pa.Table:
    """Some columns of the table, read by this thread alone.

    pyarrow itself takes no path that is not UTF-8, and its threads, where they read through a Python file, now and then
    outlive the interpreter and end the process with SIGABRT.
    """
    with path.open("rb") as file:
        return pq.ParquetFile(file, pre_buffer=False).read(columns=columns, use_threads=False)


def read_batches(path: Path, columns: list[str] | None = None, rows: int = 10_000) -> Iterator[pa.RecordBatch]:
    """Some columns of the table (all where None), so many rows at a time, in order.

    Raises:
        DatasetError: the table can't be read, or is not one of ours.
    """
    try:
        with path.open("rb") as file, pq.ParquetFile(file, pre_buffer=False) as table:
            if not table.schema_arrow.equals(SCHEMA):
                raise DatasetError(f"{path} has other columns than a table of facegan prep.")
            for batch in table.iter_batches(rows, columns=columns, use_threads=False):
                batch.validate(full=True)  # its text is UTF-8, its lists lie inside it
                if any(map(_holds_null, batch.columns)):
                    raise DatasetError(f"{path} has empty fields, which a table of facegan prep has not.")
                yield batch
    except FileNotFoundError:
        raise DatasetError(f"{path} is missing.") from None
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise DatasetError(f"{path} can't be read ({str(error).splitlines()[0]:.200}).") from None


def _holds_null(column: pa.Array) -> bool:
    return column.null_count > 0 or (pa.types.is_list(column.type) and column.flatten().null_count > 0)


def read_known(path: Path) -> dict[str, int]:
    """Path → size in bytes of every photograph that the dataset accounts for."""
    table = read_columns(path, ["path", "bytes"])
    return dict(zip(table["path"].to_pylist(), table["bytes"].to_pylist(), strict=True))


def read_rows(path: Path, split: str, shard: str) -> pa.Table:
    """Rows as a chunk left them (a JSON object a line, without the last two columns), and where they ended up.

    Args:
        shard: the file that holds the samples of the rows that gave some.

    Parsed by pyarrow: a million rows as Python objects would take a minute.
    """
    data = path.read_bytes()
    told = pa.schema([field for field in SCHEMA if field.name not in ("split", "shard")])
    rows = pj.read_json(
        pa.BufferReader(data),
        pj.ReadOptions(use_threads=False, block_size=len(data) + 1),
        pj.ParseOptions(explicit_schema=told, unexpected_field_behavior="error"),
    ).combine_chunks()
    keys = rows["keys"].chunk(0)
    gave = np.diff(np.frombuffer(keys.buffers()[1], np.int32)[keys.offset : keys.offset + len(keys) + 1]) > 0
    columns = [*(column.chunk(0) for column in rows.columns), _text(split, gave | True), _text(shard, gave)]
    return pa.Table.from_batches([pa.RecordBatch.from_arrays(columns, schema=SCHEMA)])


def _text(text: str, where: np.ndarray) -> pa.Array:
    """``text`` in some rows, an empty string in the others. (Where pandas is installed pa.array imports it first.)"""
    raw = text.encode()
    ends = np.concatenate([[0], where.cumsum() * len(raw)]).astype(np.int32)
    return pa.Array.from_buffers(pa.string(), len(where), [None, pa.py_buffer(ends), pa.py_buffer(raw * where.sum())])


def write_photos(path: Path, before: Path | None, rows: Iterable[pa.Table]) -> None:
    """The rows of ``before`` (photos.parquet of an earlier addition), then ``rows``.

    Row groups are filled alike whatever came in one addition or in several, so that the bytes follow from the rows.
    """
    with replacing(path) as file, pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        waiting: list[pa.Table] = []
        for table in _chain(before, rows):
            waiting.append(table)
            while sum(map(len, waiting)) >= _ROWS_A_GROUP:
                together = pa.concat_tables(waiting)
                writer.write_table(together.slice(0, _ROWS_A_GROUP).combine_chunks())
                waiting = [together.slice(_ROWS_A_GROUP)]
        if any(map(len, waiting)):
            writer.write_table(pa.concat_tables(waiting).combine_chunks())


def _chain(before: Path | None, rows: Iterable[pa.Table]) -> Iterable[pa.Table]:
    if before is not None:
        with before.open("rb") as file, pq.ParquetFile(file, pre_buffer=False) as table:
            for batch in table.iter_batches(_ROWS_A_GROUP, use_threads=False):
                yield pa.Table.from_batches([batch])
    yield from rows

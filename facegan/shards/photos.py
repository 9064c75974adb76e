"""photos.parquet: one row for every photograph seen, in the order they were added."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

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


def read_known(path: Path) -> dict[str, int]:
    """Path → size in bytes of every photograph that the dataset accounts for."""
    table = read_columns(path, ["path", "bytes"])
    return dict(zip(table["path"].to_pylist(), table["bytes"].to_pylist(), strict=True))


def write_photos(path: Path, before: Path | None, rows: Iterable[dict[str, Any]]) -> None:
    """The rows of ``before`` (photos.parquet of an earlier addition), then ``rows``.

    Row groups are filled alike whatever came in one addition or in several, so that the bytes follow from the rows.
    """
    with replacing(path) as file, pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        waiting: list[dict[str, Any]] = []
        for row in _chain(before, rows):
            waiting.append(row)
            if len(waiting) == _ROWS_A_GROUP:
                writer.write_table(pa.Table.from_pylist(waiting, SCHEMA))
                waiting = []
        writer.write_table(pa.Table.from_pylist(waiting, SCHEMA))


def _chain(before: Path | None, rows: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    if before is not None:
        with before.open("rb") as file, pq.ParquetFile(file, pre_buffer=False) as table:
            for batch in table.iter_batches(_ROWS_A_GROUP, use_threads=False):
                yield from batch.to_pylist()
    yield from rows

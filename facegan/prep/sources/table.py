"""Parquet files with a column of images or of URLs, as Hugging Face and img2dataset have them."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facegan.errors import DamagedSourceError
from facegan.prep.sources.base import Entry, is_photo
from facegan.prep.sources.blob import Blob
from facegan.prep.sources.columns import Columns, find_columns
from facegan.prep.sources.table_reader import (
    GROUPS_KEPT,
    TableReader,
    UnpackedTable,
    UrlTableReader,
    batches,
    check_bounds,
    chunks,
    open_parquet,
    unpack,
)
from facegan.unpack import Bounds

_PART = re.compile(r"^(train|validation|valid|val|test)(?![a-z])")
_ROWS_AT_ONCE = 5_000
_MOST_GROUP_BYTES = 1 << 26  # of images in a row group that is read whole


@dataclass(frozen=True)
class Table:
    """The rows of one or more Parquet files; each row is a photograph.

    Its name is what the table says, or where that is missing or said twice the row's number. The file's name may tell
    the split (``train-00000-of-00002.parquet``).
    """

    where: str
    blobs: tuple[Blob, ...]

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        columns = self._columns()
        named = bool(columns.name) and self._names_differ(columns)
        rows = 0
        for number, blob in enumerate(self.blobs):
            part = _part(blob.name)
            with blob.open() as file:
                told = _told(self._opened(file), columns, named, blob.bounds(file))
                for row, (name, label) in enumerate(told):
                    yield Entry(_photo_name(name) if named else b"%09d.jpg" % rows, 0, (number, row), label, part)
                    rows += 1

    def _columns(self) -> Columns:
        with self.blobs[0].open() as file:
            return find_columns(self._opened(file).schema_arrow, self.where)

    def _names_differ(self, columns: Columns) -> bool:
        seen = array("Q")  # digests: a table may have millions of names
        for blob in self.blobs:
            with blob.open() as file:
                for name, _ in _told(self._opened(file), columns, True, blob.bounds(file)):
                    if name is None:
                        return False
                    digest = hashlib.blake2b(_photo_name(name), digest_size=8).digest()
                    seen.append(int.from_bytes(digest, "little"))
        ordered = np.sort(np.frombuffer(seen, np.uint64)) if seen else np.empty(0)
        return not (ordered[1:] == ordered[:-1]).any()

    def _opened(self, file: Any) -> pq.ParquetFile:
        try:
            return open_parquet(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise DamagedSourceError(f"{self.where} is no Parquet file that can be read ({error}).") from None

    def marks(self) -> tuple[str, ...]:
        return tuple(blob.mark() for blob in self.blobs)

    def unpacked(self, folder: Path) -> Table | UnpackedTable:
        here = tuple(blob.in_parts(folder) for blob in self.blobs)
        table = self if here == self.blobs else Table(self.where, here)
        columns = table._columns()
        return table if table._is_read_as_it_lies(columns) else unpack(self.where, here, columns, folder)

    def _is_read_as_it_lies(self, columns: Columns) -> bool:
        """Whether photographs in the order of their names can be read with a few row groups in memory."""
        named = bool(columns.name) and self._names_differ(columns)
        borders: list[tuple[bytes, int]] = []  # where a row group's names begin (1) and end (-1)
        for blob in self.blobs:
            with blob.open() as file:
                bounds, table = blob.bounds(file), self._opened(file)
                told = _told(table, columns, named, bounds)
                names = (_photo_name(name) for name, _ in told) if named else iter(())
                for group in range(table.num_row_groups):
                    if next(chunks(table, group, [columns.data])).total_uncompressed_size > _MOST_GROUP_BYTES:
                        return False
                    first, last = b"\xff", b""
                    for name, _ in zip(names, range(table.metadata.row_group(group).num_rows), strict=False):
                        first, last = min(first, name), max(last, name)
                    borders += [(first, 1), (last, -1)]
        open_at_once = np.cumsum([step for _, step in sorted(borders, key=_begins_first)])
        return not named or bool(open_at_once.max(initial=0) <= GROUPS_KEPT)

    def reader(self) -> TableReader:
        columns = self._columns()
        return (UrlTableReader if columns.url else TableReader)(self.blobs, columns)


def _told(table: pq.ParquetFile, columns: Columns, named: bool, bounds: Bounds) -> Iterator[tuple[Any, int]]:
    """Every row's name and label, without its image; None and 0 where the table does not say."""
    check_bounds(table, bounds, columns.data)
    wanted = [*([columns.name] if named else []), *([columns.label] if columns.label else [])]
    if not wanted:
        yield from ((None, 0) for _ in range(table.metadata.num_rows))
        return
    unpacked = 0
    for batch in (b for group in range(table.num_row_groups) for b in batches(table, group, wanted, _ROWS_AT_ONCE)):
        unpacked += batch.nbytes
        bounds.check_bytes(unpacked)
        names: list[Any] = [None] * len(batch)
        labels: list[Any] = names
        if named:
            column = batch.column(columns.image if columns.nested else columns.name)
            names = (column.flatten()[0] if columns.nested else column).to_pylist()
        if columns.label:
            labels = batch.column(columns.label).to_pylist()
        yield from ((name, int(label or 0)) for name, label in zip(names, labels, strict=True))


def _begins_first(border: tuple[bytes, int]) -> tuple[bytes, int]:
    return border[0], -border[1]


def _photo_name(name: str) -> bytes:
    raw = name.encode("utf-8", "surrogateescape").lstrip(b"/")
    return raw if is_photo(raw) else raw + b".jpg"


def _part(file: str) -> str:
    found = _PART.match(file)
    return {"validation": "val", "valid": "val"}.get(found[1], found[1]) if found else ""

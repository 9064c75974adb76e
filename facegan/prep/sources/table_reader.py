"""Reading the rows of Parquet files: by row groups where they lie, or one by one from a copy on disk."""

from __future__ import annotations

import bisect
import contextlib
import functools
import itertools
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from facegan.files import replacing
from facegan.prep.sources.base import MAX_BYTES, Entry, Request
from facegan.prep.sources.blob import Blob
from facegan.prep.sources.columns import Columns
from facegan.prep.sources.fetch import any_number, fetch_told
from facegan.unpack import Bounds, Unpacking

GROUPS_KEPT = 3
_BUFFER_BYTES = 1 << 20
_BATCH_BYTES, _BATCH_ROWS = 1 << 24, 5_000
_DECODED_BYTES = 1 << 28  # at once, if every row has the largest value that there can be
_PLACE = struct.Struct("<qq")  # of an image in the copy: its first byte, and how many; or instead of that
_NO_IMAGE, _DAMAGED = -1, -2


def open_parquet(file: Any) -> pq.ParquetFile:
    """Columns are read a megabyte at a time, not a whole row group's at once."""
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES)


def batches(table: pq.ParquetFile, group: int, columns: list[str], most_rows: int) -> Iterator[pa.RecordBatch]:
    """The rows of a group, a few at a time. A value that the file holds once may be that of every row (a dictionary,
    shared prefixes), so that no more are decoded at once than fit if each is as large as all that the file holds."""
    most = max((column.total_uncompressed_size for column in chunks(table, group, columns)), default=0)
    rows = max(1, min(most_rows, _DECODED_BYTES // max(1, most)))
    return table.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False)


def chunks(table: pq.ParquetFile, group: int, columns: list[str]) -> Iterator[Any]:
    """What the file says of the columns of a row group."""
    told = table.metadata.row_group(group)
    return (column for column in map(told.column, range(told.num_columns)) if column.path_in_schema in columns)


def check_bounds(table: pq.ParquetFile, bounds: Bounds, column: str) -> None:
    """
    Raises:
        SourceError: more rows than bytes, or row groups that overlap.
    """
    bounds.check_photos(table.metadata.num_rows)
    groups = range(table.num_row_groups)
    parts = sum(chunk.total_compressed_size for group in groups for chunk in chunks(table, group, [column]))
    bounds.check_parts(parts, "row groups")


class TableReader:
    """Reads rows where they lie; the row groups last used stay in memory."""

    def __init__(self, blobs: tuple[Blob, ...], columns: Columns) -> None:
        self._blobs, self._columns = blobs, columns
        self._files: dict[int, tuple[Any, list[int], Bounds]] = {}  # with the first row of each group
        self._groups: dict[tuple[int, int], pa.ChunkedArray | None] = {}  # None: it unpacks to too much

    def read(self, entry: Entry) -> bytes:
        image = self._told(entry)
        return fetch_told(image) if isinstance(image, str) else image

    def _told(self, entry: Entry) -> bytes | str:
        number, row = entry.place
        _, firsts, _ = self._file(number)
        group = bisect.bisect_right(firsts, row) - 1
        images = self._group(number, group)
        if images is None:
            raise ValueError("a row group that unpacks to too much")
        image = _image(images[row - firsts[group]].as_py(), self._columns)
        if image is None:
            raise ValueError("a row without an image")
        return image

    def _file(self, number: int) -> tuple[Any, list[int], Bounds]:
        if number not in self._files:
            blob = self._blobs[number]
            file = blob.open()
            bounds = blob.bounds(file)
            table = open_parquet(file)
            self._files[number] = table, [0, *itertools.accumulate(_rows(table))], bounds
        return self._files[number]

    def _group(self, number: int, group: int) -> pa.ChunkedArray | None:
        key = (number, group)
        if key in self._groups:
            found = self._groups.pop(key)
        else:
            if len(self._groups) == GROUPS_KEPT:
                del self._groups[next(iter(self._groups))]
            with _damage_is_a_value_error():
                found = self._decoded(number, group)
        self._groups[key] = found  # at the end: the first is the one that was not used for longest
        return found

    def _decoded(self, number: int, group: int) -> pa.ChunkedArray | None:
        """None where it unpacks to more than its share of what the file may hold."""
        table, _, bounds = self._file(number)
        packed = sum(chunk.total_compressed_size for chunk in chunks(table, group, [self._columns.data]))
        room = min(MAX_BYTES, MAX_BYTES // table.num_row_groups + bounds.max_ratio * packed)
        pieces = []
        for batch in batches(table, group, [self._columns.data], _BATCH_ROWS):
            room -= batch.nbytes
            if room < 0:
                return None
            pieces.append(batch.column(0))
        return pa.chunked_array(pieces)

    def close(self) -> None:
        self._groups.clear()
        while self._files:
            self._files.popitem()[1][0].close(force=True)  # the file under it as well


class UrlTableReader(TableReader):
    """Of tables with a column of URLs."""

    def request(self, entry: Entry) -> Request:
        return functools.partial(fetch_told, str(self._told(entry)))


@dataclass(frozen=True)
class UnpackedTable:
    """Images (or URLs) of tables one after another in files, and the place of each in others, so that a row is read
    without those beside it."""

    where: str
    folder: Path
    urls: bool

    def reader(self) -> UnpackedReader:
        return UnpackedUrlReader(self) if self.urls else UnpackedReader(self)


class UnpackedReader:
    def __init__(self, table: UnpackedTable) -> None:
        self._table = table
        self._files: dict[str, BinaryIO] = {}

    def read(self, entry: Entry) -> bytes:
        number, row = entry.place
        places, images = self._file(f"{number:05d}.places"), self._file(f"{number:05d}.images")
        start, size = _PLACE.unpack(os.pread(places.fileno(), _PLACE.size, row * _PLACE.size))
        if size < 0:
            raise ValueError("a row without an image" if size == _NO_IMAGE else "damaged")
        return os.pread(images.fileno(), min(size, MAX_BYTES + 1), start)

    def _file(self, name: str) -> BinaryIO:
        if name not in self._files:
            self._files[name] = (self._table.folder / name).open("rb")
        return self._files[name]

    def close(self) -> None:
        while self._files:
            self._files.popitem()[1].close()


class UnpackedUrlReader(UnpackedReader):
    """Of copies that hold URLs."""

    def read(self, entry: Entry) -> bytes:
        return self.request(entry)(any_number)

    def request(self, entry: Entry) -> Request:
        return functools.partial(fetch_told, super().read(entry).decode("utf-8", "surrogateescape"))


def unpack(where: str, blobs: tuple[Blob, ...], columns: Columns, folder: Path) -> UnpackedTable:
    """Copies images into ``folder``, in the order and about as much at a time as they lie in the tables."""
    for number, blob in enumerate(blobs):
        with (
            blob.open() as file,
            open_parquet(file) as table,
            replacing(folder / f"{number:05d}.images") as images,
            replacing(folder / f"{number:05d}.places") as places,
        ):
            at, unpacking = 0, Unpacking(blob.bounds(file), folder)
            for image in _images(table, columns):
                data = image.encode("utf-8", "surrogateescape") if isinstance(image, str) else image
                if isinstance(data, int):
                    places.write(_PLACE.pack(at, data))
                    continue
                unpacking.add(len(data))
                images.write(data)
                places.write(_PLACE.pack(at, len(data)))
                at += len(data)
    return UnpackedTable(where, folder, bool(columns.url))


def _images(table: pq.ParquetFile, columns: Columns) -> Iterator[bytes | str | int]:
    """The image of every row; a number of ours where there is none."""
    for group, rows in enumerate(_rows(table)):
        left = rows
        try:
            with _damage_is_a_value_error():
                at_once = _BATCH_BYTES * rows // max(1, table.metadata.row_group(group).total_byte_size)
                for batch in batches(table, group, [columns.data], min(max(1, at_once), _BATCH_ROWS)):
                    for value in batch.column(0):
                        yield _told(value, columns)
                        left -= 1
        except ValueError:
            yield from itertools.repeat(_DAMAGED, left)


def _told(value: Any, columns: Columns) -> bytes | str | int:
    try:
        image = _image(value.as_py(), columns)
    except UnicodeDecodeError:  # a URL that is no text
        return _DAMAGED
    return _NO_IMAGE if image is None else image


def _image(value: Any, columns: Columns) -> bytes | str | None:
    return value and value["bytes"] if columns.nested else value


def _rows(table: pq.ParquetFile) -> list[int]:
    return [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]


@contextlib.contextmanager
def _damage_is_a_value_error() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is None:  # pyarrow's word for damage; the system's have a number
            raise ValueError(str(error)) from error
        raise

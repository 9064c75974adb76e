"""Parquet files with a column of images or of URLs, as Hugging Face and img2dataset have them."""

from __future__ import annotations

import bisect
import contextlib
import functools
import hashlib
import itertools
import os
import re
import struct
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facegan.console import shown
from facegan.errors import DamagedSourceError, SourceError
from facegan.files import atomic_write
from facegan.prep.sources.base import MAX_BYTES, Entry, Request, is_photo
from facegan.prep.sources.remote import SourceFile, any_number, fetch_sized
from facegan.unpack import Bounds, Unpacking

# Which columns of a Parquet file say what.

_URL_COLUMNS = ("url", "URL", "image_url", "img_url")
_NAME_COLUMNS = ("path", "file_name", "filename", "key", "__key__", "name")
_LABEL_COLUMNS = ("label", "labels", "class", "fine_label")


@dataclass(frozen=True)
class Columns:
    """One of ``image`` and ``url`` is set; ``nested`` is Hugging Face's {bytes, path}."""

    image: str = ""
    nested: bool = False
    url: str = ""
    name: str = ""
    label: str = ""

    @property
    def data(self) -> str:
        return f"{self.image}.bytes" if self.nested else self.image or self.url


def find_columns(schema: pa.Schema, where: str) -> Columns:
    """
    Raises:
        SourceError: there is neither a column of images nor one of URLs.
    """

    def first(names: tuple[str, ...], fits: Any) -> str:
        return next((name for name in names if name in schema.names and fits(schema.field(name).type)), "")

    def is_binary(kind: pa.DataType) -> bool:
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    def is_text(kind: pa.DataType) -> bool:
        return pa.types.is_string(kind) or pa.types.is_large_string(kind)

    label = first(_LABEL_COLUMNS, pa.types.is_integer)
    for field in schema:
        if pa.types.is_struct(field.type) and {"bytes", "path"} <= {inner.name for inner in field.type}:
            return Columns(image=field.name, nested=True, name=f"{field.name}.path", label=label)
    name = first(_NAME_COLUMNS, is_text)
    for field in schema:
        if is_binary(field.type):
            return Columns(image=field.name, name=name, label=label)
    url = first(_URL_COLUMNS, is_text)
    if url:
        return Columns(url=url, name=name, label=label)
    raise SourceError(
        f"{where} has no column of images (binary, or a struct of bytes and path) and none of URLs "
        f"({', '.join(_URL_COLUMNS)}); it has {shown(', '.join(schema.names))}."
    )


# Reading the rows of Parquet files: by row groups where they lie, or one by one from a copy on disk.

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

    def __init__(self, blobs: tuple[SourceFile, ...], columns: Columns) -> None:
        self._blobs, self._columns = blobs, columns
        self._files: dict[int, tuple[Any, list[int], Bounds]] = {}  # with the first row of each group
        self._groups: dict[tuple[int, int], pa.ChunkedArray | None] = {}  # None: it unpacks to too much

    def read(self, entry: Entry) -> bytes:
        image = self._told(entry)
        return fetch_sized(image) if isinstance(image, str) else image

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
        return functools.partial(fetch_sized, str(self._told(entry)))


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
        return functools.partial(fetch_sized, super().read(entry).decode("utf-8", "surrogateescape"))


def unpack(where: str, blobs: tuple[SourceFile, ...], columns: Columns, folder: Path) -> UnpackedTable:
    """Copies images into ``folder``, in the order and about as much at a time as they lie in the tables."""
    for number, blob in enumerate(blobs):
        with (
            blob.open() as file,
            open_parquet(file) as table,
            atomic_write(folder / f"{number:05d}.images") as images,
            atomic_write(folder / f"{number:05d}.places") as places,
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
                        yield _cell_error(value, columns)
                        left -= 1
        except ValueError:
            yield from itertools.repeat(_DAMAGED, left)


def _cell_error(value: Any, columns: Columns) -> bytes | str | int:
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
    blobs: tuple[SourceFile, ...]

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        columns = self._columns()
        named = bool(columns.name) and self._names_differ(columns)
        rows = 0
        for number, blob in enumerate(self.blobs):
            part = _part(blob.name)
            with blob.open() as file:
                told = _parquet_error(self._opened(file), columns, named, blob.bounds(file))
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
                for name, _ in _parquet_error(self._opened(file), columns, True, blob.bounds(file)):
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
                told = _parquet_error(table, columns, named, bounds)
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


def _parquet_error(table: pq.ParquetFile, columns: Columns, named: bool, bounds: Bounds) -> Iterator[tuple[Any, int]]:
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

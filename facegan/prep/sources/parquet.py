"""Parquet files with a column of images or URLs, as Hugging Face and img2dataset write them."""

from __future__ import annotations

import bisect
import contextlib
import functools
import hashlib
import itertools
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
from facegan.prep.sources.remote import SourceFile, fetch_url
from facegan.unpack import Bounds, Unpacking

_URL_COLUMNS = ("url", "URL", "image_url", "img_url")
_NAME_COLUMNS = ("path", "file_name", "filename", "key", "__key__", "name")
_LABEL_COLUMNS = ("label", "labels", "class", "fine_label")
_SPLIT_FILE = re.compile(r"^(train|validation|valid|val|test)(?![a-z])")  # train-00000-of-00002.parquet
_MAX_OPEN_GROUPS = 3  # row groups in memory
_MAX_GROUP_BYTES = 1 << 26  # of images, in a row group that is read whole
_BUFFER_BYTES = 1 << 20
_BATCH_BYTES, _BATCH_ROWS = 1 << 24, 5_000
_DECODED_BYTES = 1 << 28  # at once, if every row has the largest possible value
_LOCATION = struct.Struct("<qq")  # of an image in an unpacked table: its offset and size, or one of the numbers below
_NO_IMAGE, _DAMAGED = -1, -2


@dataclass(frozen=True)
class Table:
    """The rows of one or more Parquet files; each row is a photograph.

    It is named by the table, or by the row's number if the table has no names or repeats one. A file's name may give
    the split.
    """

    where: str
    files: tuple[SourceFile, ...]

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        columns = self.columns()
        named = bool(columns.name) and self._has_unique_names(columns)
        rows = 0
        for number, source in enumerate(self.files):
            part = _split_of(source.name)
            with source.open() as file:
                listed = _names_and_labels(self._open(file), columns, named, source.bounds(file))
                for row, (name, label) in enumerate(listed):
                    yield Entry(_photo_name(name) if named else b"%09d.jpg" % rows, 0, (number, row), label, part)
                    rows += 1

    def columns(self) -> Columns:
        with self.files[0].open() as file:
            return find_columns(self._open(file).schema_arrow, self.where)

    def _has_unique_names(self, columns: Columns) -> bool:
        seen = array("Q")  # digests: a table may have millions of names
        for source in self.files:
            with source.open() as file:
                for name, _ in _names_and_labels(self._open(file), columns, True, source.bounds(file)):
                    if name is None:
                        return False
                    digest = hashlib.blake2b(_photo_name(name), digest_size=8).digest()
                    seen.append(int.from_bytes(digest, "little"))
        ordered = np.sort(np.frombuffer(seen, np.uint64)) if seen else np.empty(0)
        return not (ordered[1:] == ordered[:-1]).any()

    def _open(self, file: Any) -> pq.ParquetFile:
        try:
            return _open_parquet(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise DamagedSourceError(f"{self.where} is not a readable Parquet file ({error}).") from None

    def digests(self) -> tuple[str, ...]:
        return tuple(file.quick_digest() for file in self.files)

    def unpacked(self, folder: Path) -> Table | UnpackedTable:
        table = Table(self.where, tuple(file.shareable(folder) for file in self.files))
        columns = table.columns()
        if table._is_readable_in_order(columns):
            return self if table == self else table
        return unpack(self.where, table.files, columns, folder)

    def _is_readable_in_order(self, columns: Columns) -> bool:
        """Whether photographs in the order of their names need only a few row groups in memory."""
        named = bool(columns.name) and self._has_unique_names(columns)
        bounds: list[tuple[bytes, int]] = []  # where a row group's names begin (-1) and end (1)
        for source in self.files:
            with source.open() as file:
                table, limits = self._open(file), source.bounds(file)
                listed = _names_and_labels(table, columns, named, limits)
                names = (_photo_name(name) for name, _ in listed) if named else iter(())
                for group, rows in enumerate(_rows(table)):
                    if next(_chunks(table, group, [columns.data])).total_uncompressed_size > _MAX_GROUP_BYTES:
                        return False
                    first, last = b"\xff", b""
                    for name, _ in zip(names, range(rows), strict=False):
                        first, last = min(first, name), max(last, name)
                    bounds += [(first, -1), (last, 1)]
        open_groups = np.cumsum([-step for _, step in sorted(bounds)])
        return not named or bool(open_groups.max(initial=0) <= _MAX_OPEN_GROUPS)

    def reader(self) -> TableReader:
        columns = self.columns()
        return (UrlTableReader if columns.url else TableReader)(self.files, columns)


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
    """The columns of images or URLs, of names and labels.

    Raises:
        SourceError: it has neither.
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
        f"{where} has no column of images (binary, or a struct of bytes and path) or URLs "
        f"({', '.join(_URL_COLUMNS)}). It has {shown(', '.join(schema.names))}."
    )


def _names_and_labels(
    table: pq.ParquetFile, columns: Columns, named: bool, bounds: Bounds
) -> Iterator[tuple[Any, int]]:
    """Every row's name and label, without its image; None and 0 if unknown. Refuses row groups that overlap."""
    bounds.check_photos(table.metadata.num_rows)
    groups = range(table.num_row_groups)
    parts = sum(chunk.total_compressed_size for group in groups for chunk in _chunks(table, group, [columns.data]))
    bounds.check_parts(parts, "row groups")
    wanted = [*([columns.name] if named else []), *([columns.label] if columns.label else [])]
    if not wanted:
        yield from ((None, 0) for _ in range(table.metadata.num_rows))
        return
    unpacked = 0
    for batch in (batch for group in groups for batch in _batches(table, group, wanted, _BATCH_ROWS)):
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


def _photo_name(name: str) -> bytes:
    raw = name.encode("utf-8", "surrogateescape").lstrip(b"/")
    return raw if is_photo(raw) else raw + b".jpg"


def _split_of(file: str) -> str:
    found = _SPLIT_FILE.match(file)
    return {"validation": "val", "valid": "val"}.get(found[1], found[1]) if found else ""


def _open_parquet(file: Any) -> pq.ParquetFile:
    """Columns are read a megabyte at a time, not a row group at a time."""
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES)


def _batches(table: pq.ParquetFile, group: int, columns: list[str], max_rows: int) -> Iterator[pa.RecordBatch]:
    """The rows of a group, a few at a time. A value stored once may be that of every row (dictionaries, shared
    prefixes), so each row is assumed to be as large as everything in the file."""
    largest = max((column.total_uncompressed_size for column in _chunks(table, group, columns)), default=0)
    rows = max(1, min(max_rows, _DECODED_BYTES // max(1, largest)))
    return table.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False)


def _chunks(table: pq.ParquetFile, group: int, columns: list[str]) -> Iterator[Any]:
    """The metadata of some columns of a row group."""
    metadata = table.metadata.row_group(group)
    return (column for column in map(metadata.column, range(metadata.num_columns)) if column.path_in_schema in columns)


def _rows(table: pq.ParquetFile) -> list[int]:
    return [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]


def _image(value: Any, columns: Columns) -> bytes | str | None:
    return value and value["bytes"] if columns.nested else value


@contextlib.contextmanager
def _damage_as_value_error() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is None:  # pyarrow's damage; the system's errors have a number
            raise ValueError(str(error)) from error
        raise


class TableReader:
    """Reads rows in place; the most recently used row groups stay in memory."""

    def __init__(self, files: tuple[SourceFile, ...], columns: Columns) -> None:
        self._files, self._columns = files, columns
        self._open: dict[int, tuple[Any, list[int], Bounds]] = {}  # with the first row of each group
        self._groups: dict[tuple[int, int], pa.ChunkedArray | None] = {}  # None: unpacks to too much

    def read(self, entry: Entry) -> bytes:
        value = self._value(entry)
        return fetch_url(value) if isinstance(value, str) else value

    def _value(self, entry: Entry) -> bytes | str:
        """The row's image or URL."""
        number, row = entry.locator
        _, first_rows, _ = self._table(number)
        group = bisect.bisect_right(first_rows, row) - 1
        images = self._group(number, group)
        if images is None:
            raise ValueError("a row group that unpacks to too much")
        image = _image(images[row - first_rows[group]].as_py(), self._columns)
        if image is None:
            raise ValueError("a row without an image")
        return image

    def _table(self, number: int) -> tuple[Any, list[int], Bounds]:
        if number not in self._open:
            file = self._files[number].open()
            bounds = self._files[number].bounds(file)
            table = _open_parquet(file)
            self._open[number] = table, [0, *itertools.accumulate(_rows(table))], bounds
        return self._open[number]

    def _group(self, number: int, group: int) -> pa.ChunkedArray | None:
        key = (number, group)
        if key in self._groups:
            found = self._groups.pop(key)
        else:
            if len(self._groups) == _MAX_OPEN_GROUPS:
                del self._groups[next(iter(self._groups))]
            with _damage_as_value_error():
                found = self._decode(number, group)
        self._groups[key] = found  # at the end: the first is the least recently used
        return found

    def _decode(self, number: int, group: int) -> pa.ChunkedArray | None:
        """None if it unpacks to more than its share of the file's limit."""
        table, _, bounds = self._table(number)
        packed = sum(chunk.total_compressed_size for chunk in _chunks(table, group, [self._columns.data]))
        left = min(MAX_BYTES, MAX_BYTES // table.num_row_groups + bounds.max_ratio * packed)
        parts = []
        for batch in _batches(table, group, [self._columns.data], _BATCH_ROWS):
            left -= batch.nbytes
            if left < 0:
                return None
            parts.append(batch.column(0))
        return pa.chunked_array(parts)

    def close(self) -> None:
        self._groups.clear()
        while self._open:
            self._open.popitem()[1][0].close(force=True)  # the underlying file as well


class UrlTableReader(TableReader):
    """Of tables with a column of URLs."""

    def request(self, entry: Entry) -> Request:
        return functools.partial(fetch_url, str(self._value(entry)))


@dataclass(frozen=True)
class UnpackedTable:
    """Images (or URLs) of tables, concatenated in one file per table, and their locations in another: random access
    to rows."""

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
        number, row = entry.locator
        start, size = _LOCATION.unpack(self._read(f"{number:05d}.locations", row * _LOCATION.size, _LOCATION.size))
        if size < 0:
            raise ValueError("a row without an image" if size == _NO_IMAGE else "damaged")
        return self._read(f"{number:05d}.images", start, min(size, MAX_BYTES + 1))

    def _read(self, name: str, start: int, size: int) -> bytes:
        if name not in self._files:
            self._files[name] = (self._table.folder / name).open("rb", buffering=0)
        self._files[name].seek(start)
        return self._files[name].read(size)

    def close(self) -> None:
        while self._files:
            self._files.popitem()[1].close()


class UnpackedUrlReader(UnpackedReader):
    """Of copies that hold URLs."""

    def read(self, entry: Entry) -> bytes:
        return self.request(entry)(None)

    def request(self, entry: Entry) -> Request:
        return functools.partial(fetch_url, super().read(entry).decode("utf-8", "surrogateescape"))


def unpack(where: str, files: tuple[SourceFile, ...], columns: Columns, folder: Path) -> UnpackedTable:
    """Copy images into ``folder``, in the tables' order and about as much at a time as they store together."""
    for number, source in enumerate(files):
        with (
            source.open() as file,
            _open_parquet(file) as table,
            atomic_write(folder / f"{number:05d}.images") as images,
            atomic_write(folder / f"{number:05d}.locations") as locations,
        ):
            at, unpacking = 0, Unpacking(source.bounds(file), folder)
            for image in _images(table, columns):
                data = image.encode("utf-8", "surrogateescape") if isinstance(image, str) else image
                if isinstance(data, int):
                    locations.write(_LOCATION.pack(at, data))
                    continue
                unpacking.add(len(data))
                images.write(data)
                locations.write(_LOCATION.pack(at, len(data)))
                at += len(data)
    return UnpackedTable(where, folder, bool(columns.url))


def _images(table: pq.ParquetFile, columns: Columns) -> Iterator[bytes | str | int]:
    """The image of every row, or `_NO_IMAGE` or `_DAMAGED`."""
    for group, rows in enumerate(_rows(table)):
        left = rows
        try:
            with _damage_as_value_error():
                at_once = _BATCH_BYTES * rows // max(1, table.metadata.row_group(group).total_byte_size)
                for batch in _batches(table, group, [columns.data], min(max(1, at_once), _BATCH_ROWS)):
                    for value in batch.column(0):
                        yield _cell(value, columns)
                        left -= 1
        except ValueError:
            yield from itertools.repeat(_DAMAGED, left)


def _cell(value: Any, columns: Columns) -> bytes | str | int:
    try:
        image = _image(value.as_py(), columns)
    except UnicodeDecodeError:  # a URL that is not text
        return _DAMAGED
    return _NO_IMAGE if image is None else image

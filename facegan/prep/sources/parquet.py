"""Parquet files with a column of images or URLs, as Hugging Face and img2dataset write them."""

from __future__ import annotations

import bisect
import contextlib
import functools
import hashlib
import itertools
import re
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facegan.console import shown
from facegan.errors import SourceError
from facegan.files import atomic_write
from facegan.prep.attributes import PANDAS_INDEX, AttributeList, is_number, name_problem, numbers
from facegan.prep.sources.base import MAX_BYTES, Entry, Reader, Source, is_photo
from facegan.prep.sources.remote import SourceFile, UrlReader
from facegan.unpack import Bounds, Unpacking

_URL_COLUMNS = ("url", "URL", "image_url", "img_url")
_NAME_COLUMNS = ("path", "file_name", "filename", "key", "__key__", "name")
_LABEL_COLUMNS = ("label", "labels", "class", "fine_label")
_SPLIT_FILE = re.compile(r"^(train|validation|valid|val|test)(?![a-z])")  # train-00000-of-00002.parquet
_SPLITS = {"validation": "val", "valid": "val"}
_MAX_OPEN_GROUPS = 3  # row groups in memory
_MAX_GROUP_BYTES = 1 << 26  # of images, in a row group that is read whole
_BUFFER_BYTES = 1 << 20
_BATCH_BYTES, _BATCH_ROWS = 1 << 24, 5_000
_NOT_NUMBERS = "not every value is a number"
_DECODED_BYTES = 1 << 28  # at once, if every row has the largest possible value


@dataclass(frozen=True)
class Table(Source):
    """The rows of one or more Parquet files; each row is a photograph.

    It is named by the table, or by the row's number if the table has no names or repeats one. A file's name may give
    the split.
    """

    files: tuple[SourceFile, ...]
    folder: Path | None = None  # of its copies, if its rows are in an order that needs them

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        columns = self._columns()
        named = self._has_unique_names(columns)
        parts = [_SPLIT_FILE.match(source.name) for source in self.files]
        splits = [_SPLITS.get(part[1], part[1]) if part else "" for part in parts]
        for count, (number, row, name, label) in enumerate(self._rows(columns, named)):
            yield Entry(name or b"%09d.jpg" % count, 0, (number, row), label, splits[number])

    def _columns(self) -> Columns:
        with self.files[0].open() as file:
            return find_columns(_open_parquet(file).schema_arrow, self.where)

    def _has_unique_names(self, columns: Columns) -> bool:
        seen = array("Q")  # digests: a table may have millions of names
        for _, _, name, _ in self._rows(columns, named=True) if columns.name else ():
            if name is None:
                return False
            seen.append(int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little"))
        return bool(columns.name) and np.unique(np.asarray(seen)).size == len(seen)

    def _rows(self, columns: Columns, named: bool) -> Iterator[tuple[int, int, bytes | None, int]]:
        """Every row's file, its number in the file, its name (if asked for and known) and its label. Refuses files
        whose row groups overlap or that claim too much."""
        wanted = [*([columns.name] if named else []), *([columns.label] if columns.label else [])]
        for number, source in enumerate(self.files):
            with source.open() as file:
                table, bounds = _open_parquet(file), source.bounds(file)
                rows, groups = table.metadata.num_rows, range(table.num_row_groups)
                bounds.check_photos(rows)
                chunks = (chunk for group in groups for chunk in _chunks(table, group, [columns.data]))
                bounds.check_parts(sum(chunk.total_compressed_size for chunk in chunks), "row groups")
                if not wanted:
                    yield from ((number, row, None, 0) for row in range(rows))
                    continue
                row = 0
                for batch in _bounded_batches(table, wanted, bounds):
                    names: list[Any] = [None] * len(batch)
                    labels: list[Any] = names
                    if named:
                        column = batch.column(columns.image if columns.nested else columns.name)
                        names = (column.flatten()[0] if columns.nested else column).to_pylist()
                    if columns.label:
                        labels = batch.column(columns.label).to_pylist()
                    for name, label in zip(names, labels, strict=True):
                        yield number, row, None if name is None else _photo_name(name), int(label or 0)
                        row += 1

    def attributes(self) -> tuple[AttributeList, dict[str, str]]:
        """Columns of numbers or truth values, without gaps, that all files have and prep has no other use for; and for
        each other column why it is not among them."""
        columns, parts, left_out = self._columns(), dict[str, list[pa.Array]](), dict[str, str]()
        others = {columns.image, columns.url, columns.name, columns.label, *PANDAS_INDEX}
        for number, source in enumerate(self.files):
            with source.open() as file:
                table = _open_parquet(file)
                kinds, kept = {f.name: f.type for f in table.schema_arrow if f.name not in others}, parts
                parts = dict[str, list[pa.Array]]()
                for name in kept if number else kinds:
                    problem = name_problem(name, parts) if is_number(kinds.get(name)) else _NOT_NUMBERS
                    left_out |= {name: problem} if problem else {}
                    parts |= {} if problem else {name: kept.get(name, [])}
                for batch in _bounded_batches(table, [*parts], source.bounds(file)) if parts else ():
                    for name in [*parts]:
                        try:
                            parts[name].append(numbers(batch.column(name), name, self.where, 0))
                        except (SourceError, pa.ArrowInvalid):
                            del parts[name]
                            left_out[name] = _NOT_NUMBERS
        photos = pa.array((entry.name for entry in self.photos(Counter()) if parts), pa.binary())
        return AttributeList.of(self.where, "source", photos, parts), left_out

    def digests(self) -> tuple[str, ...]:
        return tuple(file.quick_digest() for file in self.files)

    def unpacked(self, folder: Path) -> Table:
        table = Table(self.where, tuple(file.shareable(folder) for file in self.files))
        return table if table._is_readable_in_order() else table.copied(folder)

    def _is_readable_in_order(self) -> bool:
        """Whether photographs in the order of their names need only a few row groups in memory."""
        columns, first_rows = self._columns(), []
        for source in self.files:
            with source.open() as file:
                table = _open_parquet(file)
                for group in range(table.num_row_groups):
                    if next(_chunks(table, group, [columns.data])).total_uncompressed_size > _MAX_GROUP_BYTES:
                        return False
                first_rows.append(_first_rows(table))
        if not self._has_unique_names(columns):
            return True
        bounds: list[tuple[bytes, int]] = []  # where a row group's names begin (-1) and end (1)
        rows = ((number, row, name or b"") for number, row, name, _ in self._rows(columns, named=True))
        for _, group in itertools.groupby(rows, lambda row: (row[0], bisect.bisect(first_rows[row[0]], row[1]))):
            names = [name for _, _, name in group]
            bounds += [(min(names), -1), (max(names), 1)]
        open_groups = np.cumsum([-step for _, step in sorted(bounds)])
        return bool(open_groups.max(initial=0) <= _MAX_OPEN_GROUPS)

    def copied(self, folder: Path) -> Table:
        """Images (or URLs) of each table concatenated in one file, and their places in another: random access. They
        are copied in the tables' order, about as much at a time as they store together."""
        columns = self._columns()
        for number, source in enumerate(self.files):
            places, at = array("q"), 0
            with source.open() as file, atomic_write(folder / f"{number:05d}.images") as out:
                table, unpacking = _open_parquet(file), Unpacking(source.bounds(file), folder)
                for image in _images(table, columns):
                    size = -1 if image is None else len(image)
                    places.extend((at, size))
                    if image is not None:
                        unpacking.add(size)
                        out.write(image)
                        at += size
            np.save(folder / f"{number:05d}.npy", np.asarray(places).reshape(-1, 2))
        return replace(self, folder=folder)

    def reader(self) -> Reader:
        columns = self._columns()
        reader = CopiedTableReader(self.folder) if self.folder else TableReader(self.files, columns)
        return UrlReader(reader) if columns.url else reader


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
    """The columns of images or URLs, of names and labels; raises SourceError if there are neither images nor URLs."""

    def first(names: tuple[str, ...], fits: Any) -> str:
        return next((name for name in names if name in schema.names and fits(schema.field(name).type)), "")

    label = first(_LABEL_COLUMNS, pa.types.is_integer)
    is_text = (pa.string(), pa.large_string()).__contains__
    for field in schema:
        if pa.types.is_struct(field.type) and {"bytes", "path"} <= {inner.name for inner in field.type}:
            return Columns(image=field.name, nested=True, name=f"{field.name}.path", label=label)
    name = first(_NAME_COLUMNS, is_text)
    for field in schema:
        if field.type in (pa.binary(), pa.large_binary()):
            return Columns(image=field.name, name=name, label=label)
    if url := first(_URL_COLUMNS, is_text):
        return Columns(url=url, name=name, label=label)
    raise SourceError(
        f"{where} has no column of images (binary, or a struct of bytes and path) or URLs "
        f"({', '.join(_URL_COLUMNS)}). It has {shown(', '.join(schema.names))}."
    )


def _photo_name(name: str) -> bytes:
    raw = name.encode("utf-8", "surrogateescape").lstrip(b"/")
    return raw if is_photo(raw) else raw + b".jpg"


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


def _first_rows(table: pq.ParquetFile) -> list[int]:
    """Of each row group, and of one after the last."""
    rows = (table.metadata.row_group(group).num_rows for group in range(table.num_row_groups))
    return [0, *itertools.accumulate(rows)]


def _bounded_batches(table: pq.ParquetFile, names: list[str], bounds: Bounds) -> Iterator[pa.RecordBatch]:
    unpacked = 0
    for group in range(table.num_row_groups):
        for batch in _batches(table, group, names, _BATCH_ROWS):
            unpacked += batch.nbytes
            bounds.check_bytes(unpacked)
            yield batch


def _image(value: pa.Scalar, columns: Columns) -> bytes | None:
    """An image, or a URL as bytes; None if the row has none."""
    try:
        image = value.as_py()
    except UnicodeDecodeError:  # a URL that is not text
        return None
    image = image and image["bytes"] if columns.nested else image
    return image.encode("utf-8", "surrogateescape") if isinstance(image, str) else image


def _images(table: pq.ParquetFile, columns: Columns) -> Iterator[bytes | None]:
    """The image of every row; None if it has none or is damaged."""
    for group, (first, end) in enumerate(itertools.pairwise(_first_rows(table))):
        left = end - first
        try:
            with _damage_as_value_error():
                at_once = _BATCH_BYTES * left // max(1, table.metadata.row_group(group).total_byte_size)
                for batch in _batches(table, group, [columns.data], min(max(1, at_once), _BATCH_ROWS)):
                    for value in batch.column(0):
                        left -= 1
                        yield _image(value, columns)
        except ValueError:
            yield from itertools.repeat(None, left)


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
        self._group = functools.lru_cache(_MAX_OPEN_GROUPS)(self._decode)

    def read(self, entry: Entry) -> bytes:
        number, row = entry.locator
        if number not in self._open:
            file = self._files[number].open()
            bounds = self._files[number].bounds(file)
            table = _open_parquet(file)
            self._open[number] = table, _first_rows(table), bounds
        first_rows = self._open[number][1]
        group = bisect.bisect(first_rows, row) - 1
        with _damage_as_value_error():
            images = self._group(number, group)
        if images is None:
            raise ValueError("a row group that unpacks to too much")
        image = _image(images[row - first_rows[group]], self._columns)
        if image is None:
            raise ValueError("a row without an image")
        return image

    def _decode(self, number: int, group: int) -> pa.ChunkedArray | None:
        """None if it unpacks to more than its share of the file's limit."""
        table, _, bounds = self._open[number]
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
        self._group.cache_clear()
        while self._open:
            self._open.popitem()[1][0].close(force=True)  # the underlying file as well


class CopiedTableReader:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[int, tuple[np.ndarray, BinaryIO]] = {}

    def read(self, entry: Entry) -> bytes:
        number, row = entry.locator
        if number not in self._open:
            places = np.load(self._folder / f"{number:05d}.npy", mmap_mode="r")
            self._open[number] = places, (self._folder / f"{number:05d}.images").open("rb", buffering=0)
        places, images = self._open[number]
        start, size = places[row].tolist()
        if size < 0:
            raise ValueError("a row without an image, or a damaged one")
        images.seek(start)
        return images.read(min(size, MAX_BYTES + 1))

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1][1].close()

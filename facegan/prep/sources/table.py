"""Parquet files with a column of images or of URLs, as Hugging Face and img2dataset have them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from facegan.errors import SourceError
from facegan.prep.sources.base import Blob, Entry, is_photo
from facegan.remote import filesystem, patiently

_URL_COLUMNS = ("url", "URL", "image_url", "img_url")
_NAME_COLUMNS = ("path", "file_name", "filename", "key", "__key__", "name")
_LABEL_COLUMNS = ("label", "labels", "class", "fine_label")
_PART = re.compile(r"^(train|validation|valid|val|test)(?![a-z])")
_PROTOCOLS = ("http", "https", "s3", "gs", "gcs", "hf")  # a table may not make us read this machine's own files


@dataclass(frozen=True)
class Columns:
    """Which columns say what. One of ``image`` and ``url`` is set; ``nested`` is Hugging Face's {bytes, path}."""

    image: str = ""
    nested: bool = False
    url: str = ""
    name: str = ""
    label: str = ""

    @property
    def data(self) -> str:
        return f"{self.image}.bytes" if self.nested else self.image or self.url


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
        row = 0
        for number, blob in enumerate(self.blobs):
            part = _part(blob.name)
            with blob.open() as file:
                table = self._opened(file)
                for group in range(table.num_row_groups):
                    names, labels = _told(table, group, columns, named)
                    count = table.metadata.row_group(group).num_rows
                    for i in range(count):
                        name = _photo_name(names[i]) if names else b"%09d.jpg" % row
                        yield Entry(name, 0, (number, group, i), labels[i] if labels else 0, part)
                        row += 1

    def _columns(self) -> Columns:
        with self.blobs[0].open() as file:
            return _find_columns(self._opened(file).schema_arrow, self.where)

    def _names_differ(self, columns: Columns) -> bool:
        seen: set[int] = set()  # of hashes: a table may have millions of names
        rows = 0
        for blob in self.blobs:
            with blob.open() as file:
                table = self._opened(file)
                for group in range(table.num_row_groups):
                    names, _ = _told(table, group, columns, True)
                    if None in names:
                        return False
                    rows += len(names)
                    seen.update(hash(_photo_name(name)) for name in names)
        return len(seen) == rows

    def _opened(self, file: Any) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(file, pre_buffer=False)
        except (pa.ArrowInvalid, OSError) as error:
            raise SourceError(f"{self.where} is no Parquet file that can be read ({error}).") from None

    def marks(self) -> tuple[str, ...]:
        return tuple(blob.mark() for blob in self.blobs)

    def unpacked(self, folder: Path) -> Table:
        return self

    def reader(self) -> TableReader:
        return TableReader(self.blobs, self._columns())


def _find_columns(schema: pa.Schema, where: str) -> Columns:
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
        f"({', '.join(_URL_COLUMNS)}); it has {', '.join(schema.names)}."
    )


def _told(table: pq.ParquetFile, group: int, columns: Columns, named: bool) -> tuple[list[Any], list[int]]:
    """Names and labels of a row group, without its images; empty where the table does not say."""
    wanted = [*([columns.name] if named else []), *([columns.label] if columns.label else [])]
    if not wanted:
        return [], []
    found = table.read_row_group(group, wanted, use_threads=False)
    names: list[Any] = []
    if named:
        column = found.column(columns.image if columns.nested else columns.name)
        values = column.to_pylist()
        names = [value and value["path"] for value in values] if columns.nested else values
    labels = [int(value or 0) for value in found.column(columns.label).to_pylist()] if columns.label else []
    return names, labels


def _photo_name(name: str) -> bytes:
    raw = name.encode("utf-8", "surrogateescape").lstrip(b"/")
    return raw if is_photo(raw) else raw + b".jpg"


def _part(file: str) -> str:
    found = _PART.match(file)
    return {"validation": "val", "valid": "val"}.get(found[1], found[1]) if found else ""


class TableReader:
    """Reads rows; the row groups last used stay in memory."""

    _groups_kept = 3

    def __init__(self, blobs: tuple[Blob, ...], columns: Columns) -> None:
        self._blobs, self._columns = blobs, columns
        self._files: dict[int, Any] = {}
        self._groups: dict[tuple[int, int], pa.ChunkedArray] = {}

    def read(self, entry: Entry) -> bytes:
        number, group, row = entry.place
        value = self._group(number, group)[row].as_py()
        if self._columns.nested:
            value = value and value["bytes"]
        if value is None:
            raise ValueError("a row without an image")
        return _fetch(value) if self._columns.url else bytes(value)

    def _group(self, number: int, group: int) -> pa.ChunkedArray:
        key = (number, group)
        if key not in self._groups:
            if len(self._groups) == self._groups_kept:
                del self._groups[next(iter(self._groups))]
            if number not in self._files:
                self._files[number] = pq.ParquetFile(self._blobs[number].open(), pre_buffer=False)
            read = self._files[number].read_row_group
            try:
                found = read(group, [self._columns.data], use_threads=False)
            except OSError as error:
                if error.errno is None:  # pyarrow's word for damage; the system's have a number
                    raise ValueError(str(error)) from error
                raise
            self._groups[key] = found.column(0)
        return self._groups[key]

    def close(self) -> None:
        self._groups.clear()
        while self._files:
            self._files.popitem()[1].close(force=True)  # the file under it as well


def _fetch(url: str) -> bytes:
    if url.partition("://")[0].lower() not in _PROTOCOLS:
        raise ValueError(f"a URL of another kind than {', '.join(_PROTOCOLS)}")
    fs, path = filesystem(url)
    return patiently(lambda: fs.cat_file(path))

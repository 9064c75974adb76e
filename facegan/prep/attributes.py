"""Lists of attributes: a file with a row for each photograph → typed columns. See docs/dataset-format.md."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facegan.console import counted, shown
from facegan.errors import DamagedFile, SourceError
from facegan.files import parsing
from facegan.shards.detections import SAMPLES
from facegan.shards.photos import int64_array

_NAMED = ("path", "file", "filename", "file_name", "image", "image_id", "key")  # columns of photographs
_TAKES = "--attributes takes CelebA's list_attr_celeba.txt or .csv, another CSV, or a Parquet file."
_BLOCK_BYTES = 1 << 20
_BATCH_ROWS = 10_000


@dataclass(frozen=True)
class AttributeList:
    """Attributes of photographs.

    ``photos`` (binary) has the path, file name or key of each; ``values`` has a column for each attribute, as
    `facegan.shards.photos.ATTRIBUTE_TYPES` has them.
    """

    where: str
    sha256: str
    photos: pa.Array
    values: pa.Table

    @classmethod
    def read(cls, where: str, file: IO[bytes] | None = None) -> AttributeList:
        """A file, or what ``file`` has. ``where`` names it in messages.

        CelebA's list_attr_celeba.txt (Liu et al. 2015, "Deep Learning Face Attributes in the Wild") has the number of
        photographs in its first line and the attributes' names in its second. A CSV's first line has the names of all
        columns. Raises SourceError for other files, and where a value is missing or no number.
        """
        try:
            with file or Path(where).open("rb") as opened:
                sha256 = hashlib.file_digest(cast(BufferedReader, opened), "sha256").hexdigest()
                opened.seek(0)
                with parsing(where, _TAKES):
                    is_parquet = opened.read(4) == b"PAR1"
                    opened.seek(0)
                    batches = _parquet(opened, where) if is_parquet else _text(opened, where)
                    return cls.of(where, sha256, *_collect(where, batches))
        except OSError as error:
            raise SourceError(f"{where} cannot be read ({error}). {_TAKES}") from None
        except DamagedFile as error:
            raise SourceError(str(error)) from None

    @classmethod
    def of(cls, where: str, sha256: str, photos: pa.Array, values: dict[str, list[pa.Array]]) -> AttributeList:
        """Raises SourceError unless the names are unique, for SQL, too, and not those of other columns of samples."""
        known = {name.lower() for name in SAMPLES.names}
        for name in values:
            if name.lower() in known or not name.strip():
                raise SourceError(
                    f"{where} has an attribute {shown(name)!r}: photos.parquet has such a column. Rename it."
                )
            known.add(name.lower())
        return cls(where, sha256, photos, pa.table({name: _typed(some) for name, some in values.items()}))

    def lack(self, photos: int, first: str) -> str:
        """That there are none for some photographs, in words."""
        others = f" and {counted(photos - 1, 'other')}" if photos > 1 else ""
        return f"{self.where} has no attributes of {shown(first)}{others}."


def _text(file: IO[bytes], where: str) -> Iterator[tuple[str, int, pa.RecordBatch]]:
    """A CSV's or CelebA's column of photographs, the line that a batch begins in, and the batch."""
    from pyarrow import csv as arrow_csv  # 3 MB, for those who need it

    first = file.readline(_BLOCK_BYTES).decode("utf-8-sig").strip()
    is_celeba = first.isdigit()
    names = ["image_id", *file.readline(_BLOCK_BYTES).decode().split()] if is_celeba else next(csv.reader([first]), [])
    if not 2 <= len(names) == len({*names}):
        raise SourceError(f"{where} is not a list of attributes, each with its own name. {_TAKES}")
    file.seek(0)  # so that errors count lines from there
    with arrow_csv.open_csv(
        _Spaced(file) if is_celeba else file,
        arrow_csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES, column_names=names, skip_rows=1 + is_celeba),
        arrow_csv.ParseOptions(delimiter=" " if is_celeba else ","),
        arrow_csv.ConvertOptions(column_types={name: pa.binary() for name in names if name.lower() in _NAMED}),
    ) as reading:
        photo, line = _photo_column(reading.schema, where), 2 + is_celeba
        for batch in reading:
            yield photo, line, batch
            line += len(batch)


class _Spaced:
    """A text whose runs of spaces are one space: pyarrow's CSV reader takes each for a column."""

    closed = False  # pyarrow asks

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        data = self._file.read(size // 2) + self._file.readline()  # whole lines
        while b"  " in data:
            data = data.replace(b"  ", b" ")
        return data.replace(b"\r\n", b"\n").replace(b" \n", b"\n")


def _parquet(file: IO[bytes], where: str) -> Iterator[tuple[str, int, pa.RecordBatch]]:
    with pq.ParquetFile(file, pre_buffer=False) as table:
        photo, row = _photo_column(table.schema_arrow, where), 1
        for batch in table.iter_batches(_BATCH_ROWS, use_threads=False):
            yield photo, row, batch
            row += len(batch)


def _photo_column(schema: pa.Schema, where: str) -> str:
    """One of `_NAMED`, else the first with text."""
    texts = [field.name for field in schema if field.type in (pa.string(), pa.large_string(), pa.binary())]
    for name in [*(name for wanted in _NAMED for name in texts if name.lower() == wanted), *texts]:
        return name
    raise SourceError(f"{where} has no column of photographs: name one path, file, image_id or key.")


def _collect(
    where: str, batches: Iterable[tuple[str, int, pa.RecordBatch]]
) -> tuple[pa.Array, dict[str, list[pa.Array]]]:
    """The photographs and, by name, the attributes' values in parts."""
    photos, parts = list[pa.Array](), dict[str, list[pa.Array]]()
    for photo, line, batch in batches:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if name == photo and not column.null_count:
                photos.append(column.cast(pa.binary()))
            else:
                parts.setdefault(name, []).append(numbers(column, name, where, line))
    pa.default_memory_pool().release_unused()  # what the parser took
    if not sum(map(len, photos)):
        raise SourceError(f"{where} has no photographs. {_TAKES}")
    return pa.concat_arrays(photos), parts


def numbers(column: pa.Array, name: str, where: str, line: int) -> pa.Array:
    """Bools, finite doubles, or the smaller of two integers that suffices: a list may have a million rows.

    Raises SourceError for anything else; ``line`` is that of the first one.
    """
    kind = column.type
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise SourceError(f"{where} has no value of {shown(name)} in line {line + row}.")
    if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        why = f"{where} has {shown(name)} = {shown(column[0].as_py()):.60}: an attribute is a number, or true or false."
        raise SourceError(f"{why}\nWrite a class as its number, or leave the column out.")
    if pa.types.is_boolean(kind):
        return column
    column = column.cast(pa.float64() if pa.types.is_floating(kind) else pa.int64())
    values = column.to_numpy()
    if not np.isfinite(values).all():
        raise SourceError(f"{where} has a value of {shown(name)} that is not finite.")
    is_small = column.type == pa.int64() and -128 <= values.min(initial=0) <= values.max(initial=0) < 128
    return column.cast(pa.int8()) if is_small else column  # in Arrow's pool: a heap of NumPy's would be in pieces


def _typed(parts: list[pa.Array]) -> pa.Array:
    """±1, 0 and 1: binary."""
    values = np.concatenate([part.to_numpy(zero_copy_only=False) for part in parts])
    if values.dtype == np.float64:
        return pa.Array.from_buffers(pa.float64(), len(values), [None, pa.py_buffer(values)])
    found = set(np.unique(values).tolist())
    if values.dtype == bool or found <= {1, -1} or found <= {0, 1}:
        bits = np.packbits(values == 1, bitorder="little")
        return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(bits)])
    return int64_array(values)


def json_values(table: pa.Table, rows: np.ndarray) -> list[tuple[int | float, ...]]:
    """The attributes in some rows as KEY.json has them: 1 or −1, the class, or the number."""
    columns = [column.take(int64_array(rows)).to_numpy() for column in table.columns]
    values = [(np.where(column, 1, -1) if column.dtype == bool else column).tolist() for column in columns]
    return list(zip(*values, strict=True)) or [()] * len(rows)

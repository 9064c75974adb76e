"""Lists of attributes: a file with a row for each photograph → typed columns. See docs/dataset-format.md."""

from __future__ import annotations

import csv
import hashlib
import re
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
PANDAS_INDEX = ("", "__index_level_0__")
_TAKES = "--attributes takes CelebA's list_attr_celeba.txt or .csv, another CSV, or a Parquet file."
_TEXTS = (pa.string(), pa.large_string(), pa.binary())
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
        """Raises SourceError for names that `name_problem` refuses."""
        for number, name in enumerate(values):
            if problem := name_problem(name, [*values][:number]):
                raise SourceError(f"{where} has an attribute {shown(name)!r}: {problem}. Rename it.")
        return cls(where, sha256, photos, pa.table({name: _typed(some) for name, some in values.items()}))

    def lack(self, photos: int, first: str) -> str:
        """That there are none for some photographs, in words."""
        others = f" and {counted(photos - 1, 'other')}" if photos > 1 else ""
        return f"{self.where} has no attributes of {shown(first)}{others}."


def name_problem(name: str, others: Iterable[str]) -> str:
    """Why an attribute cannot have this name beside those of the columns of samples and ``others``; or ""."""
    if not name or name != name.strip() or {",", "="} & {*name}:
        return "a name has no comma, no =, and no space at its ends, and is not empty"
    is_taken = name.lower() in {other.lower() for other in (*SAMPLES.names, *others)}  # SQL has no cases
    return "photos.parquet has such a column" if is_taken else ""


def _text(file: IO[bytes], where: str) -> Iterator[tuple[str, int, pa.RecordBatch]]:
    """A CSV's or CelebA's column of photographs, the line that a batch begins in, and the batch.

    Each batch has types of its own: the first decimal of a column may be the millionth value.
    """
    from pyarrow import csv as arrow_csv  # 3 MB, for those who need it

    first = file.readline(_BLOCK_BYTES).decode("utf-8-sig").strip()
    is_celeba = first.isdigit()
    names = ["image_id", *file.readline(_BLOCK_BYTES).decode().split()] if is_celeba else next(csv.reader([first]), [])
    names, line = [name.strip() for name in names], 2 + is_celeba
    if not 2 <= len(names) == len({*names}):
        raise SourceError(f"{where} is not a list of attributes, each with its own name. {_TAKES}")
    parse = arrow_csv.ParseOptions(delimiter=" " if is_celeba else ",")
    convert = arrow_csv.ConvertOptions(column_types={name: pa.binary() for name in names if name.lower() in _NAMED})
    while data := file.read(_BLOCK_BYTES) + file.readline():  # whole lines
        while is_celeba and b"  " in data:  # pyarrow takes each space for a column
            data = data.replace(b"  ", b" ")
        text = data.replace(b"\r\n", b"\n").replace(b" \n", b"\n") if is_celeba else data
        reading = arrow_csv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=names)
        try:
            table = arrow_csv.read_csv(pa.BufferReader(text), reading, parse, convert) if text.strip() else None
        except pa.ArrowInvalid as error:  # it counts from the batch's first line
            row = re.search(r"(?<=Row #)\d+", str(error))
            why = str(error).replace(f"Row #{row[0]}", f"Row #{int(row[0]) + line - 1}", 1) if row else error
            raise ValueError(why) from None
        if table is not None:
            for batch in table.to_batches():
                yield _photo_column(table.schema, where), line, batch
        line += data.count(b"\n")


def _parquet(file: IO[bytes], where: str) -> Iterator[tuple[str, int, pa.RecordBatch]]:
    with pq.ParquetFile(file, pre_buffer=False) as table:
        photo, row = _photo_column(table.schema_arrow, where), 1
        for batch in table.iter_batches(_BATCH_ROWS, use_threads=False):
            yield photo, row, batch
            row += len(batch)


def _photo_column(schema: pa.Schema, where: str) -> str:
    """One of `_NAMED`, else the first with text."""
    texts = [field.name for field in schema if field.type in _TEXTS]
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
            elif not ((name == batch.schema.names[0] and name in PANDAS_INDEX) or _is_other_name(name, column)):
                parts.setdefault(name, []).append(numbers(column, name, where, line))
    pa.default_memory_pool().release_unused()  # what the parser took
    if not sum(map(len, photos)):
        raise SourceError(f"{where} has no photographs. {_TAKES}")
    return pa.concat_arrays(photos), parts


def _is_other_name(name: str, column: pa.Array) -> bool:
    """Whether a column names photographs, in a list that has several such."""
    return name.lower() in _NAMED and not column.null_count and column.type in _TEXTS


def is_number(kind: pa.DataType | None) -> bool:
    return kind is not None and (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind))


def numbers(column: pa.Array, name: str, where: str, line: int) -> pa.Array:
    """Bools, finite doubles, or the smaller of two integers that suffices: a list may have a million rows.

    Raises SourceError for anything else; ``line`` is that of the first one.
    """
    kind = column.type
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise SourceError(f"{where} has no value of {shown(name)} in line {line + row}.")
    if not is_number(kind):
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

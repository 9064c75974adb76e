"""`annotate`: add attributes to a dataset, or replace them. Images keep their bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from facegan.console import Console
from facegan.errors import DatasetError, SourceError
from facegan.files import write_bytes
from facegan.prep.attributes import AttributeList, json_values
from facegan.prep.commit import REPAIRS
from facegan.prep.photo_index import rows_listed
from facegan.prep.plan import RETRIED
from facegan.prep.request import StrPath
from facegan.prep.rewrite import Rewrite, opened
from facegan.prep.storage import OutputStore
from facegan.shards.checksums import see_verify
from facegan.shards.format import DETECTIONS_FILE, PHOTOS_FILE, PREVIEW_FILE
from facegan.shards.photos import SCHEMA, attribute_names, int64_array, read_columns, read_in_pieces
from facegan.shards.writer import copy_shard


@dataclass(frozen=True)
class Annotated:
    """What `annotate` changed, or would change: no attributes if the dataset had these values before."""

    photos: int
    faces: int
    shards: int
    added: tuple[str, ...]
    replaced: tuple[str, ...]
    out: str


def annotate(out: StrPath, file: StrPath, *, dry_run: bool = False, console: Console | None = None) -> Annotated:
    """Adds the attributes in ``file`` to a dataset, which is then as if prep had had them from the start.

    The JSON of each sample, photos.parquet, dataset.json and the cards change. The same call finishes one that was
    killed.

    Args:
        out: a dataset's folder or URL.
        file: see `AttributeList`. It must have every photograph but those that were rejected for good, which else get
            false or 0.

    Raises SourceError if the list is invalid or lacks a photograph, DatasetError if the dataset is damaged; it is left
    as it was.
    """
    attributes = AttributeList.read(os.fspath(file))
    with opened(out, dry_run) as store:
        annotation = _Annotation(store, attributes)
        if annotation.names and not dry_run:
            annotation.carry_out(console or Console(quiet=True))
        return annotation.result


class _Annotation(Rewrite):
    def __init__(self, store: OutputStore, attributes: AttributeList) -> None:
        super().__init__(store)
        table, self._sha256 = self._out / PHOTOS_FILE, attributes.sha256
        old, given = attribute_names(table), attributes.values
        self._photos = read_columns(table, ["path", "reason", "keys", "shard", *old])
        rows = rows_listed(attributes, ([path.encode() for path in self._photos["path"].to_pylist()],))
        reasons = self._photos["reason"].to_pylist()
        missing = [n for n, why in enumerate(reasons) if rows[n] < 0 and why in ("", *RETRIED)]
        if missing:
            lack = attributes.lack(len(missing), self._photos["path"][missing[0]].as_py())
            raise SourceError(f"{lack}\nOnly photographs that were rejected for good need no line.")
        taken = given.take(pa.array(rows, mask=rows < 0))
        columns = {name: self._photos[name] for name in old}
        for field in given.schema:
            columns[field.name] = taken[field.name].fill_null(pa.scalar(0).cast(field.type))
        self._attributes = pa.table(columns)
        self.names = () if self._attributes.equals(self._photos.select(old)) else tuple(given.column_names)
        added, totals = tuple(name for name in self.names if name not in old), self._info.totals
        replaced, shards = tuple(name for name in self.names if name in old), len(self._info.shards) * bool(self.names)
        self.result = Annotated(totals.photos, totals.faces, shards, added, replaced, store.where)

    def carry_out(self, console: Console) -> None:
        info, writer, files = self._info, self._begin(), dict[str, Path]()
        numbers = {entry.name: number for number, entry in enumerate(info.shards)}
        shards = np.array([numbers.get(name, -1) for name in self._photos["shard"].to_pylist()])
        with console.progress(len(info.shards), "shards") as progress:
            for number, entry in enumerate(info.shards):
                path, values = self._final / entry.name, self._of_samples(np.flatnonzero(shards == number))
                with self._checked(self._out / entry.name) as file:
                    stats, others = copy_shard(file, path, values.__contains__, values)
                if stats is None or others or stats.samples != len(values):
                    raise DatasetError(f"{entry.name} and {PHOTOS_FILE} disagree.\n{see_verify(self._out, deep=True)}")
                self._store.add(path)
                writer.add_shard(entry.name, entry.split, vars(stats))
                files[entry.name] = path
                progress.advance(1)
        for name in (DETECTIONS_FILE, PREVIEW_FILE):
            if (self._out / name).is_file():
                write_bytes(self._final / name, (self._out / name).read_bytes())
        writer.chunks += info.chunks
        writer.write_tables(self._tables())
        settings = info.settings | {"attributes": self._sha256}
        writer.write(writer.info(settings, info.versions, info.data_set, info.source, info.totals.ignored))
        before = {print for split in info.splits for print in info.faces_fingerprints(split)}  # of runs, for `forget`
        self._suppression.adding(before).write(self._final)
        self._store.assemble(files, REPAIRS)

    def _of_samples(self, photos: np.ndarray) -> dict[str, dict[str, int | float]]:
        """The attributes in KEY.json, by key."""
        keys, names = self._photos["keys"].take(int64_array(photos)).to_pylist(), self._attributes.column_names
        both = zip(keys, json_values(self._attributes, photos), strict=True)
        return {key: dict(zip(names, values, strict=True)) for some, values in both for key in some}

    def _tables(self) -> Iterator[tuple[pa.Table, None]]:
        sizes, at = [chunk.photos for chunk in self._info.chunks] or [self._info.totals.photos], 0
        for table in read_in_pieces(self._out / PHOTOS_FILE, sizes):
            attributes, table = self._attributes.slice(at, len(table)), table.select(SCHEMA.names)
            for name in attributes.column_names:
                table = table.append_column(name, attributes[name])
            yield table, None
            at += len(table)

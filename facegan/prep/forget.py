"""`forget` and `annotate`: change a dataset as if prep had had other photographs or attributes from the start."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from facegan.console import Console, counted, shown
from facegan.errors import DatasetError, SettingsError, SourceError
from facegan.faces.decode import Photo, Rejected
from facegan.files import disk_errors, make_folder, write_bytes
from facegan.lineage import made_from
from facegan.prep.attributes import AttributeList, json_values
from facegan.prep.chunk import SHOWN_REJECTS, Thumbnail, thumbnail
from facegan.prep.commit import REPAIRS
from facegan.prep.inspect import origin_of, read_original, write_origin
from facegan.prep.photo_index import rows_listed
from facegan.prep.plan import RETRIED
from facegan.prep.preview import REJECTS_SHOWN, Rejects, preview_png, read_rejects
from facegan.prep.remote_store import open_read_only, open_store
from facegan.prep.request import StrPath
from facegan.prep.reuse import KEPT
from facegan.prep.storage import FINAL, UNPACKED, OutputStore
from facegan.prep.suppression import Suppression
from facegan.remote import is_url
from facegan.shards.checksums import check_detections, check_photos, check_shard, see_verify
from facegan.shards.dataset import DatasetWriter
from facegan.shards.detections import read_origins, with_detections
from facegan.shards.format import DETECTIONS_FILE, PHOTOS_FILE, PREVIEW_FILE, ChunkEntry, DatasetInfo, ShardEntry
from facegan.shards.photos import attribute_schema, int64_array, joined, read_batches, read_columns, read_in_pieces
from facegan.shards.writer import ShardStats, copy_shard

_COPIES_SHOWN = 10  # in a message


@dataclass(frozen=True)
class Forgotten:
    """What `forget` took out, or would take out: nothing if the photographs had been forgotten before."""

    photos: int
    faces: int
    shards: tuple[str, ...]  # that had the faces, by their names before
    made: list[dict[str, str]]  # from the dataset while it had them; see `facegan.lineage`
    out: str


def forget(
    out: StrPath, paths: Iterable[str], runs: StrPath = "", *, dry_run: bool = False, console: Console | None = None
) -> Forgotten:
    """Takes photographs out: every file of the dataset is as if prep had left them out (``--exclude``) from the start.

    Only shards with their faces are written again. A salted digest of each path stays in ``.facegan``, so that prep
    does not add the photograph again. The same call finishes one that was killed. Raises DatasetError if a path is not
    in the dataset, which is left as it was, or if that is damaged.

    Args:
        out: a dataset's folder or URL.
        paths: as in photos.parquet.
        runs: a folder in which to look for what was made from the dataset.
    """
    where, wanted = os.fspath(out), frozenset(paths)
    if not wanted:
        raise SettingsError("There is no photograph to forget. Name some with --path P or --paths-from FILE.")
    with _opened(where, dry_run) as store:
        removal = _Removal(store, wanted)
        made = made_from(Path(runs), removal.is_origin) if runs else []
        if removal.rows and not dry_run:
            removal.carry_out(console or Console(quiet=True))
    faces = sum(map(len, removal.keys.values()))
    return Forgotten(len(removal.rows), faces, tuple(removal.keys), made, where)


@contextlib.contextmanager
def _opened(out: StrPath, dry_run: bool) -> Iterator[OutputStore]:
    """The store of a dataset; what a killed run had decided is carried out first, unless it is for reading alone."""
    where = os.fspath(out)
    if not is_url(where) and not Path(where).is_dir():
        DatasetInfo.read(Path(where))  # its error
    with open_read_only(where) if dry_run else open_store(where, force=False) as store, disk_errors(store.folder):
        if not dry_run:
            store.replay()
        yield store


class _Change:
    """Some files of a dataset, written again. Raises DatasetError if it is damaged or generated."""

    def __init__(self, store: OutputStore) -> None:
        self._store, self._out, self._final = store, store.folder, store.state / FINAL
        self._info, self._suppression = DatasetInfo.read(self._out), Suppression.read(self._out)
        if self._info.is_generated:
            raise DatasetError(f"{store.where} contains faces from facegan sample, not photographs.")
        check_photos(self._out, self._info)
        check_detections(self._out, self._info)

    def _begin(self) -> DatasetWriter:
        for name in (FINAL, REPAIRS, UNPACKED, KEPT):  # killed runs may have left photographs there
            shutil.rmtree(self._store.state / name, ignore_errors=True)
        return DatasetWriter(make_folder(self._final))

    @contextlib.contextmanager
    def _checked(self, path: Path) -> Iterator[Path]:
        """The file of a shard; one of the dataset is compared with its checksum."""
        with self._store.open_shard(path) as file:
            for entry in self._info.shards if path.parent == self._out else ():
                if entry.name == path.name:
                    check_shard(self._out, entry, file)
            yield file

    def _copy(self, writer: DatasetWriter, entry: ShardEntry, samples: int, *copied: Any) -> ShardStats:
        """A new shard with ``samples`` of another; ``copied`` goes to `copy_shard`."""
        path = self._final / writer.next_name(entry.split)
        with self._checked(self._out / entry.name) as file:
            stats, _ = copy_shard(file, path, *copied)
        if stats is None or stats.samples != samples:
            raise DatasetError(f"{entry.name} and {PHOTOS_FILE} disagree.\n{see_verify(self._out, deep=True)}")
        self._store.add(path)
        return stats


class _Removal(_Change):
    """Photographs to take out of the dataset of a store."""

    def __init__(self, store: OutputStore, wanted: frozenset[str]) -> None:
        super().__init__(store)
        self.rows: set[str] = set()  # paths that the dataset has
        self.keys: dict[str, set[str]] = {}  # of their samples, by shard
        copies = list[str]()
        for batch in read_batches(self._out / PHOTOS_FILE, ["path", "reason", "keys", "duplicate_of", "shard"]):
            for path, reason, keys, of, shard in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                if path in wanted:
                    self.rows.add(path)
                    if keys:
                        self.keys.setdefault(shard, set()).update(keys)
                elif of in wanted:
                    copies.append(f"{shown(path)} is a {reason.replace('_', '-')} of {shown(of)}")
        if copies:
            known = "" if is_url(store.where) else f" --detections {store.where}"
            more = [f"and {len(copies) - _COPIES_SHOWN:,} more"] if len(copies) > _COPIES_SHOWN else []
            raise DatasetError(
                "\n".join([*copies[:_COPIES_SHOWN], *more])
                + f"\nForget both. To keep a copy, prepare again: --force{known} --exclude FILE"
            )
        if unknown := sorted(path for path in wanted - self.rows if path not in self._suppression):
            others = f" (nor {len(unknown) - 1:,} others)" if len(unknown) > 1 else ""
            rule = f"Write paths as in {PHOTOS_FILE}. Nothing was changed."
            raise DatasetError(f"{store.where} has no photograph {shown(unknown[0])}{others}.\n{rule}")
        if len(self.rows) == self._info.totals.photos:
            raise DatasetError(f"These are all photographs of {store.where}. Delete it instead.")
        self._fingerprints = {self._info.fingerprint} if self.keys else set[str]()  # with their faces
        for split in self._info.splits:
            names = [entry.name for entry in self._info.split_shards(split)]
            first = next((number for number, name in enumerate(names) if name in self.keys), len(names))
            self._fingerprints.update(self._info.faces_fingerprints(split)[first:])  # also before additions
        self._names = {"": ""}  # of the remaining shards: old → new
        self._rejects: Rejects = {}
        self._lost = 0  # photographs that the preview would show, and that are not available

    def is_origin(self, fingerprint: str) -> bool:
        """Whether the dataset had this fingerprint while it had the faces of these photographs."""
        return fingerprint in self._fingerprints or fingerprint in self._suppression

    def carry_out(self, console: Console) -> None:
        out, info, store, writer = self._out, self._info, self._store, self._begin()
        for entry in info.shards:
            self._keep_shard(entry, writer)
        detections = out / DETECTIONS_FILE
        writer.write_tables(self._tables(writer), read_origins(detections) if detections.is_file() else ())
        after = writer.info(info.settings, info.versions, info.data_set, info.source, info.totals.ignored)
        write_bytes(self._final / PREVIEW_FILE, preview_png(after, writer.files, self._rejects, self._checked))
        writer.write(after)
        self._suppression.adding(self.rows | self._fingerprints).write(self._final)
        store.assemble(writer.files, REPAIRS)
        if self._lost:
            places = counted(self._lost, "rejected photograph")
            console.warn(f"{PREVIEW_FILE} lacks {places} that prep would show: the source has moved or changed.")

    def _keep_shard(self, entry: ShardEntry, writer: DatasetWriter) -> None:
        """With its remaining samples, unless it has none."""
        keys = self.keys.get(entry.name, set())
        if len(keys) == entry.samples:
            return
        stats = self._copy(writer, entry, entry.samples - len(keys), lambda key: key not in keys) if keys else entry
        path = None if keys else self._out / entry.name
        self._names[entry.name] = writer.add_shard(entry.split, vars(stats), path)

    def _tables(self, writer: DatasetWriter) -> Iterator[tuple[pa.Table, pa.Table]]:
        """The remaining rows of photos.parquet and detections.parquet by chunk; all at once if they were selected."""
        chunks = self._info.chunks
        thumbnails = {reject.path: reject for _, reject in read_rejects(self._out / PREVIEW_FILE)}
        sizes = [chunk.photos for chunk in chunks] or [self._info.totals.photos]
        pieces = read_in_pieces(self._out / PHOTOS_FILE, sizes)
        for number, both in enumerate(with_detections(self._out, pieces)):
            table, faces = map(self._remaining, both)
            if chunks and len(table):
                self._add_rejects(len(writer.chunks), table, thumbnails)
                shard = self._names.get(chunks[number].shard, "")
                writer.chunks.append(ChunkEntry(split=chunks[number].split, photos=len(table), shard=shard))
            shards = pa.array([self._names[name] for name in table["shard"].to_pylist()], pa.string())
            yield table.set_column(table.column_names.index("shard"), "shard", shards), faces

    def _remaining(self, table: pa.Table) -> pa.Table:
        return table.filter(pa.array([path not in self.rows for path in table["path"].to_pylist()], pa.bool_()))

    def _add_rejects(self, number: int, table: pa.Table, thumbnails: dict[str, Thumbnail]) -> None:
        """The rejects of a chunk that prep would show: the next of the same reason replace those that are forgotten."""
        forgotten = {reject.reason for reject in thumbnails.values() if reject.path in self.rows}
        replaced = forgotten - {"crashed", "near_duplicate"}
        for row in table.select(["path", "sha256", "reason", "scores"]).to_pylist():
            if not row["reason"]:
                continue
            of_reason, reject = self._rejects.setdefault(row["reason"], []), thumbnails.get(row["path"])
            if len(of_reason) < REJECTS_SHOWN:
                here = sum(at == number for at, _ in of_reason)
                if reject is None and row["reason"] in replaced and here < SHOWN_REJECTS:
                    reject = self._thumbnail(row)
                of_reason += [(number, reject)] if reject else []

    def _thumbnail(self, row: dict[str, Any]) -> Thumbnail | None:
        png = ""
        if row["sha256"]:  # else prep could not read it either
            data = read_original(self._out, row["path"])
            if data is None or hashlib.sha256(data).hexdigest() != row["sha256"]:
                self._lost += 1
                return None
            with contextlib.suppress(Rejected):
                png = thumbnail(Photo(data))
        scores = [round(score, 3) for score in row["scores"]]  # photos.parquet has them in single precision
        return Thumbnail(row["path"], row["reason"], png, max(scores, default=None))


@dataclass(frozen=True)
class Annotated:
    """What `annotate` changed, or would change: no attributes if the dataset had these values before."""

    photos: int
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
    with _opened(out, dry_run) as store:
        annotation = _Annotation(store, attributes)
        if annotation.names and not dry_run:
            annotation.carry_out(console or Console(quiet=True))
        return annotation.result


class _Annotation(_Change):
    def __init__(self, store: OutputStore, attributes: AttributeList) -> None:
        super().__init__(store)
        table, self._given = self._out / PHOTOS_FILE, attributes
        old, given = attribute_schema(table).names, attributes.values
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
        if len({name.lower() for name in columns}) < len(columns):
            raise SourceError(f"{store.where} has one of these attributes in other letters: {', '.join(columns)}.")
        self._attributes = pa.table(columns)
        self.names = () if self._attributes.equals(self._photos.select(old)) else tuple(given.column_names)
        added, replaced = (tuple(n for n in self.names if (n in old) is is_old) for is_old in (False, True))
        shards = len(self._info.shards) if self.names else 0
        self.result = Annotated(len(rows), shards, added, replaced, store.where)

    def carry_out(self, console: Console) -> None:
        info, writer = self._info, self._begin()
        numbers = {entry.name: number for number, entry in enumerate(info.shards)}
        shards = np.array([numbers.get(name, -1) for name in self._photos["shard"].to_pylist()])
        with console.progress(len(info.shards), "shards") as progress:
            for number, entry in enumerate(info.shards):
                values = self._of_samples(np.flatnonzero(shards == number))
                stats = self._copy(writer, entry, entry.samples, values.__contains__, values)
                writer.add_shard(entry.split, vars(stats))
                progress.advance(1)
        for name in (DETECTIONS_FILE, PREVIEW_FILE):
            if (self._out / name).is_file():
                write_bytes(self._final / name, (self._out / name).read_bytes())
        writer.chunks += info.chunks
        writer.write_tables(self._tables())
        settings = info.settings | {"attributes": self._given.sha256}
        writer.write(writer.info(settings, info.versions, info.data_set, info.source, info.totals.ignored))
        before = {print for split in info.splits for print in info.faces_fingerprints(split)}  # of runs, for `forget`
        self._suppression.adding(before).write(self._final)
        if origin := origin_of(self._out):
            files = dict(origin.files) | {"attributes": self._given.where}
            write_origin(self._out, origin._replace(files=tuple(files.items())))
        self._store.assemble(writer.files, REPAIRS)

    def _of_samples(self, photos: np.ndarray) -> dict[str, dict[str, Any]]:
        """The attributes in KEY.json, by key."""
        keys, names = self._photos["keys"].take(int64_array(photos)).to_pylist(), self._attributes.column_names
        both = zip(keys, json_values(self._attributes, photos), strict=True)
        return {key: dict(zip(names, values, strict=True)) for some, values in both for key in some}

    def _tables(self) -> Iterator[tuple[pa.Table, None]]:
        sizes, at = [chunk.photos for chunk in self._info.chunks] or [self._info.totals.photos], 0
        for table in read_in_pieces(self._out / PHOTOS_FILE, sizes):
            yield joined(table, self._attributes.slice(at, len(table))), None
            at += len(table)

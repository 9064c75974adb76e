"""`forget`: take photographs out of a dataset, as if prep had left them out from the start."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from facegan.console import Console, counted, shown
from facegan.errors import DatasetError, SettingsError
from facegan.faces.decode import Photo, Rejected
from facegan.files import write_bytes
from facegan.lineage import made_from
from facegan.prep.chunk import SHOWN_REJECTS, Thumbnail, thumbnail
from facegan.prep.commit import REPAIRS
from facegan.prep.inspect import read_original
from facegan.prep.preview import REJECTS_SHOWN, Rejects, preview_png, read_rejects
from facegan.prep.request import StrPath
from facegan.prep.rewrite import Rewrite, opened
from facegan.prep.storage import OutputStore
from facegan.remote import is_url
from facegan.shards.checksums import see_verify
from facegan.shards.dataset import DatasetWriter
from facegan.shards.detections import DetectionsReader, read_origins
from facegan.shards.format import DETECTIONS_FILE, PHOTOS_FILE, PREVIEW_FILE, ChunkEntry, ShardEntry
from facegan.shards.photos import read_batches, read_in_pieces
from facegan.shards.writer import copy_shard

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
    with opened(where, dry_run) as store:
        removal = _Removal(store, wanted)
        made = made_from(Path(runs), removal.is_origin) if runs else []
        if removal.rows and not dry_run:
            removal.carry_out(console or Console(quiet=True))
    faces = sum(map(len, removal.keys.values()))
    return Forgotten(len(removal.rows), faces, tuple(removal.keys), made, where)


class _Removal(Rewrite):
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
        self._files: dict[str, Path] = {}  # the present path of each shard, by its new name
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
        write_bytes(self._final / PREVIEW_FILE, preview_png(after, self._files, self._rejects, self._checked))
        writer.write(after)
        self._suppression.adding(self.rows | self._fingerprints).write(self._final)
        store.assemble(self._files, REPAIRS)
        if self._lost:
            places = counted(self._lost, "rejected photograph")
            console.warn(f"{PREVIEW_FILE} lacks {places} that prep would show: the source has moved or changed.")

    def _keep_shard(self, entry: ShardEntry, writer: DatasetWriter) -> None:
        """With its remaining samples, unless it has none."""
        keys, stats = self.keys.get(entry.name, set()), entry
        if len(keys) == entry.samples:
            return
        name, path = writer.new_name(entry.split), self._out / entry.name
        if keys:
            with self._checked(path) as file:
                path = self._final / name
                stats, dropped = copy_shard(file, path, lambda key: key not in keys)
            if stats is None or dropped.keys() != keys:
                raise DatasetError(f"{entry.name} and {PHOTOS_FILE} disagree.\n{see_verify(self._out, deep=True)}")
            self._store.add(path)
        writer.add_shard(name, entry.split, vars(stats))
        self._names[entry.name], self._files[name] = name, path

    def _tables(self, writer: DatasetWriter) -> Iterator[tuple[pa.Table, pa.Table]]:
        """The remaining rows of photos.parquet and detections.parquet by chunk; all at once if they were selected."""
        detections, chunks = DetectionsReader(self._out / DETECTIONS_FILE), self._info.chunks
        thumbnails = {reject.path: reject for _, reject in read_rejects(self._out / PREVIEW_FILE)}
        sizes = [chunk.photos for chunk in chunks] or [self._info.totals.photos]
        for number, piece in enumerate(read_in_pieces(self._out / PHOTOS_FILE, sizes)):
            table, faces = map(self._remaining, (piece, detections.take(piece["path"].to_pylist())))
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
        replaced = {reject.reason for reject in thumbnails.values() if reject.path in self.rows} - {
            "crashed",
            "near_duplicate",
        }
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

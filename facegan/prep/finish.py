"""The end of a run: committed chunks become numbered shards, and dataset.json, written last, completes the dataset."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from facegan.errors import DatasetError
from facegan.files import parsing, write_bytes
from facegan.prep.chunk import Thumbnail
from facegan.prep.commit import ChunkMarker, committed, marker_path, rows_path, shard_path
from facegan.prep.inspect import write_origin
from facegan.prep.plan import ChunkPlan, Plan, repairable
from facegan.prep.preview import REJECTS_SHOWN, OpenShard, draw_preview, png_bytes, read_rejects, with_rejects
from facegan.prep.storage import Journal, OutputStore, is_dataset_file
from facegan.shards.checksums import check_shard
from facegan.shards.dataset import DatasetWriter
from facegan.shards.format import PHOTOS_FILE, PREVIEW_FILE, ChunkEntry, DatasetInfo
from facegan.shards.photos import in_shard, photo_counts, read_in_pieces, read_rows


def finish(store: OutputStore, plan: Plan, note_source: bool = True) -> DatasetInfo:
    """Makes the committed chunks of a plan part of the dataset.

    Raises:
        DatasetError: a shard that the preview shows was altered; nothing is published.
    """
    out = store.folder
    final = store.new_final_folder()
    if note_source:
        write_origin(out, plan.where, plan.index.root)
    gathered = _Gathered(store, plan, DatasetWriter(final))
    writer = gathered.writer
    writer.write_photos(gathered.tables())
    info = writer.info(plan.settings, plan.versions, plan.data_set, plan.source_digests, plan.ignored)
    write_bytes(final / PREVIEW_FILE, _preview(info, gathered, _checked_shards(store, plan)))
    writer.write(info)
    files = {path.name: store.name(path) for path in final.iterdir()}
    for name, path in gathered.files.items():
        if path != out / name:
            files[name] = store.name(store.stage(path, name) if path.parent == out else path)
    stale = {path.name for path in out.iterdir() if is_dataset_file(path.name)} - {*files, *gathered.files}
    store.publish(Journal(files, sorted(stale), plan.chunks_folder))
    return info


class _Gathered:
    """The shards, rows and rejected photographs of the future dataset, gathered while its rows pass.

    Attributes:
        files: the present path of each shard, by its final name.
        rejects: by reason, with the number of their chunk.
    """

    def __init__(self, store: OutputStore, plan: Plan, writer: DatasetWriter) -> None:
        self.writer = writer
        self._plan, self._out = plan, store.folder
        self._folder = store.state / plan.chunks_folder
        self.files: dict[str, Path] = {}
        self.rejects: dict[str, list[tuple[int, Thumbnail]]] = {}
        existing = len(plan.existing.chunks) if plan.existing else 0
        for number, reject in read_rejects(self._out / PREVIEW_FILE):
            if number < existing and number not in plan.rebuild:
                self.rejects.setdefault(reject.reason, []).append((number, reject))

    def tables(self) -> Iterator[pa.Table]:
        """The rows of photos.parquet, one table per chunk: those of the existing dataset, then the new ones."""
        existing, rebuild = self._plan.existing, self._plan.rebuild
        if existing:
            entries = {entry.name: entry for entry in existing.shards}
            tables = read_in_pieces(self._out / PHOTOS_FILE, [chunk.photos for chunk in existing.chunks])
            for number, (chunk, table) in enumerate(zip(existing.chunks, tables, strict=True)):
                if number in rebuild:
                    yield self._made(rebuild[number])
                    continue
                name = ""
                if chunk.shard:
                    old = entries[chunk.shard]
                    name = self._add_shard(chunk.split, old.model_dump(), self._out / old.name)
                self.writer.chunks.append(ChunkEntry(split=chunk.split, photos=chunk.photos, shard=name))
                yield table if name == chunk.shard else in_shard(table, chunk.split, name)
        yield from map(self._made, self._plan.chunks)

    def _made(self, chunk: ChunkPlan) -> pa.Table:
        marker = committed(self._folder, chunk.number, chunk.inputs)
        if marker is None:
            raise DatasetError(f"Chunk {chunk.number} of {self._out} was altered during the run. Run prep again.")
        rows = read_rows(rows_path(self._folder, chunk.number))
        with parsing(marker_path(self._folder, chunk.number), "Delete it and run facegan prep again."):
            return self._add_made(chunk, marker, rows)

    def _add_made(self, chunk: ChunkPlan, marker: ChunkMarker, rows: pa.Table) -> pa.Table:
        if (len(rows), *photo_counts(rows)) != (marker.photos, marker.kept, marker.faces, marker.rejected):
            raise ValueError("its counts differ from its rows")
        for reject in marker.rejects:
            of_reason = self.rejects.setdefault(reject.reason, [])
            of_reason.append((len(self.writer.chunks), reject))
            of_reason.sort(key=lambda numbered: numbered[0])
            del of_reason[REJECTS_SHOWN:]
        name = ""
        if marker.shard:
            name = self._add_shard(chunk.split, vars(marker.shard), shard_path(self._folder, chunk.number))
        entry = {"split": chunk.split, "photos": marker.photos, "shard": name}
        self.writer.chunks.append(ChunkEntry.model_validate(entry))
        return in_shard(rows, chunk.split, name)

    def _add_shard(self, split: str, stats: dict, path: Path) -> str:
        name = self.writer.new_name(split)
        self.writer.add_shard(name, split, stats)
        self.files[name] = path
        return name


def _checked_shards(store: OutputStore, plan: Plan) -> OpenShard:
    """`OutputStore.open_shard` that compares existing shards with their checksums. A repair has compared all."""
    entries = {entry.name: entry for entry in plan.existing.shards} if plan.existing and not plan.rebuild else {}

    @contextlib.contextmanager
    def open_shard(shard: Path) -> Iterator[Path]:
        with store.open_shard(shard) as file:
            if shard.parent == store.folder and shard.name in entries:
                try:
                    check_shard(store.folder, entries[shard.name], file)
                except DatasetError as error:
                    raise repairable(error) from None
            yield file

    return open_shard


def _preview(info: DatasetInfo, gathered: _Gathered, open_shard: OpenShard) -> bytes:
    paths = [(gathered.files[entry.name], entry.samples) for entry in info.shards]
    rejects = [gathered.rejects[reason] for reason in sorted(gathered.rejects)]
    # The first of each reason, then the second of each, …
    in_turn = [numbered[1] for rank in itertools.zip_longest(*rejects) for numbered in rank if numbered]
    sheet = draw_preview(paths, in_turn[:REJECTS_SHOWN], info.totals.rejected, info.totals.kept, open_shard)
    return with_rejects(png_bytes(sheet), itertools.chain(*rejects))

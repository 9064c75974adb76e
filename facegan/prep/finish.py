"""The end of a run: chunks become numbered shards, and dataset.json, last of all, says that the dataset is whole.

All that is new is first gathered under its final name in ``.facegan/final``, then a journal is written, then everything
is moved into place. A process killed anywhere in between leaves either chunks to finish or a journal to carry out.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import cv2
import pyarrow as pa

from facegan.errors import DatasetError
from facegan.files import fsync, make_folder, parsing, sha256_file, write_bytes, write_json
from facegan.manifests import known_datasets
from facegan.prep.chunk import Thumbnail
from facegan.prep.commit import ChunkMarker, committed, marker_path, rows_path, shard_path
from facegan.prep.inspect import write_origin
from facegan.prep.plan import ChunkPlan, Plan, repairable
from facegan.prep.preview import REJECTS_SHOWN, draw_preview, read_rejects, with_rejects
from facegan.prep.storage import FINAL, JOURNAL, OutputStore, is_dataset_file, replay_journal
from facegan.shards.cards import write_cards
from facegan.shards.checksums import check_shard
from facegan.shards.format import (
    DATASET_FILE,
    PHOTOS_FILE,
    PREVIEW_FILE,
    SHARD_NAME,
    STATE_FOLDER,
    ChunkEntry,
    DatasetInfo,
    ShardEntry,
    Totals,
    shard_name,
)
from facegan.shards.photos import Fingerprint, in_shard, photo_counts, read_in_pieces, read_rows, write_photos


def finish(home: OutputStore, plan: Plan, note_source: bool = True) -> DatasetInfo:
    """Makes the committed chunks of a plan part of the dataset.

    Raises:
        DatasetError: a shard of the dataset that the preview shows is altered; nothing is published.
    """
    out = home.folder
    state = out / STATE_FOLDER
    shutil.rmtree(state / FINAL, ignore_errors=True)
    if note_source:
        write_origin(out, plan.where, plan.index.root)
    final = make_folder(state / FINAL)
    gathered = _DatasetBuilder(plan, out)
    write_photos(final / PHOTOS_FILE, gathered.tables())
    info = DatasetInfo(
        data_set=plan.data_set,
        source=plan.source_digests,
        settings=plan.settings,
        versions=plan.versions,
        fingerprint=str(gathered.fingerprint),
        totals=gathered.totals(),
        shards=tuple(gathered.shards),
        chunks=tuple(gathered.chunks),
        photos_sha256=sha256_file(final / PHOTOS_FILE),
    )
    _write_preview(final / PREVIEW_FILE, info, gathered, _checking(home, plan))
    write_cards(final, info, known_datasets().get(info.data_set))
    write_json(final / DATASET_FILE, info.model_dump(mode="json"))
    files = list(final.iterdir())
    whole = {path.name for path in files} | set(gathered.files)
    stale = {path.name for path in out.iterdir() if is_dataset_file(path.name)} - whole
    home.publish(files, gathered.files, stale, plan.chunks_folder)
    for name, path in gathered.files.items():
        if path != out / name:
            _link(path, final / name)
    fsync(final)
    moved = sorted(path.name for path in final.iterdir())
    write_json(state / JOURNAL, {"move": moved, "remove": sorted(stale), "clear": plan.chunks_folder})
    replay_journal(out)
    return info


def _link(path: Path, target: Path) -> None:
    """The same file under another name. Where the file system has no links a chunk's shard is moved, and the chunk done
    again if the run is killed just now; a shard of the dataset that stands is copied."""
    try:
        os.link(path, target)
    except OSError:
        if SHARD_NAME.fullmatch(path.name):
            shutil.copyfile(path, target)
        else:
            path.replace(target)


class _DatasetBuilder:
    """What the dataset will hold, gathered while the rows of its photographs pass by.

    Attributes:
        files: where each shard lies now, by its final name.
    """

    def __init__(self, plan: Plan, out: Path) -> None:
        self._plan, self._out = plan, out
        self._folder = out / STATE_FOLDER / plan.chunks_folder
        self._counts: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        self._numbers: Counter[str] = Counter()  # shards so far, by split
        self.shards: list[ShardEntry] = []
        self.chunks: list[ChunkEntry] = []
        self.files: dict[str, Path] = {}
        self.fingerprint = Fingerprint()
        self._rejects: dict[str, list[tuple[int, Thumbnail]]] = {}  # by reason, with the place of their chunk
        for number, reject in read_rejects(out / PREVIEW_FILE) if plan.existing else []:
            if number not in plan.rebuild and number < len(plan.existing.chunks if plan.existing else ()):
                self._rejects.setdefault(reject.reason, []).append((number, reject))

    def tables(self) -> Iterator[pa.Table]:
        for table in itertools.chain(self._standing(), map(self._made, self._plan.chunks)):
            kept, faces, rejected = photo_counts(table)
            self._counts.update(photos=len(table), kept=kept, faces=faces)
            self._rejected.update(rejected)
            self.fingerprint.add(table)
            yield table

    def _standing(self) -> Iterator[pa.Table]:
        """The chunks of the dataset as it is, but for those that the plan makes anew."""
        before = self._plan.existing
        if before is None:
            return
        entries = {entry.name: entry for entry in before.shards}
        tables = read_in_pieces(self._out / PHOTOS_FILE, [chunk.photos for chunk in before.chunks])
        for number, (chunk, table) in enumerate(zip(before.chunks, tables, strict=True)):
            if number in self._plan.rebuild:
                yield self._made(self._plan.rebuild[number])
            elif not chunk.shard:
                self.chunks.append(chunk)
                yield table
            else:
                old = entries[chunk.shard]
                name = self._add_shard(chunk.split, old.model_dump(), self._out / old.name)
                self.chunks.append(ChunkEntry(split=chunk.split, photos=chunk.photos, shard=name))
                yield table if name == old.name else in_shard(table, chunk.split, name)

    def _made(self, chunk: ChunkPlan) -> pa.Table:
        done = committed(self._folder, chunk.number, chunk.inputs)
        if done is None:
            raise DatasetError(f"Chunk {chunk.number} of {self._out} was altered while prep ran. Start it again.")
        marker, rows = marker_path(self._folder, chunk.number), read_rows(rows_path(self._folder, chunk.number))
        with parsing(marker, "Delete it, and start facegan prep again: it makes these photographs again."):
            return self._add_made(chunk, done, rows)

    def _add_made(self, chunk: ChunkPlan, done: ChunkMarker, rows: pa.Table) -> pa.Table:
        if (len(rows), *photo_counts(rows)) != (done.photos, done.kept, done.faces, done.rejected):
            raise ValueError("other counts than its rows have")
        for reject in done.rejects:
            known = self._rejects.setdefault(reject.reason, [])
            known.append((len(self.chunks), reject))
            known.sort(key=lambda rejected: rejected[0])
            del known[REJECTS_SHOWN:]  # no more can be shown of one reason
        name = ""
        if done.shard:
            name = self._add_shard(chunk.split, vars(done.shard), shard_path(self._folder, chunk.number))
        self.chunks.append(ChunkEntry.model_validate({"split": chunk.split, "photos": done.photos, "shard": name}))
        return in_shard(rows, chunk.split, name)

    def _add_shard(self, split: str, entry: dict, path: Path) -> str:
        name = shard_name(split, self._numbers[split])
        self._numbers[split] += 1
        self.shards.append(ShardEntry(**{**entry, "name": name, "split": split}))
        self.files[name] = path
        return name

    def totals(self) -> Totals:
        return Totals(
            photos=self._counts["photos"],
            kept=self._counts["kept"],
            rejected=dict(sorted(self._rejected.items())),
            ignored=self._plan.ignored,
            faces=self._counts["faces"],
            bytes=sum(entry.bytes for entry in self.shards),
        )

    def rejects(self) -> list[list[tuple[int, Thumbnail]]]:
        """Rejected photographs by reason, with the place of their chunk."""
        return [self._rejects[reason] for reason in sorted(self._rejects)]


def _checking(home: OutputStore, plan: Plan) -> Callable[[Path], AbstractContextManager[Path]]:
    """`Home.whole`, which compares shards of the dataset as it was with their checksums. A repair has compared all."""
    entries = {entry.name: entry for entry in plan.existing.shards} if plan.existing and not plan.rebuild else {}

    @contextlib.contextmanager
    def whole(shard: Path) -> Iterator[Path]:
        with home.whole(shard) as file:
            if shard.parent == home.folder and shard.name in entries:
                try:
                    check_shard(home.folder, entries[shard.name], file)
                except DatasetError as error:
                    raise repairable(error) from None
            yield file

    return whole


def _write_preview(
    path: Path, info: DatasetInfo, gathered: _DatasetBuilder, whole: Callable[[Path], AbstractContextManager[Path]]
) -> None:
    paths = [(gathered.files[entry.name], entry.samples) for entry in info.shards]
    rejects = gathered.rejects()
    # The first of each reason, then the second of each, …
    shown = [told[1] for rank in itertools.zip_longest(*rejects) for told in rank if told][:REJECTS_SHOWN]
    sheet = draw_preview(paths, shown, info.totals.rejected, info.totals.kept, whole)
    png = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1].tobytes()
    write_bytes(path, with_rejects(png, itertools.chain(*rejects)))

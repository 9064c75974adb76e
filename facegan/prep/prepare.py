"""`prepare`: from photographs to a dataset of faces. Plan, make the missing chunks, finish."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from facegan.config import PrepConfig
from facegan.console import Console, shown
from facegan.errors import DatasetError, Interrupted
from facegan.files import disk_errors, make_folder, parsing, remove_partials, sha256_file, write_bytes, write_json
from facegan.plugins import runs_code
from facegan.prep.chunk import SHOWN_REJECTS, Thumbnail, face_thumbnail
from facegan.prep.commit import CHUNKS, REPAIRS, ChunkMarker, committed, marker_path, rows_path, shard_path
from facegan.prep.dedup import comparable, near_duplicates, without_samples
from facegan.prep.engines.local import InlineEngine, exit_if_reimported
from facegan.prep.engines.scheduler import RunStats, open_engine, run_engine
from facegan.prep.engines.worker import Job
from facegan.prep.inspect import write_origin
from facegan.prep.messages import advice, announce_prep, warn_of_changed_bytes
from facegan.prep.plan import ChunkPlan, Inputs, Plan, estimate, list_photographs, make_plan, repairable, with_margin
from facegan.prep.preflight import Forecast, announce, forecast, needs_forecast, require_yield
from facegan.prep.preview import REJECTS_SHOWN, Rejects, preview_png, read_rejects
from facegan.prep.remote_store import open_read_only, open_store
from facegan.prep.request import PrepareRequest, StrPath
from facegan.prep.reuse import KEPT, keep_detections
from facegan.prep.sources.base import source_errors
from facegan.prep.sources.folder import BROKEN_LINK
from facegan.prep.storage import FINAL, JOURNAL_FILE, SETTINGS_FILE, OutputStore, is_dataset_file
from facegan.prep.suppression import Suppression
from facegan.shards.checksums import check_shard
from facegan.shards.dataset import DatasetWriter
from facegan.shards.detections import IN_CHUNK, of_chunk, read_detections, read_origins, with_detections
from facegan.shards.detections import SCHEMA as DETECTIONS
from facegan.shards.format import DATASET_FILE, DETECTIONS_FILE, PHOTOS_FILE, PREVIEW_FILE, ChunkEntry, DatasetInfo
from facegan.shards.photos import in_shard, photo_counts, read_in_pieces, read_rows
from facegan.shards.writer import copy_shard


@dataclass(frozen=True)
class PrepResult:
    """What a run did. Counts are the dataset's; seconds and rate are this run's."""

    photos: int
    kept: int
    rejected: dict[str, int]
    ignored: dict[str, int]
    faces: int
    shards: int
    bytes: int
    seconds: float  # wall time
    work_seconds: float  # from the first photo read to the last rename; the rate is over these
    photos_per_second: float
    engine: str
    nodes: int
    workers: int
    out: str
    preflight: dict[str, Any] | None = None  # see `facegan.prep.preflight.Forecast`; None if the run had none
    lists: dict[str, str] = field(default_factory=dict)  # see `facegan.prep.lists.Lists.uses`
    worker_peak_bytes: int = 0  # the largest memory of one worker

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "worker_peak_bytes"}


@dataclass(frozen=True)
class PrepPlan:
    """What ``--dry-run`` prints."""

    photos: int
    new: int
    ignored: dict[str, int]
    chunks: int
    about_seconds: float
    about_bytes: int
    workers: int
    settings: dict[str, Any]
    out: str
    preflight: dict[str, Any] | None = None
    lists: dict[str, str] = field(default_factory=dict)


def prepare(
    source: StrPath, out: StrPath, config: PrepConfig | None = None, *, console: Console | None = None, **options: Any
) -> PrepResult:
    """Photographs → a dataset of faces in WebDataset shards. Raises the errors of `run_prepare`.

        prepare("photos/", "out/", size=32, crop="box", workers=4)

    Args:
        source: a folder, archive, table or array of photographs, by path or URL.
        out: the dataset's folder, or a URL.
        console: shows progress; silent if None.
        options: settings of `PrepConfig` and `PhotosConfig`, and fields of `PrepareRequest` (``repair``, …).
    """
    return run_prepare(PrepareRequest.of(source, out, ({"settings": config} if config else {}) | options), console)


def run_prepare(request: PrepareRequest, console: Console | None = None) -> PrepResult:
    """Carries out a request. Finished chunks are skipped: a stopped run resumes, new photographs go into new shards.

    Raises:
        SourceError: there are no photographs.
        DatasetError: ``out`` holds something else, or was prepared with other settings.
        Interrupted: Ctrl-C; the same request resumes.
        SettingsError: settings conflict; or a script calls this outside ``if __name__ == "__main__":``.
    """
    exit_if_reimported()
    start = time.monotonic()
    console = console or Console(quiet=True)
    inputs = Inputs(request)
    with (
        open_store(os.fspath(request.out), request.force) as store,
        disk_errors(store.folder),
        contextlib.ExitStack() as engine,  # closing it takes a while, and the end of the dataset need not wait for it
    ):
        try:
            index = list_photographs(inputs)
            if request.force:
                (store.folder / JOURNAL_FILE).unlink(missing_ok=True)
            store.replay()
            shutil.rmtree(store.unpacked, ignore_errors=True)  # left by a run that was killed
            plan = make_plan(inputs, index, store, console)
            plan, stats, expected = _make_chunks(plan, store, console, engine)
        except KeyboardInterrupt:  # at the first chunk and later it is `Interrupted`
            raise Interrupted("Stopped before anything was written. Run the same command to start again.") from None
        finally:
            shutil.rmtree(store.unpacked, ignore_errors=True)
        info = plan.existing
        if info is None or plan.todo or plan.left_out:
            # The table and the journal's files grow with the dataset.
            about_bytes = 2_000_000 + 250 * (plan.new + (info.totals.photos if info else 0))
            with disk_errors(store.folder, about_bytes):
                info = finish(store, plan)
        stats.last = time.monotonic()  # the last rename is that of dataset.json
        engine.close()
        warn_of_changed_bytes(info, plan, console)
        if broken := index.ignored.names.get(BROKEN_LINK):
            count = index.ignored[BROKEN_LINK]
            console.warn(f"Ignored broken links: {count:,} (first: {', '.join(map(shown, broken))}).")
        for sentence in advice(info.totals.rejected, info.totals.photos, inputs.config, store.folder / PHOTOS_FILE):
            console.warn(sentence)
    return PrepResult(
        **info.totals.model_dump(),
        shards=len(info.shards),
        seconds=round(time.monotonic() - start, 3),
        work_seconds=round(stats.seconds, 3),
        photos_per_second=round(stats.photos / stats.seconds, 1) if stats.seconds else 0.0,
        engine=request.engine,
        nodes=stats.nodes,
        workers=inputs.workers,
        out=store.where,
        preflight=expected.to_json() if expected else None,
        lists=inputs.lists.uses,
        worker_peak_bytes=stats.peak_bytes,
    )


def plan_prepare(request: PrepareRequest, console: Console | None = None) -> PrepPlan:
    """What `run_prepare` would do. Touches nothing; raises the same errors."""
    inputs = Inputs(request, is_dry=True)
    index = list_photographs(inputs)
    expected = None
    with open_read_only(os.fspath(request.out)) as store:
        plan = make_plan(inputs, index, store, console or Console(quiet=True))
        is_ready = all(map(Path.is_file, inputs.models)) and not runs_code(inputs.config.detector)
        # A dry run runs no code of the user's, and fetches no models.
        if needs_forecast(plan, _uncommitted(plan, store)) and is_ready:
            job = _job(plan, store, make_folder(store.unpacked))
            with source_errors(inputs.source.where), contextlib.closing(InlineEngine(job)) as engine:
                expected = forecast(engine, plan, inputs.workers)
            plan = with_margin(plan, expected.margin)
    seconds, size = estimate(plan.new, sum(chunk.bytes for chunk in plan.chunks), inputs.config, inputs.workers)
    return PrepPlan(
        photos=plan.found,
        new=plan.new,
        ignored=plan.ignored,
        chunks=len(plan.chunks),
        about_seconds=round(seconds, 1),
        about_bytes=size,
        workers=inputs.workers,
        settings=inputs.settings,
        out=os.fspath(request.out),
        preflight=expected.to_json() if expected else None,
        lists=inputs.lists.uses,
    )


def _clear(plan: Plan, store: OutputStore) -> None:
    """Deletes what no run will continue, and makes the folder for the plan's chunks."""
    request, settings = plan.inputs.request, plan.inputs.settings
    out, state = store.folder, store.state
    with disk_errors(out):
        if _starts_over(plan, store):
            if request.photos.detections and (out / DATASET_FILE).exists():
                keep_detections(out, store.state)
            (out / DATASET_FILE).unlink(missing_ok=True)  # first: without it the rest is not a dataset
            shutil.rmtree(state / CHUNKS, ignore_errors=True)
            shutil.rmtree(state / REPAIRS, ignore_errors=True)
        if request.repair and not plan.rebuild:
            shutil.rmtree(state / REPAIRS, ignore_errors=True)
        if plan.existing is None:  # shards of a dataset that was being deleted
            for path in out.iterdir():
                if is_dataset_file(path.name):
                    path.unlink()
        chunks = make_folder(state / plan.chunks_folder)
        write_json(out / SETTINGS_FILE, settings)
        for folder in (out, state, chunks):
            remove_partials(folder)
    store.sync_cleared()


def _starts_over(plan: Plan, store: OutputStore) -> bool:
    """Whether finished chunks are deleted by ``--force``, which else continues a run that was started with it."""
    exists = (store.folder / DATASET_FILE).exists()
    return plan.inputs.request.force and (exists or store.stored_settings() != plan.inputs.settings)


def _uncommitted(plan: Plan, store: OutputStore) -> list[ChunkPlan]:
    if _starts_over(plan, store):
        return list(plan.todo)
    chunks = store.state / plan.chunks_folder
    return [chunk for chunk in plan.todo if committed(chunks, chunk.number, chunk.inputs) is None]


def _job(plan: Plan, store: OutputStore, chunks: Path) -> Job:
    inputs, photos, seconds = plan.inputs, plan.inputs.request.photos, plan.inputs.request.photo_seconds
    source, reuses = inputs.readable(store.unpacked), plan.known is not None
    return Job(inputs.config, source, inputs.models, chunks, seconds, photos.fetch_ahead, reuses)


def _make_chunks(
    plan: Plan, store: OutputStore, console: Console, deferred: contextlib.ExitStack
) -> tuple[Plan, RunStats, Forecast | None]:
    """Makes the chunks of the plan that are not committed yet, after a look at some photographs.

    ``deferred`` closes the engine. That takes a while, and the end of the dataset need not wait for it.

    Returns:
        The plan, with the margin that was chosen.
    """
    inputs, request = plan.inputs, plan.inputs.request
    todo = _uncommitted(plan, store)
    announce_prep(plan, todo, console)
    if not todo:
        _clear(plan, store)
        return plan, RunStats(), None
    face_bytes = estimate(sum(chunk.photos for chunk in todo), 0, inputs.config, 1)[1]
    expected = None
    with disk_errors(store.folder, face_bytes + sum(chunk.bytes for chunk in plan.todo)):
        job = _job(plan, store, store.state / plan.chunks_folder)
    with disk_errors(store.folder, face_bytes):
        engine = open_engine(inputs, job, len(todo), console)
        deferred.callback(engine.close)
        if needs_forecast(plan, todo):
            expected = forecast(engine, plan, inputs.workers)
            require_yield(expected, request.photos.min_yield)
            announce(expected, plan, console)
            plan = with_margin(plan, expected.margin)
            todo = list(plan.todo)
        _clear(plan, store)
        return plan, run_engine(engine, plan, todo, store, console), expected


def finish(store: OutputStore, plan: Plan) -> DatasetInfo:
    """Makes the committed chunks of a plan part of the dataset; none if a shard that the preview shows was altered."""
    out, final = store.folder, store.state / FINAL
    shutil.rmtree(final, ignore_errors=True)
    make_folder(final)  # for the files of the dataset besides its shards
    if plan.inputs.request.note_source:
        write_origin(out, plan.origin)
    writer = DatasetWriter(final)
    gathered = _Gathered(store, plan, writer)
    writer.write_tables(gathered.tables(), gathered.origins())
    pa.default_memory_pool().release_unused()  # 10 MB, before the preview takes as many
    info = writer.info(plan.inputs.settings, plan.inputs.versions, plan.data_set, plan.source_digests, plan.ignored)
    write_bytes(final / PREVIEW_FILE, gathered.preview(info))
    writer.write(info)
    if plan.left_out:
        Suppression.read(out).adding(plan.left_out).write(final)
    store.assemble(writer.files, plan.chunks_folder)
    shutil.rmtree(store.state / KEPT, ignore_errors=True)
    return info


class _Gathered:
    """The shards, rows and rejected photographs of the future dataset, gathered while its rows pass."""

    def __init__(self, store: OutputStore, plan: Plan, writer: DatasetWriter) -> None:
        self._store, self._plan, self._writer = store, plan, writer
        self._folder = store.state / plan.chunks_folder
        self._rejects: Rejects = {}
        self._near = self._near_duplicates()
        existing = len(plan.existing.chunks) if plan.existing else 0
        for number, reject in read_rejects(store.folder / PREVIEW_FILE):
            if number < existing and number not in plan.rebuild:
                self._rejects.setdefault(reject.reason, []).append((number, reject))

    def origins(self) -> list[dict[str, Any]]:
        """Of the detections: see `facegan.shards.detections`."""
        file, new = self._store.folder / DETECTIONS_FILE, self._plan.inputs.origin
        before = read_origins(file) if self._plan.existing and file.is_file() else []
        return before if new in before or not self._plan.todo else [*before, new]

    def _near_duplicates(self) -> dict[str, str]:
        """Of the photographs that the chunks kept: path, and path of the one that is kept instead."""
        bits, out = self._plan.inputs.config.near_bits, self._store.folder
        if bits is None or not self._plan.todo:
            return {}
        known = [comparable(DETECTIONS.empty_table())]
        if self._plan.existing and (out / DETECTIONS_FILE).is_file():
            batches = read_detections(out / DETECTIONS_FILE)
            known += [comparable(pa.Table.from_batches([batch])) for batch in batches]
        new = [comparable(of_chunk(self._rows(chunk.number))) for chunk in self._plan.todo]
        before = pa.concat_tables(known)
        if self._plan.rebuild:  # most are the dataset's own
            paths = set(before["path"].to_pylist())
            new = [table.filter(pa.array([p not in paths for p in table["path"].to_pylist()])) for table in new]
        return near_duplicates(before, pa.concat_tables(new), bits)

    def _rows(self, chunk: int) -> pa.Table:
        return read_rows(rows_path(self._folder, chunk), IN_CHUNK)

    def tables(self) -> Iterator[tuple[pa.Table, pa.Table]]:
        """The rows of photos.parquet and of detections.parquet, chunk by chunk: of the existing dataset, then new."""
        existing, out = self._plan.existing, self._store.folder
        if existing:
            entries = {entry.name: entry for entry in existing.shards}
            pieces = read_in_pieces(out / PHOTOS_FILE, [chunk.photos for chunk in existing.chunks])
            both = zip(existing.chunks, with_detections(out, pieces), strict=True)
            for number, (chunk, (table, known)) in enumerate(both):
                if number in self._plan.rebuild:
                    yield self._made(self._plan.rebuild[number])
                    continue
                name = ""
                if chunk.shard:
                    name = self._writer.add_shard(chunk.split, vars(entries[chunk.shard]), out / chunk.shard)
                self._writer.chunks.append(ChunkEntry(split=chunk.split, photos=chunk.photos, shard=name))
                yield table if name == chunk.shard else in_shard(table, chunk.split, name), known
        yield from map(self._made, self._plan.chunks)

    def _made(self, chunk: ChunkPlan) -> tuple[pa.Table, pa.Table]:
        marker = committed(self._folder, chunk.number, chunk.inputs)
        if marker is None:
            raise DatasetError(f"Chunk {chunk.number} of {self._store.folder} was altered meanwhile. Run prep again.")
        rows = self._rows(chunk.number)
        with parsing(marker_path(self._folder, chunk.number), "Delete it and run facegan prep again."):
            if (len(rows), *photo_counts(rows)) != (marker.photos, marker.kept, marker.faces, marker.rejected):
                raise ValueError("its counts differ from its rows")
            self._show(marker.rejects)
            has_duplicates, name = not self._near.keys().isdisjoint(rows["path"].to_pylist()), ""
            if marker.shard and not has_duplicates:
                name = self._writer.add_shard(chunk.split, vars(marker.shard), shard_path(self._folder, chunk.number))
        rows, detections = self._plan.with_attributes(chunk, rows), of_chunk(rows)
        if has_duplicates:
            rows, detections, name = self._without_duplicates(marker, chunk.split, rows, detections)
        entry = {"split": chunk.split, "photos": marker.photos, "shard": name}
        self._writer.chunks.append(ChunkEntry.model_validate(entry))
        return in_shard(rows, chunk.split, name), detections

    def _without_duplicates(
        self, marker: ChunkMarker, split: str, rows: pa.Table, detections: pa.Table
    ) -> tuple[pa.Table, pa.Table, str]:
        """A chunk's tables without the samples of near-duplicates, and the name of its new shard, "" if none."""
        photos = zip(*(rows[name].to_pylist() for name in ("path", "scores", "keys")), strict=True)
        of_key = {key: (path, round(max(scores), 3)) for path, scores, keys in photos for key in keys}
        rows, detections = without_samples(rows, detections, self._near)
        keys = set(itertools.chain.from_iterable(rows["keys"].to_pylist()))
        name = self._writer.next_name(split) if keys else ""
        new, old = self._writer.folder / (name or "none"), shard_path(self._folder, marker.number)
        with self._store.open_shard(old) as file:
            if marker.shard is None or sha256_file(file) != marker.shard.sha256:
                raise DatasetError(f"{old} was altered. Delete it and run prep again.")
            stats, others = copy_shard(file, new, keys.__contains__)
        faces = ((*of_key[key], face_thumbnail(image)) for key, image in others.items())
        some = itertools.islice(faces, SHOWN_REJECTS)
        self._show([Thumbnail(path, "near_duplicate", png, score) for path, score, png in some])
        if stats:
            self._store.add(new)
            self._writer.add_shard(split, vars(stats))
        return rows, detections, name

    def _show(self, rejects: list[Thumbnail]) -> None:
        for reject in rejects:
            of_reason = self._rejects.setdefault(reject.reason, [])
            of_reason.append((len(self._writer.chunks), reject))
            of_reason.sort(key=lambda numbered: numbered[0])
            del of_reason[REJECTS_SHOWN:]

    def preview(self, info: DatasetInfo) -> bytes:
        return preview_png(info, self._writer.files, self._rejects, self._checked_shard)

    @contextlib.contextmanager
    def _checked_shard(self, path: Path) -> Iterator[Path]:
        """`OutputStore.open_shard` that compares shards of the dataset with their checksums. A repair compared all."""
        existing, store = None if self._plan.rebuild else self._plan.existing, self._store
        with store.open_shard(path) as file:
            for entry in existing.shards if existing and path.parent == store.folder else ():
                if entry.name == path.name:
                    try:
                        check_shard(store.folder, entry, file)
                    except DatasetError as error:
                        raise repairable(error) from None
            yield file

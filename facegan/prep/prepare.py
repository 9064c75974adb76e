"""`prepare`: from photographs to a dataset of faces. Plan, run the missing chunks, finish."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegan import system
from facegan.config import PrepConfig
from facegan.console import Console, shown
from facegan.files import disk_errors, human_bytes, make_folder, remove_partials, write_json
from facegan.prep.commit import CHUNKS, REPAIRS, committed
from facegan.prep.engines.local import exit_if_reimported
from facegan.prep.engines.scheduler import EngineConfig, RunStats, run_engine
from facegan.prep.engines.worker import Job
from facegan.prep.finish import finish
from facegan.prep.messages import advice, announce_prep
from facegan.prep.photo_index import PhotoIndex
from facegan.prep.plan import (
    ChunkPlan,
    Plan,
    PlanRequest,
    estimate,
    list_photographs,
    make_plan,
    plan_repair,
    report_changed_bytes,
)
from facegan.prep.remote_store import open_read_only, open_store
from facegan.prep.request import PrepareRequest, check_settings, effective_settings, find_models, open_attributes
from facegan.prep.sources import open_source
from facegan.prep.sources.base import Readable, source_errors
from facegan.prep.sources.folder import BROKEN_LINK
from facegan.prep.storage import SETTINGS_FILE, UNPACKED, OutputStore, is_dataset_file
from facegan.remote import is_url
from facegan.shards.format import DATASET_FILE, PHOTOS_FILE, STATE_FOLDER


@dataclass(frozen=True)
class PrepResult:
    """What a run did. Counts are the dataset's; seconds and rate are this run's.

    Attributes:
        seconds: wall time.
        work_seconds: from the first photo read to the last rename; the rate is over these.
        worker_peak_bytes: the largest memory of one worker.
    """

    photos: int
    kept: int
    rejected: dict[str, int]
    ignored: dict[str, int]
    faces: int
    shards: int
    bytes: int
    seconds: float
    work_seconds: float
    photos_per_second: float
    engine: str
    nodes: int
    workers: int
    out: str
    worker_peak_bytes: int = 0

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

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def prepare(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: PrepConfig | None = None,
    *,
    console: Console | None = None,
    **options: Any,
) -> PrepResult:
    """Photographs → a dataset of faces in WebDataset shards.

        prepare("photos/", "out/", size=32, crop="box", workers=4)

    Args:
        source: a folder, archive, table or array of photographs, by path or URL.
        out: the dataset's folder, or a URL.
        config: everything that decides the bytes of the dataset.
        console: shows progress; silent if None.
        options: other fields of `PrepareRequest` (``limit``, ``workers``, ``repair``, …), and settings of `PrepConfig`.

    Raises:
        see `run_prepare`.
    """
    return run_prepare(PrepareRequest.of(source, out, ({"settings": config} if config else {}) | options), console)


def run_prepare(request: PrepareRequest, console: Console | None = None) -> PrepResult:
    """Carries out a request. Finished chunks are skipped: a stopped run resumes, new photographs go into new shards.

    Raises:
        SourceError: there are no photographs.
        DatasetError: ``out`` holds something else, or was prepared with other settings.
        ModelError: a detector model is missing or altered.
        DiskError: ``out`` cannot be written.
        Interrupted: Ctrl-C; the same request resumes.
        SettingsError: settings conflict; or a script calls this outside ``if __name__ == "__main__":``.
    """
    exit_if_reimported()
    start = time.monotonic()
    console = console or Console(quiet=True)
    build = DatasetBuild(request)
    with (
        open_store(os.fspath(request.out), request.force) as store,
        contextlib.closing(list_photographs(build.source)) as index,
        disk_errors(store.folder),
        contextlib.ExitStack() as engine,
    ):
        store.recover(drop=request.force)
        plan = build.plan(index, store, max(1, build.workers), console)
        chunks = build.clear(plan, store)
        stats = build.make_chunks(plan, store, chunks, console, engine)
        with disk_errors(store.folder, _finish_bytes(plan)):
            info = finish(store, plan, request.note_source) if plan.todo or plan.existing is None else plan.existing
        stats.last = time.monotonic()  # the last rename is that of dataset.json
        engine.close()
        report_changed_bytes(info, plan, console)
        if broken := index.ignored.names.get(BROKEN_LINK):
            count = index.ignored[BROKEN_LINK]
            console.warn(f"{count:,} broken links were ignored (first: {', '.join(map(shown, broken))}).")
        for sentence in advice(info.totals.rejected, info.totals.photos, request.settings, store.folder / PHOTOS_FILE):
            console.warn(sentence)
    return PrepResult(
        **info.totals.model_dump(),
        shards=len(info.shards),
        seconds=round(time.monotonic() - start, 3),
        work_seconds=round(stats.seconds, 3),
        photos_per_second=round(stats.photos / stats.seconds, 1) if stats.seconds else 0.0,
        engine=request.engine,
        nodes=stats.nodes,
        workers=build.workers,
        out=store.where,
        worker_peak_bytes=stats.peak_bytes,
    )


def plan_prepare(request: PrepareRequest) -> PrepPlan:
    """What `run_prepare` would do. Touches nothing; raises the same errors."""
    build = DatasetBuild(request, is_dry=True)
    with open_read_only(os.fspath(request.out)) as store, contextlib.closing(list_photographs(build.source)) as index:
        plan = build.plan(index, store, 0, Console(quiet=True))
    seconds, size = estimate(plan.new, sum(chunk.bytes for chunk in plan.chunks), request.settings, build.workers)
    return PrepPlan(
        photos=plan.found,
        new=plan.new,
        ignored=plan.ignored,
        chunks=len(plan.chunks),
        about_seconds=round(seconds, 1),
        about_bytes=size,
        workers=build.workers,
        settings=plan.settings,
        out=os.fspath(request.out),
    )


class DatasetBuild:
    """A request with its inputs opened: photographs, detector models and attributes.

    Attributes:
        settings: as dataset.json stores them.
        workers: number of processes; 0 works in this one.
    """

    def __init__(self, request: PrepareRequest, is_dry: bool = False) -> None:
        self.request = request
        out = None if is_url(os.fspath(request.out)) else Path(request.out)  # it may be inside the source
        self.source = open_source(
            os.fspath(request.source),
            out,
            request.download and not is_dry,
            request.follow_links,
            request.max_unpacked_ratio,
        )
        self.models = find_models(request.settings, request.model, fetch=not is_dry)
        self.attributes = open_attributes(request.attributes) if request.attributes else None
        self.settings = effective_settings(request.settings, self.models, self.attributes)
        self.workers = system.prep_workers() if request.workers is None else request.workers

    def plan(self, index: PhotoIndex, store: OutputStore, threads: int, console: Console) -> Plan:
        """The chunks to make: those of new photographs, or for a repair those of damaged shards.

        Args:
            threads: for the search for duplicates; 0 skips it.

        Raises:
            DatasetError: the dataset has other settings, or is damaged.
        """
        request, out = self.request, store.folder
        existing = None if request.force else store.existing()
        started_with = existing.settings if existing else store.stored_settings()
        if started_with and not request.force:
            check_settings(started_with, self.settings, out)
        plan_request = PlanRequest(
            source=self.source,
            out=out,
            config=request.settings,
            settings=self.settings,
            existing=existing,
            attributes=self.attributes,
            limit=request.limit,
            dedup_threads=threads,
            fetch_ahead=request.fetch_ahead,
        )
        if not request.repair:
            return make_plan(plan_request, index)
        plan = plan_repair(plan_request, index, store.sha256, console)
        if not plan.rebuild:
            console.note(f"{store.where} needs no repair.")
        return plan

    def clear(self, plan: Plan, store: OutputStore) -> Path:
        """Deletes what no run will continue; returns the folder for the plan's chunks."""
        out, state = store.folder, store.state
        with disk_errors(out):
            if self.request.force and ((out / DATASET_FILE).exists() or store.stored_settings() != plan.settings):
                (out / DATASET_FILE).unlink(missing_ok=True)  # first: without it the rest is not a dataset
                shutil.rmtree(state / CHUNKS, ignore_errors=True)
                shutil.rmtree(state / REPAIRS, ignore_errors=True)
            if self.request.repair and not plan.rebuild:
                shutil.rmtree(state / REPAIRS, ignore_errors=True)
            if plan.existing is None:  # shards of a dataset that was being deleted
                for path in out.iterdir():
                    if is_dataset_file(path.name):
                        path.unlink()
            shutil.rmtree(state / UNPACKED, ignore_errors=True)  # left by a run that was killed
            chunks = make_folder(state / plan.chunks_folder)
            write_json(out / SETTINGS_FILE, plan.settings)
            for folder in (out, state, chunks):
                remove_partials(folder)
        store.sync_cleared()
        return chunks

    def make_chunks(
        self, plan: Plan, store: OutputStore, chunks: Path, console: Console, engine: contextlib.ExitStack
    ) -> RunStats:
        """Makes the chunks of the plan that are not committed yet in the folder ``chunks``.

        Args:
            engine: closes the engine. That takes a while, and the end of the dataset need not wait for it.
        """
        request = self.request
        todo = [chunk for chunk in plan.todo if committed(chunks, chunk.number, chunk.inputs) is None]
        announce_prep(plan, todo, request.settings, self.workers, console)
        is_limited = request.workers is None and request.ray_address is None and self.workers < system.usable_cpus()
        if is_limited and len(todo) > self.workers:
            console.note(
                f"Memory limits the workers: each takes up to {human_bytes(system.PREP_WORKER_BYTES)}, and "
                f"{human_bytes(system.available_bytes())} are available. --workers N sets another number."
            )
        if not todo:
            return RunStats()
        with self._unpacked(plan, todo, store.folder) as readable:
            job = Job(request.settings, readable, self.models, chunks, request.photo_seconds, request.fetch_ahead)
            config = EngineConfig(request.engine, self.workers, request.ray_address)
            return run_engine(plan, todo, store, job, config, console, engine)

    @contextlib.contextmanager
    def _unpacked(self, plan: Plan, todo: list[ChunkPlan], out: Path) -> Iterator[Readable]:
        """The source as workers read it. Unpacked files are deleted at the end."""
        folder = out / STATE_FOLDER / UNPACKED
        face_bytes = estimate(sum(chunk.photos for chunk in todo), 0, self.request.settings, 1)[1]
        try:
            with (
                disk_errors(out, face_bytes + sum(chunk.bytes for chunk in plan.todo)),
                source_errors(self.source.where),
            ):
                readable = self.source.unpacked(make_folder(folder))
            with disk_errors(out, face_bytes):
                yield readable
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _finish_bytes(plan: Plan) -> int:
    """About how much the end of a run writes: the table and the journal's files grow with the dataset."""
    return 2_000_000 + 250 * (plan.new + (plan.existing.totals.photos if plan.existing else 0))

"""`prepare`: from photographs to a dataset. Plan, run, finish."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from facegan import system as machine
from facegan.config import PrepConfig
from facegan.console import Console, shown
from facegan.errors import FaceganError, SettingsError
from facegan.files import disk_errors, exclusive, human_bytes, make_folder
from facegan.prep.commit import committed
from facegan.prep.engines.local import exit_if_reimported
from facegan.prep.engines.scheduler import EngineConfig, RunStats, run_engine
from facegan.prep.engines.worker import PHOTO_SECONDS, Job
from facegan.prep.finish import finish
from facegan.prep.messages import advice, announce_prep
from facegan.prep.photo_index import PhotoIndex
from facegan.prep.plan import ChunkPlan, Plan, estimate, list_photographs, make_plan, plan_repair, report_changed_bytes
from facegan.prep.remote_store import open_read_only, open_store
from facegan.prep.settings import Attributes, check_settings, effective_settings, find_models, open_attributes
from facegan.prep.sources import open_source
from facegan.prep.sources.base import Readable, Source, sound
from facegan.prep.sources.folder import BROKEN_LINK
from facegan.prep.storage import UNPACKED, OutputStore, existing_dataset, prepare_output_dir, recover, stored_settings
from facegan.remote import FETCH_AHEAD, MOST_REQUESTS, is_url
from facegan.shards.format import PHOTOS_FILE, STATE_FOLDER, DatasetInfo
from facegan.unpack import MAX_RATIO


@dataclass(frozen=True)
class PrepResult:
    """What `prepare` did. Counts are the dataset's; seconds and rate are this run's.

    Attributes:
        seconds: wall time.
        work_seconds: from the first photo taken to the last rename; the rate is over these.
        worker_peak_bytes: the most memory that one worker used.
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
    model: Path | None = None,
    workers: int | None = None,
    engine: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
    limit: int | None = None,
    force: bool = False,
    repair: bool = False,
    download: bool = False,
    attributes: Path | None = None,
    note_source: bool = True,
    photo_seconds: float = PHOTO_SECONDS,
    fetch_ahead: int = FETCH_AHEAD,
    follow_links: bool = True,
    max_unpacked_ratio: int = MAX_RATIO,
    console: Console | None = None,
) -> PrepResult:
    """Photographs → a dataset of faces in WebDataset shards.

    What stands is not done again: a run that was stopped goes on, and new photographs go into new shards.

    Args:
        source: a folder, an archive, a table or an array of photographs, by path or fsspec URL; or several at once, or
            ``torchvision:NAME`` (see `facegan.prep.sources.open_source`).
        out: the dataset's folder, made where it is missing; or an fsspec URL (``s3://bucket/faces``).
        config: everything that decides about bytes.
        model: a detector model (``.tflite``) instead of those that facegan finds.
        workers: processes; one for each usable CPU where None, or as many as fit into the available memory.
        engine: local processes, or tasks on a Ray cluster (the extra ``ray``).
        ray_address: an existing cluster; one is started on this machine where None.
        limit: only the first photographs, by name.
        force: delete the dataset in ``out``, and make it anew.
        repair: make shards of ``out`` that are missing or altered again, and try photographs again that stayed away;
            nothing is added.
        download: torchvision may fetch what is missing.
        attributes: CelebA's list_attr_celeba.txt; what it says of a photograph goes into the JSON of its samples.
        note_source: note in ``out/.facegan`` where the photographs lie, for ``facegan inspect``.
        photo_seconds: a photograph that takes longer, reading apart, is ``crashed``.
        fetch_ahead: requests of each process at once, where photographs are fetched one by one (URLs in a table, a
            bucket's objects, a remote tar); 1 … 100. It changes no result.
        follow_links: a folder's symbolic links count as what they lead to.
        max_unpacked_ratio: of an archive's, an array's or a table's unpacked bytes to its own; beyond, it is refused.
        console: where progress goes; silent where None.

    Raises:
        SourceError: no photographs there.
        DatasetError: ``out`` holds something else.
        ModelError: a detector model is missing or altered.
        DiskError: ``out`` can't be written.
        Interrupted: Ctrl-C; the same call goes on.
        SettingsError: settings that don't go together; a script that calls this where processes meet the call again,
            not below ``if __name__ == "__main__":``.
    """
    exit_if_reimported()
    start = time.monotonic()
    if repair and force:
        raise SettingsError("--repair mends the dataset, --force deletes it: choose one of them.")
    if not 1 <= fetch_ahead <= MOST_REQUESTS:
        raise SettingsError(f"fetch_ahead = {fetch_ahead}: it has to be a number from 1 to {MOST_REQUESTS}.")
    config, console = config or PrepConfig(), console or Console(quiet=True)
    is_limited = workers is None and ray_address is None and machine.prep_workers() < machine.usable_cpus()
    workers = workers or machine.prep_workers()
    origin = open_source(os.fspath(source), _leave_out(out), download, follow_links, max_unpacked_ratio)
    models = find_models(config, model)
    listed = open_attributes(attributes) if attributes else None
    with (
        open_store(os.fspath(out), force) as home,
        _locked(home),
        contextlib.closing(list_photographs(origin)) as catalogue,
        disk_errors(home.folder),
        contextlib.ExitStack() as until,
    ):
        out = home.folder
        recover(out, force)
        settings = effective_settings(config, models, listed)
        if repair:
            plan = _plan_repair(origin.where, catalogue, home, settings, listed, console)
        else:
            plan = _plan(origin, catalogue, out, config, settings, limit, force, workers, listed, fetch_ahead)
        folder = prepare_output_dir(out, plan, force, repair)
        home.ready()
        todo = [chunk for chunk in plan.todo if committed(folder, chunk.number, chunk.inputs) is None]
        announce_prep(plan, todo, config, workers, console)
        if is_limited and len(todo) > workers:
            console.note(
                f"Memory limits the workers: each takes up to {human_bytes(machine.PREP_WORKER_BYTES)}, and "
                f"{human_bytes(machine.available_bytes())} are available. --workers N sets another number."
            )
        ran = RunStats()
        if todo:
            with _unpacked(origin, out, plan, todo, config) as readable:
                job = Job(config, readable, models, folder, photo_seconds, fetch_ahead)
                ran = run_engine(plan, todo, home, job, EngineConfig(engine, workers, ray_address), console, until)
        with disk_errors(out, _finish_bytes(plan)):
            info = finish(home, plan, note_source) if plan.todo or plan.before is None else plan.before
        if plan.before and plan.again:
            report_changed_bytes(plan.before, info, plan, console)
        ran.last = time.monotonic()  # the last rename is that of dataset.json
        until.close()
        totals = info.totals
        if broken := catalogue.ignored.names.get(BROKEN_LINK):
            count = catalogue.ignored[BROKEN_LINK]
            console.warn(f"{count:,} links lead nowhere and were ignored (first: {', '.join(map(shown, broken))}).")
        for sentence in advice(totals.rejected, totals.photos, config, out / PHOTOS_FILE):
            console.warn(sentence)
        return PrepResult(
            photos=totals.photos,
            kept=totals.kept,
            rejected=totals.rejected,
            ignored=totals.ignored,
            faces=totals.faces,
            shards=len(info.shards),
            bytes=totals.bytes,
            seconds=round(time.monotonic() - start, 3),
            work_seconds=round(ran.seconds, 3),
            photos_per_second=round(ran.photos / ran.seconds, 1) if ran.seconds else 0.0,
            engine=engine,
            nodes=ran.nodes,
            workers=workers,
            out=home.where,
            worker_peak_bytes=ran.peak_bytes,
        )


def plan_prepare(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: PrepConfig | None = None,
    *,
    model: Path | None = None,
    workers: int | None = None,
    limit: int | None = None,
    force: bool = False,
    attributes: Path | None = None,
    follow_links: bool = True,
    max_unpacked_ratio: int = MAX_RATIO,
) -> PrepPlan:
    """What `prepare` would do with the same arguments. Touches nothing; raises what `prepare` would."""
    config = config or PrepConfig()
    workers = workers or machine.prep_workers()
    origin = open_source(os.fspath(source), _leave_out(out), False, follow_links, max_unpacked_ratio)
    with open_read_only(os.fspath(out)) as folder, contextlib.closing(list_photographs(origin)) as catalogue:
        models = find_models(config, model, fetch=False)
        listed = open_attributes(attributes) if attributes else None
        settings = effective_settings(config, models, listed)
        plan = _plan(origin, catalogue, folder, config, settings, limit, force, 0, listed)
    new, size = plan.new, sum(chunk.bytes for chunk in plan.chunks)
    seconds, size = estimate(new, size, config, workers)
    return PrepPlan(
        plan.found, new, plan.ignored, len(plan.chunks), round(seconds, 1), size, workers, plan.settings, str(out)
    )


def _leave_out(out: str | os.PathLike[str]) -> Path | None:
    """The dataset's folder, which may lie inside the source."""
    return None if is_url(os.fspath(out)) else Path(out)


@contextlib.contextmanager
def _locked(home: OutputStore) -> Iterator[None]:
    """Holds the folder's lock. Of a folder that was made for it alone nothing stays: a mistake leaves no traces."""
    is_new = not home.folder.exists()
    state = make_folder(home.folder / STATE_FOLDER)
    with exclusive(state / "lock", f"Another facegan prep is writing into {home.where}"):
        try:
            yield
        except FaceganError:
            if is_new and [path.name for path in home.folder.rglob("*")] == [STATE_FOLDER, "lock"]:
                shutil.rmtree(home.folder)
            raise


def _plan(
    origin: Source,
    catalogue: PhotoIndex,
    out: Path,
    config: PrepConfig,
    settings: dict[str, Any],
    limit: int | None,
    force: bool,
    workers: int,
    attributes: Attributes | None,
    fetch_ahead: int = 1,
) -> Plan:
    before = existing_dataset(out, force)
    begun = stored_settings(out, before)
    if begun and not force:
        check_settings(begun, settings, out)
    return make_plan(origin, catalogue, out, config, settings, before, limit, workers, attributes, fetch_ahead)


def _plan_repair(
    where: str,
    catalogue: PhotoIndex,
    home: OutputStore,
    settings: dict[str, Any],
    attributes: Attributes | None,
    console: Console,
) -> Plan:
    before = DatasetInfo.read(home.folder)
    check_settings(before.settings, settings, home.folder)
    plan = plan_repair(where, catalogue, home.folder, home.sha256, settings, before, attributes, console)
    if not plan.again:
        console.note(f"{home.where} needs no repair.")
    return plan


@contextlib.contextmanager
def _unpacked(origin: Source, out: Path, plan: Plan, todo: list[ChunkPlan], config: PrepConfig) -> Iterator[Readable]:
    """The source as workers read it. What it had to unpack is deleted in the end."""
    folder = out / STATE_FOLDER / UNPACKED
    faces_bytes = estimate(sum(chunk.photos for chunk in todo), 0, config, 1)[1]
    try:
        with disk_errors(out, faces_bytes + sum(chunk.bytes for chunk in plan.todo)), sound(origin.where):
            source = origin.unpacked(make_folder(folder))
        with disk_errors(out, faces_bytes):
            yield source
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _finish_bytes(plan: Plan) -> int:
    """About how much the end of a run writes: the table and the journal's files grow with what the dataset holds."""
    return 2_000_000 + 250 * (plan.new + (plan.before.totals.photos if plan.before else 0))

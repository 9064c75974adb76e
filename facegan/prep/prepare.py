"""`prepare`: from photographs to a dataset. Plan, run, finish."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from facegan.config import PrepConfig
from facegan.console import Console, human_seconds
from facegan.errors import Interrupted, SettingsError
from facegan.files import disk_errors, exclusive, human_bytes, make_folder
from facegan.machine import usable_cpus
from facegan.manifests import completeness, known_datasets
from facegan.prep.advice import advice
from facegan.prep.attributes import Attributes, open_attributes
from facegan.prep.catalogue import Catalogue
from facegan.prep.commit import committed
from facegan.prep.engines.local import LocalEngine
from facegan.prep.engines.ray import RayEngine
from facegan.prep.engines.run import run_chunks
from facegan.prep.engines.worker import PHOTO_SECONDS, Done, Job
from facegan.prep.finish import finish
from facegan.prep.folder import UNPACKED, begun_with, end_earlier_run, make_ready, standing
from facegan.prep.home import Home
from facegan.prep.plan import ChunkPlan, Plan, estimate, list_photographs, make_plan
from facegan.prep.remote import look_home, open_home
from facegan.prep.repair import plan_repair, tell_other_bytes
from facegan.prep.settings import check_settings, effective_settings, find_models
from facegan.prep.sources import open_source
from facegan.prep.sources.base import Source, is_url, reachable
from facegan.prep.splits import shares
from facegan.shards.layout import STATE_FOLDER, DatasetInfo


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
        workers: processes; all usable CPUs where None.
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
        console: where progress goes; silent where None.

    Raises:
        SourceError: no photographs there.
        DatasetError: ``out`` holds something else.
        ModelError: a detector model is missing or altered.
        DiskError: ``out`` can't be written.
        Interrupted: Ctrl-C; the same call goes on.
    """
    start = time.monotonic()
    if repair and force:
        raise SettingsError("--repair mends the dataset, --force deletes it: choose one of them.")
    config, console = config or PrepConfig(), console or Console(quiet=True)
    workers = workers or usable_cpus()
    origin, models = open_source(os.fspath(source), _leave_out(out), download), find_models(config, model)
    listed = open_attributes(attributes) if attributes else None
    with (
        open_home(os.fspath(out), force) as home,
        contextlib.closing(list_photographs(origin)) as catalogue,
        _writing(home),
    ):
        out = home.folder
        end_earlier_run(out, force)
        if repair:
            plan = _plan_repair(origin.where, catalogue, home, config, models, listed, console)
        else:
            plan = _plan(origin, catalogue, out, config, models, limit, force, workers, listed)
        folder = make_ready(out, plan.settings, plan.before, force)
        home.ready()
        todo = [chunk for chunk in plan.todo if committed(folder, chunk.number, chunk.inputs) is None]
        _announce(plan, todo, config, workers, console)
        ran = _Ran()
        if todo:
            with _unpacked(origin, out, plan, todo, config) as source_to_read:
                job = Job(config, source_to_read, models, folder, photo_seconds)
                _run(job, todo, plan, home, workers, engine, ray_address, console, ran)
        with disk_errors(out, _finish_bytes(plan)):
            info = finish(home, plan, note_source) if plan.todo or plan.before is None else plan.before
        if plan.before and plan.again:
            tell_other_bytes(plan.before, info, plan, console)
        ran.last = time.monotonic()  # the last rename is that of dataset.json
        totals = info.totals
        for sentence in advice(totals.rejected, totals.photos, config):
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
) -> PrepPlan:
    """What `prepare` would do with the same arguments. Touches nothing; raises what `prepare` would."""
    config = config or PrepConfig()
    workers = workers or usable_cpus()
    origin = open_source(os.fspath(source), _leave_out(out))
    with look_home(os.fspath(out)) as folder, contextlib.closing(list_photographs(origin)) as catalogue:
        models = find_models(config, model, fetch=False)
        listed = open_attributes(attributes) if attributes else None
        plan = _plan(origin, catalogue, folder, config, models, limit, force, 0, listed)
    new, size = plan.new, sum(chunk.bytes for chunk in plan.chunks)
    seconds, size = estimate(new, size, config, workers)
    return PrepPlan(
        plan.found, new, plan.ignored, len(plan.chunks), round(seconds, 1), size, workers, plan.settings, str(out)
    )


def _leave_out(out: str | os.PathLike[str]) -> Path | None:
    """The dataset's folder, which may lie inside the source."""
    return None if is_url(os.fspath(out)) else Path(out)


@contextlib.contextmanager
def _writing(home: Home) -> Iterator[None]:
    """Holds the folder's lock."""
    lock = make_folder(home.folder / STATE_FOLDER) / "lock"
    with exclusive(lock, f"Another facegan prep is writing into {home.where}"), disk_errors(home.folder):
        yield


def _plan(
    origin: Source,
    catalogue: Catalogue,
    out: Path,
    config: PrepConfig,
    models: tuple[Path, ...],
    limit: int | None,
    force: bool,
    workers: int,
    attributes: Attributes | None = None,
) -> Plan:
    before = standing(out, force)
    plan = make_plan(origin, catalogue, out, config, models, before, limit, workers, attributes)
    begun = begun_with(out, before)
    if begun and not force:
        check_settings(begun, plan.settings, out)
    return plan


def _plan_repair(
    where: str,
    catalogue: Catalogue,
    home: Home,
    config: PrepConfig,
    models: tuple[Path, ...],
    attributes: Attributes | None,
    console: Console,
) -> Plan:
    out = home.folder
    before = DatasetInfo.read(out)
    settings = effective_settings(config, models, attributes)
    check_settings(before.settings, settings, out)
    plan = plan_repair(where, catalogue, home, settings, models, before, attributes, console)
    if not plan.again:
        console.note(f"{home.where} needs no repair.")
    return plan


@contextlib.contextmanager
def _unpacked(origin: Source, out: Path, plan: Plan, todo: list[ChunkPlan], config: PrepConfig) -> Iterator[Source]:
    """The source as workers read it. What it had to unpack is deleted in the end."""
    folder = out / STATE_FOLDER / UNPACKED
    faces_bytes = estimate(sum(chunk.photos for chunk in todo), 0, config, 1)[1]
    try:
        with disk_errors(out, faces_bytes + sum(chunk.bytes for chunk in plan.todo)), reachable(origin.where):
            source = origin.unpacked(make_folder(folder))
        with disk_errors(out, faces_bytes):
            yield source
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _finish_bytes(plan: Plan) -> int:
    """About how much the end of a run writes: the table and the journal's files grow with what the dataset holds."""
    return 2_000_000 + 250 * (plan.new + (plan.before.totals.photos if plan.before else 0))


def _announce(plan: Plan, todo: list[ChunkPlan], config: PrepConfig, workers: int, console: Console) -> None:
    new = sum(chunk.photos for chunk in todo)
    seconds, size = estimate(new, sum(chunk.bytes for chunk in todo), config, workers)
    ignored = "".join(f", {count:,} {suffix}" for suffix, count in plan.ignored.items())
    console.note(f"{plan.found:,} photographs found" + (f" (ignored{ignored.removeprefix(',')})" if ignored else ""))
    known = known_datasets().get(plan.data_set)
    if known:
        split = f"; recommended: --split {known.prep_split}" if config.split == "none" else ""
        console.note(f"{completeness(known, len(plan.catalogue))}{split}.")
    if plan.found > new:
        console.note(f"{plan.found - new:,} of them are done already.")
    if plan.twins:
        console.note(f"{plan.twins:,} are duplicates: they have the bytes of a photograph before them.")
    if new:
        console.note(
            f"{new:,} to prepare with {workers} processes: "
            f"about {human_seconds(seconds)}, about {human_bytes(size)} of disk."
        )
    if config.dedup == "off" and shares(config.split):
        console.warn("a split by hash without --dedup exact may put copies of one photograph on both sides.")
    count, first = plan.gone
    if count:
        console.warn(f"{count:,} photographs of the dataset are gone from the source (first: {first}); "
                     "their faces stay.")  # fmt: skip
    if plan.before and plan.before.versions != plan.versions:
        changed = [
            f"{k} {plan.before.versions.get(k)} → {v}"
            for k, v in plan.versions.items()
            if plan.before.versions.get(k) != v
        ]
        console.warn(
            f"the dataset was begun with other versions ({', '.join(changed)}); new faces may differ slightly."
        )


@dataclass
class _Ran:
    """Sums over the chunks that this run did."""

    photos: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    first: float = float("inf")
    last: float = 0.0
    no_decoder: int = 0
    peak_bytes: int = 0
    nodes: int = 1

    @property
    def seconds(self) -> float:
        """From the first photo taken to the last rename."""
        return self.last - self.first if self.photos else 0.0

    def add(self, done: Done) -> None:
        self.photos += done.chunk.photos
        self.kept += done.chunk.kept
        self.rejected.update(done.chunk.rejected)
        self.no_decoder += done.chunk.no_decoder
        self.first, self.last = min(self.first, done.started), max(self.last, done.finished)
        self.peak_bytes = max(self.peak_bytes, done.peak_bytes)

    def note(self) -> str:
        reasons = "".join(f", {count:,} {reason}" for reason, count in self.rejected.most_common(3))
        return f"{self.kept / self.photos:.1%} kept{reasons}"


def _engine(
    job: Job, chunks: int, workers: int, name: str, address: str | None, console: Console
) -> LocalEngine | RayEngine:
    if name == "ray":
        return RayEngine(job, address, None if address else workers, console)
    return LocalEngine(job, min(workers, chunks))


def _run(
    job: Job,
    todo: list[ChunkPlan],
    plan: Plan,
    home: Home,
    workers: int,
    engine_name: str,
    ray_address: str | None,
    console: Console,
    ran: _Ran,
) -> None:
    before = plan.new - sum(chunk.photos for chunk in todo)
    away = ""  # why the first photograph is unreachable that is: one fault often keeps many away
    try:
        with (
            console.progress(plan.new, "photographs", done=before) as progress,
            _engine(job, len(todo), workers, engine_name, ray_address, console) as engine,
        ):
            for done in home.kept(run_chunks(engine, map(plan.work, todo))):
                ran.add(done)
                for crash in done.chunk.crashes:
                    console.warn(f"crashed on {crash}")
                if done.chunk.unreachable and not away:
                    away = done.chunk.unreachable
                    console.warn(f"unreachable: {away}")
                progress.advance(done.chunk.photos, ran.note())
            ran.nodes = len(getattr(engine, "nodes", ())) or 1
        if away:
            count = ran.rejected["unreachable"]
            console.warn(f"{count:,} photographs are unreachable; --repair tries them again.")
    except KeyboardInterrupt:
        raise Interrupted(
            f"Stopped. {before + ran.photos:,} of {plan.new:,} photographs are done and kept; "
            f"the same command goes on from there."
        ) from None
    if ran.no_decoder:
        console.warn(
            f"{ran.no_decoder:,} photographs are HEIC, which no installed library decodes: they are unreadable. "
            "Convert them to JPEG, and prepare them under their new names."
        )

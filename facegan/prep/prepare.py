"""`prepare`: from photographs to a dataset. Plan, run, finish."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facegan.config import PrepConfig
from facegan.console import Console, human_seconds
from facegan.errors import Interrupted
from facegan.files import disk_errors, exclusive, human_bytes, make_folder
from facegan.machine import usable_cpus
from facegan.prep.commit import Work, committed
from facegan.prep.engines import Done, Job, run_local
from facegan.prep.finish import finish
from facegan.prep.folder import begun_with, end_earlier_run, make_ready, refuse_foreign, standing
from facegan.prep.plan import Plan, check_settings, estimate, find_models, list_photographs, make_plan
from facegan.prep.sources import Listing, open_source
from facegan.shards.layout import STATE_FOLDER


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
    limit: int | None = None,
    force: bool = False,
    console: Console | None = None,
) -> PrepResult:
    """Photographs → a dataset of faces in WebDataset shards.

    What stands is not done again: a run that was stopped goes on, and new photographs go into new shards.

    Args:
        source: a folder, ``.tar`` or ``.zip`` of photographs.
        out: the dataset's folder; made where it is missing.
        config: everything that decides about bytes.
        model: a detector model (``.tflite``) instead of those that facegan finds.
        workers: processes; all usable CPUs where None.
        limit: only the first photographs, by name.
        force: delete the dataset in ``out``, and make it anew.
        console: where progress goes; silent where None.

    Raises:
        SourceError: no photographs there.
        DatasetError: ``out`` holds something else.
        ModelError: a detector model is missing or altered.
        DiskError: ``out`` can't be written.
        Interrupted: Ctrl-C; the same call goes on.
    """
    start = time.monotonic()
    config, console, out = config or PrepConfig(), console or Console(quiet=True), Path(out)
    workers = workers or usable_cpus()
    origin = open_source(Path(source), leave_out=out)
    refuse_foreign(out)
    listing = list_photographs(origin)
    models = find_models(config, model)
    lock = make_folder(out / STATE_FOLDER) / "lock"
    busy = f"Another facegan prep is writing into {out}"
    with exclusive(lock, busy), disk_errors(out, estimate(1, 0, config, 1)[1] * config.shard_size):
        end_earlier_run(out, force)
        plan = _plan(listing, out, config, models, limit, force)
        job = Job(config, origin, models, make_ready(out, plan.settings, plan.before, force))
        todo = [work for work in plan.work if committed(job.folder, work) is None]
        _announce(plan, todo, config, workers, console)
        ran = _run(job, todo, plan, workers, console)
        info = finish(out, plan) if plan.work or plan.before is None else plan.before
        ran.last = time.monotonic()  # the last rename is that of dataset.json
        totals = info.totals
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
            engine="local",
            workers=workers,
            out=str(out),
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
) -> PrepPlan:
    """What `prepare` would do with the same arguments. Touches nothing; raises what `prepare` would."""
    config, out = config or PrepConfig(), Path(out)
    workers = workers or usable_cpus()
    refuse_foreign(out)
    listing = list_photographs(open_source(Path(source), leave_out=out))
    plan = _plan(listing, out, config, find_models(config, model, fetch=False), limit, force)
    seconds, size = estimate(plan.new, _bytes_of(plan.work), config, workers)
    return PrepPlan(
        plan.found, plan.new, plan.ignored, len(plan.work), round(seconds, 1), size, workers, plan.settings, str(out)
    )


def _plan(
    listing: Listing, out: Path, config: PrepConfig, models: tuple[Path, ...], limit: int | None, force: bool
) -> Plan:
    before = standing(out, force)
    plan = make_plan(listing, out, config, models, before, limit)
    begun = begun_with(out, before)
    if begun and not force:
        check_settings(begun, plan.settings, out)
    return plan


def _bytes_of(work: tuple[Work, ...] | list[Work]) -> int:
    return sum(entry.size for one in work for _, entry in one.chunk.entries)


def _announce(plan: Plan, todo: list[Work], config: PrepConfig, workers: int, console: Console) -> None:
    new = sum(len(work.chunk.entries) for work in todo)
    seconds, size = estimate(new, _bytes_of(todo), config, workers)
    ignored = "".join(f", {count:,} {suffix}" for suffix, count in plan.ignored.items())
    console.note(f"{plan.found:,} photographs found" + (f" (ignored{ignored.removeprefix(',')})" if ignored else ""))
    if plan.found > new:
        console.note(f"{plan.found - new:,} of them are done already.")
    if new:
        console.note(
            f"{new:,} to prepare with {workers} processes: "
            f"about {human_seconds(seconds)}, about {human_bytes(size)} of disk."
        )
    if plan.gone:
        console.warn(f"{len(plan.gone):,} photographs of the dataset are gone from the source (first: {plan.gone[0]}); "
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


def _run(job: Job, todo: list[Work], plan: Plan, workers: int, console: Console) -> _Ran:
    ran = _Ran()
    before = plan.new - sum(len(work.chunk.entries) for work in todo)
    try:
        with console.progress(plan.new, "photographs", done=before) as progress:
            if todo:
                # Closed by hand: an interruption has to stop the workers now, not when the generator is collected.
                with contextlib.closing(run_local(job, todo, min(workers, len(todo)))) as chunks:
                    for done in chunks:
                        ran.add(done)
                        for crash in done.chunk.crashes:
                            console.warn(f"crashed on {crash}")
                        progress.advance(done.chunk.photos, ran.note())
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
    return ran

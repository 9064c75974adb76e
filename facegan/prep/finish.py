"""The end of a run: chunks become numbered shards, and dataset.json, last of all, says that the dataset is whole.

All final files are first written beside each other under ``.facegan``, then a journal of renames, then the renames are
made. A process killed anywhere in between leaves either chunks to finish or a journal to carry out.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2

from facegan.errors import DatasetError
from facegan.files import disk_errors, make_folder, sha256_file, sync_folder, write_bytes, write_json
from facegan.prep.chunk import ChunkResult, Thumbnail
from facegan.prep.engines import committed, shard_path
from facegan.prep.photos import write_photos
from facegan.prep.plan import Plan
from facegan.prep.preview import REJECTS_SHOWN, draw_preview
from facegan.shards.layout import (
    DATASET_FILE,
    PHOTOS_FILE,
    PREVIEW_FILE,
    STATE_FOLDER,
    DatasetInfo,
    ShardEntry,
    Totals,
    shard_name,
)

CHUNKS = "chunks"
_FINAL = "final"
_JOURNAL = "journal.json"
_SPLIT = "train"


def finish(out: Path, plan: Plan) -> DatasetInfo:
    """Makes the committed chunks of a plan part of the dataset."""
    state = out / STATE_FOLDER
    final = make_folder(state / _FINAL)
    shards = _number_shards(out, plan)
    write_photos(final / PHOTOS_FILE, out / PHOTOS_FILE if plan.before else None, _rows(out, plan, shards))
    info = _describe(plan, _totals(out, plan, shards), shards, sha256_file(final / PHOTOS_FILE))
    _write_preview(final / PREVIEW_FILE, out, plan, info, shards)
    write_json(final / DATASET_FILE, info.model_dump(mode="json"))
    moves = [(f"{STATE_FOLDER}/{CHUNKS}/{number:06d}.tar", entry.name) for number, entry in shards.items()]
    moves += [(f"{STATE_FOLDER}/{_FINAL}/{name}", name) for name in (PHOTOS_FILE, PREVIEW_FILE, DATASET_FILE)]
    write_json(state / _JOURNAL, moves)
    carry_out_journal(out)
    return info


def carry_out_journal(out: Path) -> None:
    """Makes the renames that a finished run had decided on, if there are any left."""
    state = out / STATE_FOLDER
    journal = state / _JOURNAL
    if not journal.is_file():
        return
    with disk_errors(out):
        if (state / _FINAL / DATASET_FILE).is_file():
            (out / DATASET_FILE).unlink(missing_ok=True)  # while files are exchanged, no dataset stands
        for source, target in json.loads(journal.read_bytes()):
            if (out / source).is_file():
                (out / source).replace(out / target)
        sync_folder(out)
        journal.unlink()
        shutil.rmtree(state / CHUNKS, ignore_errors=True)
        shutil.rmtree(state / _FINAL, ignore_errors=True)


def _results(out: Path, plan: Plan) -> Iterator[tuple[int, ChunkResult]]:
    for work in plan.work:
        result = committed(out / STATE_FOLDER / CHUNKS, work)
        if result is None:
            raise DatasetError(f"Chunk {work.chunk.number} of {out} was altered while prep ran. Start it again.")
        yield work.chunk.number, result


def _number_shards(out: Path, plan: Plan) -> dict[int, ShardEntry]:
    """Chunk number → shard, numbered without gaps behind those that stand."""
    first = len(plan.before.split_shards(_SPLIT)) if plan.before else 0
    shards: dict[int, ShardEntry] = {}
    for number, result in _results(out, plan):
        if result.shard:
            name = shard_name(_SPLIT, first + len(shards))
            made = result.shard
            shards[number] = ShardEntry(
                name=name, split=_SPLIT, samples=made.samples, bytes=made.bytes, sha256=made.sha256
            )
    return shards


def _rows(out: Path, plan: Plan, shards: dict[int, ShardEntry]) -> Iterator[dict[str, Any]]:
    for number, result in _results(out, plan):
        for row in result.rows:
            yield {**vars(row), "split": _SPLIT, "shard": shards[number].name if row.keys else ""}


def _totals(out: Path, plan: Plan, shards: dict[int, ShardEntry]) -> Totals:
    before = plan.before.totals if plan.before else Totals(photos=0, kept=0, rejected={}, ignored={}, faces=0, bytes=0)
    rejected, photos, kept, faces = Counter(before.rejected), before.photos, before.kept, before.faces
    for _, result in _results(out, plan):
        photos += len(result.rows)
        kept += sum(row.outcome == "kept" for row in result.rows)
        faces += sum(len(row.keys) for row in result.rows)
        rejected.update(row.reason for row in result.rows if row.reason)
    return Totals(
        photos=photos,
        kept=kept,
        rejected=dict(sorted(rejected.items())),
        ignored=plan.ignored,
        faces=faces,
        bytes=before.bytes + sum(entry.bytes for entry in shards.values()),
    )


def _describe(plan: Plan, totals: Totals, shards: dict[int, ShardEntry], photos_sha256: str) -> DatasetInfo:
    return DatasetInfo(
        settings=plan.settings,
        versions=plan.versions,
        fingerprint=plan.fingerprint,
        totals=totals,
        shards=(*(plan.before.shards if plan.before else ()), *shards.values()),
        photos_sha256=photos_sha256,
    )


def _write_preview(path: Path, out: Path, plan: Plan, info: DatasetInfo, shards: dict[int, ShardEntry]) -> None:
    rejects: list[Thumbnail] = []
    for _, result in _results(out, plan):
        rejects += result.rejects[: REJECTS_SHOWN - len(rejects)]
        if len(rejects) >= REJECTS_SHOWN:
            break
    chunks = out / STATE_FOLDER / CHUNKS
    made = {entry.name: shard_path(chunks, number) for number, entry in shards.items()}
    paths = [(made.get(entry.name, out / entry.name), entry.samples) for entry in info.shards]
    sheet = draw_preview(paths, rejects, info.totals.rejected, info.totals.kept)
    write_bytes(path, cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1].tobytes())

"""The end of a run: chunks become numbered shards, and dataset.json, last of all, says that the dataset is whole.

All final files are first written beside each other under ``.facegan``, then a journal of renames, then the renames are
made. A process killed anywhere in between leaves either chunks to finish or a journal to carry out.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import pyarrow as pa

from facegan.errors import DatasetError
from facegan.files import disk_errors, make_folder, sha256_file, sync_folder, write_bytes, write_json
from facegan.manifests import known_datasets, recognise
from facegan.prep.chunk import Thumbnail
from facegan.prep.commit import Committed, committed, rows_path, shard_path
from facegan.prep.plan import Plan
from facegan.prep.preview import REJECTS_SHOWN, draw_preview
from facegan.shards.cards import write_cards
from facegan.shards.layout import (
    CARD_NAME,
    DATASET_FILE,
    PHOTOS_FILE,
    PREVIEW_FILE,
    SHARD_NAME,
    STATE_FOLDER,
    DatasetInfo,
    ShardEntry,
    Totals,
    shard_name,
)
from facegan.shards.photos import read_rows, write_photos

CHUNKS = "chunks"
_FINAL = "final"
JOURNAL = "journal.json"
_SPLIT = "train"


def finish(out: Path, plan: Plan) -> DatasetInfo:
    """Makes the committed chunks of a plan part of the dataset."""
    state = out / STATE_FOLDER
    final = make_folder(state / _FINAL)
    gathered = _Gathered(plan)
    write_photos(final / PHOTOS_FILE, out / PHOTOS_FILE if plan.before else None, gathered.rows(out))
    info = DatasetInfo(
        data_set=_data_set(plan),
        settings=plan.settings,
        versions=plan.versions,
        fingerprint=plan.fingerprint,
        totals=gathered.totals(),
        shards=(*(plan.before.shards if plan.before else ()), *gathered.shards.values()),
        photos_sha256=sha256_file(final / PHOTOS_FILE),
    )
    _write_preview(final / PREVIEW_FILE, out, info, gathered)
    cards = write_cards(final, info, known_datasets().get(info.data_set))
    write_json(final / DATASET_FILE, info.model_dump(mode="json"))
    moves = [(f"{STATE_FOLDER}/{CHUNKS}/{number:06d}.tar", entry.name) for number, entry in gathered.shards.items()]
    moves += [(f"{STATE_FOLDER}/{_FINAL}/{name}", name) for name in (PHOTOS_FILE, PREVIEW_FILE, *cards, DATASET_FILE)]
    write_json(state / JOURNAL, moves)
    carry_out_journal(out)
    return info


def _data_set(plan: Plan) -> str:
    if plan.before:
        return plan.before.data_set
    known = recognise((path for work in plan.work for path, _ in work.chunk.entries), plan.new)
    return known.name if known else ""


def carry_out_journal(out: Path) -> None:
    """Makes the renames that a finished run had decided on, if there are any left."""
    state = out / STATE_FOLDER
    journal = state / JOURNAL
    if not journal.is_file():
        return
    with disk_errors(out):
        if (state / _FINAL / DATASET_FILE).is_file():
            (out / DATASET_FILE).unlink(missing_ok=True)  # while files are exchanged, no dataset stands
        for source, target in _read_journal(journal):
            if (out / source).is_file():
                (out / source).replace(out / target)
        sync_folder(out)
        journal.unlink()
        shutil.rmtree(state / CHUNKS, ignore_errors=True)
        shutil.rmtree(state / _FINAL, ignore_errors=True)


def _read_journal(journal: Path) -> list[tuple[str, str]]:
    """Renames inside the dataset's folder, and nothing else: the file may come from elsewhere.

    Raises:
        DatasetError: it holds something else.
    """
    try:
        moves = [(str(source), str(target)) for source, target in json.loads(journal.read_bytes())]
    except (ValueError, TypeError):
        moves = [("", "")]
    for source, target in moves:
        known = re.fullmatch(rf"{re.escape(STATE_FOLDER)}/({CHUNKS}/\d+\.tar|{_FINAL}/[\w.-]*\w)", source)
        ours = SHARD_NAME.fullmatch(target) or CARD_NAME.fullmatch(target)
        if not known or not (ours or target in (PHOTOS_FILE, PREVIEW_FILE, DATASET_FILE)):
            raise DatasetError(f"{journal} is damaged. Make the dataset anew with --force.")
    return moves


class _Gathered:
    """What the chunks of a plan come to, gathered while their rows pass by."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.shards: dict[int, ShardEntry] = {}  # by the chunk's number; numbered without gaps
        self.rejects: dict[str, list[Thumbnail]] = {}  # by reason
        before = plan.before.totals if plan.before else None
        self._rejected = Counter(before.rejected if before else {})
        self._counts = Counter(photos=before.photos, kept=before.kept, faces=before.faces) if before else Counter()

    def rows(self, out: Path) -> Iterator[pa.Table]:
        folder = out / STATE_FOLDER / CHUNKS
        for work in self.plan.work:
            number = work.chunk.number
            done = committed(folder, work)
            if done is None:
                raise DatasetError(f"Chunk {number} of {out} was altered while prep ran. Start it again.")
            self._counts.update(photos=done.photos, kept=done.kept, faces=done.faces)
            self._rejected.update(done.rejected)
            for reject in done.rejects:
                self.rejects.setdefault(reject.reason, []).append(reject)
            yield read_rows(rows_path(folder, number), _SPLIT, self._number(number, done))

    def _number(self, chunk: int, done: Committed) -> str:
        if done.shard is None:
            return ""
        first = len(self.plan.before.split_shards(_SPLIT)) if self.plan.before else 0
        name = shard_name(_SPLIT, first + len(self.shards))
        self.shards[chunk] = ShardEntry(name=name, split=_SPLIT, **vars(done.shard))
        return name

    def totals(self) -> Totals:
        before = self.plan.before.totals.bytes if self.plan.before else 0
        return Totals(
            photos=self._counts["photos"],
            kept=self._counts["kept"],
            rejected=dict(sorted(self._rejected.items())),
            ignored=self.plan.ignored,
            faces=self._counts["faces"],
            bytes=before + sum(entry.bytes for entry in self.shards.values()),
        )

    def shown_rejects(self) -> list[Thumbnail]:
        """The first of each reason, then the second of each, …"""
        ranks = itertools.zip_longest(*(self.rejects[reason] for reason in sorted(self.rejects)))
        return [reject for rank in ranks for reject in rank if reject][:REJECTS_SHOWN]


def _write_preview(path: Path, out: Path, info: DatasetInfo, gathered: _Gathered) -> None:
    chunks = out / STATE_FOLDER / CHUNKS
    made = {entry.name: shard_path(chunks, number) for number, entry in gathered.shards.items()}
    paths = [(made.get(entry.name, out / entry.name), entry.samples) for entry in info.shards]
    sheet = draw_preview(paths, gathered.shown_rejects(), info.totals.rejected, info.totals.kept)
    write_bytes(path, cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1].tobytes())

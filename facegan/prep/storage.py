"""The output store: the folder that a dataset is made in, its state in ``.facegan``, and the journal of its last step.

Chunks are committed in ``.facegan/chunks``. At the end all other files are gathered in ``.facegan/final`` and a journal
is written, which says where each file of the dataset comes from; then everything is moved into place, dataset.json
last. A process killed at any time leaves either chunks to finish or a journal to replay.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegan.errors import DamagedFile, DatasetError
from facegan.files import disk_errors, fsync, parse_json, parsing, read_json, sha256_file, write_json
from facegan.prep.commit import CHUNKS, REPAIRS, ChunkMarker, ChunkOutcome, commit
from facegan.prep.suppression import SUPPRESSED_FILE
from facegan.run_dir import REPORT
from facegan.shards.format import (
    CARD_NAME,
    DATASET_FILE,
    DETECTIONS_FILE,
    PHOTOS_FILE,
    PREVIEW_FILE,
    SHARD_NAME,
    STATE_FOLDER,
    DatasetInfo,
)

FINAL = "final"
UNPACKED = "unpacked"
JOURNAL_FILE = f"{STATE_FOLDER}/journal.json"
SETTINGS_FILE = f"{STATE_FOLDER}/settings.json"
CHUNK_PATTERN = rf"{re.escape(STATE_FOLDER)}/({CHUNKS}|{REPAIRS})/\d{{6,}}"
_SOURCE = re.compile(rf"{CHUNK_PATTERN}\.tar|{re.escape(STATE_FOLDER)}/{FINAL}/[^/]+")
_SHARD_OR_CARD = re.compile(f"{SHARD_NAME.pattern}|{CARD_NAME.pattern}")
_FLUSHES = 4  # concurrent: a disk is slow, and workers continue meanwhile


def is_dataset_file(name: str) -> bool:
    """Also of a report, which goes when the dataset changes: it shows photographs."""
    is_named = name in (PHOTOS_FILE, DETECTIONS_FILE, PREVIEW_FILE, DATASET_FILE, REPORT)
    return is_named or _SHARD_OR_CARD.fullmatch(name) is not None


def require_dataset_folder(out: Path) -> None:
    """Raises DatasetError if ``out`` contains files that are not a dataset."""
    with disk_errors(out):
        if not out.exists() or (out / STATE_FOLDER).is_dir():
            return
        found = _read_record(out / DATASET_FILE)  # facegan's, of any version: StyleGAN's has that name too
        if not (found and {"settings", "shards"} <= found.keys()) and (not out.is_dir() or any(out.iterdir())):
            raise DatasetError(f"{out} is not empty and is not a dataset. Choose a new folder.")


def _read_record(path: Path) -> dict[str, Any] | None:
    """A JSON object; None if there is no such file, or it is damaged."""
    try:
        found = read_json(path)
    except (OSError, DamagedFile):
        return None
    return found if isinstance(found, dict) else None


@dataclass(frozen=True)
class Journal:
    """The last step of a run, decided and to be carried out."""

    files: dict[str, str]  # the dataset's new files, and for each the file in ``.facegan`` that becomes it
    remove: list[str]  # files that no longer belong to the dataset
    clear: str  # the folder of chunks to delete

    @classmethod
    def parse(cls, data: bytes, where: str) -> Journal:
        """Raises DatasetError if it names anything but a dataset's files and state: it may come from elsewhere."""
        with contextlib.suppress(DamagedFile), parsing(where):
            journal = cls(**parse_json(data, where))
            are_ours = all(map(is_dataset_file, [*(journal.files.keys() - {SUPPRESSED_FILE}), *journal.remove]))
            is_whole = DATASET_FILE in journal.files or not journal.files
            from_state = all(map(_SOURCE.fullmatch, journal.files.values())) and journal.clear in (CHUNKS, REPAIRS)
            if are_ours and is_whole and from_state:
                return journal
        raise DatasetError(f"{where} is damaged. Prepare the dataset again with --force.")


class OutputStore:
    """A dataset's folder on this machine. ``where``: its name for the user; ``unpacked``: for what a source unpacks."""

    def __init__(self, folder: Path, where: str = "", unpacked: Path | None = None) -> None:
        self.folder, self.where = folder, where or str(folder)
        self.state = folder / STATE_FOLDER
        self.unpacked = unpacked or self.state / UNPACKED

    def existing(self) -> DatasetInfo | None:
        """The complete dataset in the folder, if there is one."""
        return DatasetInfo.read(self.folder) if (self.folder / DATASET_FILE).is_file() else None

    def stored_settings(self) -> dict[str, Any] | None:
        """The settings of the last run into the folder, finished or not; None before its first photograph."""
        return _read_record(self.folder / SETTINGS_FILE)

    def sync_cleared(self) -> None:
        """Called once the folder is cleared for a run: what is deleted here is deleted for good."""

    def commit_all(self, chunks: Iterator[ChunkOutcome], folder: Path) -> Iterator[ChunkOutcome]:
        """Commits the chunks that workers left in ``folder``, and yields each. Their shards may be moved elsewhere."""
        return commit_in_background(chunks, lambda chunk: commit(folder, chunk), _FLUSHES)

    def open_shard(self, shard: Path) -> AbstractContextManager[Path]:
        """A file with the bytes of a shard of the folder."""
        return contextlib.nullcontext(shard)

    def sha256(self, shard: Path) -> str:
        return sha256_file(shard)

    def add(self, shard: Path) -> None:
        """Called once a new shard is complete in ``.facegan/final``."""

    def stage(self, shard: Path, name: str) -> Path:
        """Copies a shard of the dataset to ``.facegan/final``: it gets a new name, and another one its old name."""
        target = self.state / FINAL / name
        try:
            os.link(shard, target)
        except OSError:  # a file system without links
            shutil.copyfile(shard, target)
        return target

    def assemble(self, shards: Mapping[str, Path], clear: str) -> None:
        """Makes the folder the dataset of the files in ``.facegan/final`` and of these shards, by their names.

        ``clear``: the folder of chunks that is not needed any more.
        """
        paths = {path.name: path for path in (self.state / FINAL).iterdir()}
        names = {name: name if is_dataset_file(name) else f"{STATE_FOLDER}/{name}" for name in paths}
        files = {names[name]: self.name(path) for name, path in paths.items()}
        for name, path in shards.items():
            if path != self.folder / name:
                files[name] = self.name(self.stage(path, name) if path.parent == self.folder else path)
        stale = {path.name for path in self.folder.iterdir() if is_dataset_file(path.name)} - {*files, *shards}
        self.publish(Journal(files, sorted(stale), clear))

    def publish(self, journal: Journal) -> None:
        """Makes the folder the dataset that the journal describes."""
        fsync(self.state / FINAL)
        write_json(self.folder / JOURNAL_FILE, vars(journal))
        self.replay()

    def replay(self) -> None:
        """Carries out the journal, if there is one: a run may have been killed since it was written."""
        out, path, final = self.folder, self.folder / JOURNAL_FILE, self.state / FINAL
        if not path.is_file():
            return
        with disk_errors(out):
            journal = Journal.parse(path.read_bytes(), str(path))
            if (final / DATASET_FILE).is_file():
                (out / DATASET_FILE).unlink(missing_ok=True)  # while files are exchanged the dataset is incomplete
            for name in journal.remove:
                (out / name).unlink(missing_ok=True)
            for name in sorted(journal.files, key=lambda name: (name == DATASET_FILE, name)):
                if (out / journal.files[name]).is_file():
                    (out / journal.files[name]).replace(out / name)
            fsync(out)
            path.unlink()
            shutil.rmtree(self.state / journal.clear, ignore_errors=True)
            shutil.rmtree(final, ignore_errors=True)

    def name(self, path: Path) -> str:
        """A file's name below the folder."""
        return path.relative_to(self.folder).as_posix()


def commit_in_background(
    chunks: Iterator[ChunkOutcome],
    commit_one: Callable[[ChunkMarker], None],
    concurrency: int,
    stop: Callable[[], None] = lambda: None,
) -> Iterator[ChunkOutcome]:
    """Yields each chunk once it is committed. Nothing is committed any more after the iterator has ended."""
    pending: dict[concurrent.futures.Future[None], ChunkOutcome] = {}
    with concurrent.futures.ThreadPoolExecutor(concurrency) as pool:
        try:
            for chunk in chunks:
                pending[pool.submit(commit_one, chunk.chunk)] = chunk
                timeout = 0 if len(pending) < concurrency else None
                for done in concurrent.futures.wait(pending, timeout, concurrent.futures.FIRST_COMPLETED).done:
                    done.result()
                    yield pending.pop(done)
            for done in concurrent.futures.as_completed(pending):
                done.result()
                yield pending[done]
        finally:
            stop()
            pool.shutdown(cancel_futures=True)

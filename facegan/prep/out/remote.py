"""A dataset at an fsspec URL (``s3://bucket/faces``).

A folder here mirrors it: the same files under the same names, but for shards, for each of which a hole of its size
stands here once it lies at the URL. The mirror is made anew from the URL whenever a run starts, so it does not matter
on which machine that is. A chunk's shard and rows are uploaded and checked before its marker, which is put by a
condition; in the end the store itself copies them to their final names, by a journal, and dataset.json comes last.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from facegan.errors import DamagedFile, DatasetError, DiskError, FaceganError, SettingsError
from facegan.files import disk_errors, exclusive, make_folder, parsing, user_cache
from facegan.prep.engines.worker import Done
from facegan.prep.finish import FINAL, JOURNAL, is_ours
from facegan.prep.out.commit import CHUNKS, REPAIRS, Committed, commit, marker_path, rows_path, shard_path
from facegan.prep.out.folder import SETTINGS, refuse_foreign
from facegan.prep.out.home import Home, LocalHome, in_background
from facegan.prep.out.remote_lock import RemoteLock
from facegan.prep.out.store import Store
from facegan.prep.pictures.original import ORIGIN_FILE
from facegan.remote import Unreachable, is_url
from facegan.shards.layout import DATASET_FILE, PHOTOS_FILE, PREVIEW_FILE, STATE_FOLDER

_UPLOADS = 8  # chunks at once
_STATE = tuple(f"{STATE_FOLDER}/{name}" for name in (SETTINGS, ORIGIN_FILE))
_READ = (DATASET_FILE, PHOTOS_FILE, PREVIEW_FILE)  # by an addition or a repair
_JOURNAL = f"{STATE_FOLDER}/{JOURNAL}"
_CHUNK = rf"{re.escape(STATE_FOLDER)}/({CHUNKS}|{REPAIRS})/\d{{6,}}"
_CHUNK_FILE = re.compile(rf"{_CHUNK}\.(tar|json|jsonl)")
_SOURCE = re.compile(rf"{_CHUNK}\.tar|{re.escape(STATE_FOLDER)}/{FINAL}/[^/]+")


@contextlib.contextmanager
def open_home(out: str, force: bool) -> Iterator[Home]:
    """The home of the dataset that is to be written at ``out``; one at a URL is locked for as long.

    Raises:
        DatasetError: ``out`` holds something else, or is damaged.
        FaceganError: another run is writing there, or the URL can't be reached.
    """
    if not is_url(out):
        refuse_foreign(Path(out))
        yield LocalHome(Path(out))
        return
    folder = _mirror_folder(out)
    lock = make_folder(folder.parent) / f"{folder.name}.lock"
    with exclusive(lock, f"Another facegan prep is writing into {out}"), _told_of(out, folder):
        try:
            shutil.rmtree(folder, ignore_errors=True)  # a run that was killed left it
            home = RemoteHome(out, folder)
            with home.locked(force):
                home.mirror()
                yield home
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def look_home(out: str) -> Iterator[Path]:
    """A folder that tells what is at ``out``, to be read only."""
    if not is_url(out):
        refuse_foreign(Path(out))
        yield Path(out)
        return
    with tempfile.TemporaryDirectory() as name, _told_of(out, Path(name)):
        home = RemoteHome(out, Path(name))
        home.mirror()
        yield home.folder


def _mirror_folder(url: str) -> Path:
    return user_cache("out") / hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]


@contextlib.contextmanager
def _told_of(url: str, folder: Path) -> Iterator[None]:
    """Errors name the URL, for it is what the user knows; those of the disk name the folder."""
    try:
        yield
    except Unreachable as error:
        raise FaceganError(
            f"{url} can't be reached or written: {error}\nWhat is done is kept: start the same command again."
        ) from None
    except DiskError:
        raise
    except FaceganError as error:
        text = str(error).replace(f"See what else is wrong: facegan verify {folder}\n", "")  # it reads no URLs
        error.args = (text.replace(str(folder), url.rstrip("/")),)
        raise


class RemoteHome:
    """See the module's text. Errors of the protocol are `Unreachable`."""

    def __init__(self, url: str, folder: Path) -> None:
        """
        Raises:
            SettingsError: nothing can be written by this protocol.
            DatasetError: the URL holds files, and they are none of ours.
        """
        if url.startswith(("http://", "https://")):
            raise SettingsError(f"{url}: nothing can be written by http. Choose a folder, or s3://, gs://, …")
        self._store = Store(url)
        self.where, self.folder = self._store.where, folder
        self._lock = RemoteLock(self._store)
        found = self._store.listing()
        if found and DATASET_FILE not in found and not any(name.startswith(f"{STATE_FOLDER}/") for name in found):
            raise DatasetError(f"{url} is not empty, and what is in it is no dataset. Choose a new place.")

    @contextlib.contextmanager
    def locked(self, force: bool) -> Iterator[None]:
        """Holds the lock; first of all ends what a killed run had begun to carry out, or with ``force`` drops it."""
        with self._lock.held(force):
            if force:
                self._store.remove([_JOURNAL])
            self._carry_out()
            yield

    def mirror(self) -> None:
        """Makes the folder what lies at the URL."""
        for name in (CHUNKS, REPAIRS):
            make_folder(self.folder / STATE_FOLDER / name)
        self._store.sizes = {name: size for name, size in self._store.listing().items() if _is_mirrored(name)}
        self._store.each(self._mirror, self._store.sizes)

    def _mirror(self, name: str) -> None:
        if (is_ours(name) and name not in _READ) or name.endswith(".tar"):
            _make_hole(self.folder / name, self._store.sizes[name])
        else:
            self._store.fetch(name, self.folder / name)

    def ready(self) -> None:
        gone = [name for name in self._store.sizes if not (self.folder / name).exists()]
        if DATASET_FILE in gone:  # first: without it nobody takes the rest for a dataset
            self._store.remove([DATASET_FILE])
        self._store.remove(gone)
        self._upload(f"{STATE_FOLDER}/{SETTINGS}")

    def kept(self, chunks: Iterator[Done], folder: Path) -> Iterator[Done]:
        def keep(chunk: Committed) -> None:
            commit(folder, chunk)
            self._keep(chunk, folder)

        try:  # nothing may be written any more when the lock is given back
            yield from in_background(chunks, keep, _UPLOADS, self._store.stopping.set)
        finally:
            self._store.stopping.clear()

    def _keep(self, chunk: Committed, folder: Path) -> None:
        self._lock.require()
        shard, rows, marker = (self._name(path(folder, chunk.number)) for path in (shard_path, rows_path, marker_path))
        self._store.remove([name for name in (marker, shard) if name in self._store.sizes])
        if chunk.shard:
            self._upload(shard)
            _make_hole(self.folder / shard, chunk.shard.bytes)
        self._upload(rows)
        if not self._store.create(marker, (self.folder / marker).read_bytes()):
            raise FaceganError(f"Another facegan prep has written {self.where}/{marker} meanwhile: this run stops.")

    @contextlib.contextmanager
    def whole(self, shard: Path) -> Iterator[Path]:
        path, name = self.folder / STATE_FOLDER / "whole.tar", self._name(shard)
        if name not in self._store.sizes:
            raise DatasetError(f"{self.where}/{name} is missing. Make it again with --repair.")
        self._store.fetch(name, path)
        yield path
        path.unlink()

    def sha256(self, shard: Path) -> str:
        return self._store.sha256(self._name(shard))

    def publish(self, files: Collection[Path], shards: Mapping[str, Path], remove: Collection[str], clear: str) -> None:
        self._lock.require()
        for name in _STATE:
            if (self.folder / name).exists():
                self._upload(name)
        for path in files:
            self._upload(self._name(path))
        sources = {path.name: self._name(path) for path in files}
        for name, path in shards.items():
            source = self._name(path)
            if source == name:
                continue
            if is_ours(source):  # one that stands, under another name: its own may be given to the next one
                source = f"{STATE_FOLDER}/{FINAL}/{name}"
                self._store.copy(self._name(path), source)
            sources[name] = source
        self._put_journal(sources, remove, clear)
        self._carry_out()

    def _carry_out(self) -> None:
        """Does what the journal says, if there is one. It may be done again, for sources stay until all is copied."""
        journal = self._store.read(_JOURNAL)
        if journal is None:
            return
        copies, remove, clear = _read_journal(journal, self.where)
        if copies:
            self._store.remove([DATASET_FILE])  # while files are exchanged, no dataset stands
            self._store.remove(remove)
            self._store.each(lambda name: self._store.copy(copies[name], name), copies.keys() - {DATASET_FILE})
            there = self._store.listing()
            for name, source in copies.items():
                if name != DATASET_FILE and there.get(name) != there.get(source, -1):
                    raise DatasetError(f"{self.where}/{name} did not become what {source} is. Start it again.")
            self._store.copy(copies[DATASET_FILE], DATASET_FILE)
            self._put_journal({}, [], clear)  # from here on there is only to clear away
        left = (f"{STATE_FOLDER}/{clear}/", f"{STATE_FOLDER}/{FINAL}/")
        self._store.remove([name for name in self._store.listing() if name.startswith(left)])
        self._store.remove([_JOURNAL])

    def _put_journal(self, copies: Mapping[str, str], remove: Collection[str], clear: str) -> None:
        told = {"copy": copies, "remove": sorted(remove), "clear": clear}
        self._store.write(_JOURNAL, json.dumps(told).encode())

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _upload(self, name: str) -> None:
        self._store.upload(name, self.folder / name)


def _is_mirrored(name: str) -> bool:
    return is_ours(name) or name in _STATE or bool(_CHUNK_FILE.fullmatch(name))


def _read_journal(journal: bytes, where: str) -> tuple[dict[str, str], list[str], str]:
    """Names of the dataset's files and of a folder of chunks, and nothing else.

    Raises:
        DatasetError: it holds something else.
    """
    try:
        with parsing(_JOURNAL):
            told = json.loads(journal)
            copies, remove, clear = dict(told["copy"]), list(told["remove"]), told["clear"]
            ours = (DATASET_FILE in copies or not copies) and all(map(is_ours, [*copies, *remove]))
            if ours and all(map(_SOURCE.fullmatch, copies.values())) and clear in (CHUNKS, REPAIRS):
                return copies, remove, clear
    except DamagedFile:
        pass
    raise DatasetError(f"{where}/{_JOURNAL} is damaged. Make the dataset anew with --force.")


def _make_hole(path: Path, size: int) -> None:
    """A file of this size that takes no room: it stands for one that lies at the URL."""
    with disk_errors(path.parent):
        make_folder(path.parent)
        path.unlink(missing_ok=True)
        path.touch()
        os.truncate(path, size)

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
import socket
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from facegan.errors import DamagedFile, DatasetError, DiskError, FaceganError, SettingsError
from facegan.files import disk_errors, exclusive, make_folder, parse_json, parsing, user_cache
from facegan.prep.commit import CHUNKS, REPAIRS, ChunkMarker, ChunkOutcome, commit, marker_path, rows_path, shard_path
from facegan.prep.inspect import ORIGIN_FILE
from facegan.prep.storage import (
    FINAL,
    JOURNAL,
    SETTINGS,
    LocalStore,
    ObjectStore,
    OutputStore,
    in_background,
    is_dataset_file,
    require_dataset_folder,
)
from facegan.remote import RemoteUnavailable, is_url
from facegan.shards.checksums import see_verify
from facegan.shards.format import DATASET_FILE, PHOTOS_FILE, PREVIEW_FILE, STATE_FOLDER

# The lock of a dataset at a URL: a file that one run puts there, by a conditional put, and takes away at its end.

LOCK = f"{STATE_FOLDER}/lock"


class RemoteLock:
    """Says who writes. It does not end with its process, as a lock of this machine's does.

    That of a process of this machine which is no more is taken over; that of another machine only with ``force``.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        self._told = {**_us(), "since": since, "token": os.urandom(8).hex()}
        self._mine = json.dumps(self._told).encode()

    @contextlib.contextmanager
    def held(self, force: bool) -> Iterator[None]:
        """
        Raises:
            FaceganError: another run holds it.
        """
        while not self._store.create(LOCK, self._mine):
            holder = self._store.read(LOCK)
            if holder is not None and not force and not _is_dead(holder):
                where = self._store.where
                raise FaceganError(
                    f"Another facegan prep is writing into {where} ({_shown(holder)}). Wait for it, or stop it.\n"
                    f"If it is dead: --force takes over (what is unfinished goes on, a dataset that stands is made "
                    f"anew), or delete {where}/{LOCK} and start again."
                )
            self._store.remove([LOCK])
        try:
            yield
        finally:
            with contextlib.suppress(Exception):  # it is stale then, and the next run says so
                if self._store.read(LOCK) == self._mine:
                    self._store.remove([LOCK])

    def require(self) -> None:
        """
        Raises:
            FaceganError: another run has taken it over.
        """
        holder = self._store.read(LOCK)
        if holder != self._mine:
            by = f"by {_shown(holder)}" if holder else "or deleted"
            raise FaceganError(f"The lock of {self._store.where} was taken over {by}: this run stops.")


def _us() -> dict[str, Any]:
    """This process. Its number means something on this machine, since it was started, in this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        machine = f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - no path, but a name for a namespace
    except OSError:
        machine = ""
    return {"process": os.getpid(), "host": socket.gethostname(), "machine": machine}


def _is_dead(holder: bytes) -> bool:
    """Whether we know that the process is no more; of another machine's we don't."""
    try:
        told, us = parse_json(holder, LOCK), _us()
        if not us["machine"] or (told["host"], told["machine"]) != (us["host"], us["machine"]):
            return False
        os.kill(int(told["process"]), 0)
    except ProcessLookupError:
        return True
    except (DamagedFile, ValueError, KeyError, TypeError, OSError, OverflowError):
        return False
    return False


def _shown(holder: bytes) -> str:
    try:
        told = parse_json(holder, LOCK)
        return f"process {told['process']!s:.20} on {told['host']!s:.60}, since {told['since']!s:.40}"
    except (DamagedFile, KeyError, TypeError):
        return "somebody"


_UPLOADS = 8  # chunks at once
_STATE = tuple(f"{STATE_FOLDER}/{name}" for name in (SETTINGS, ORIGIN_FILE))
_READ = (DATASET_FILE, PHOTOS_FILE, PREVIEW_FILE)  # by an addition or a repair
_JOURNAL = f"{STATE_FOLDER}/{JOURNAL}"
_CHUNK = rf"{re.escape(STATE_FOLDER)}/({CHUNKS}|{REPAIRS})/\d{{6,}}"
_CHUNK_FILE = re.compile(rf"{_CHUNK}\.(tar|json|jsonl)")
_SOURCE = re.compile(rf"{_CHUNK}\.tar|{re.escape(STATE_FOLDER)}/{FINAL}/[^/]+")


@contextlib.contextmanager
def open_store(out: str, force: bool) -> Iterator[OutputStore]:
    """The store of the dataset that is to be written at ``out``, locked until the end.

    Raises:
        DatasetError: ``out`` holds something else, or is damaged.
        FaceganError: another run is writing there, or the URL is unreachable.
    """
    if not is_url(out):
        require_dataset_folder(Path(out))
        with _locked_folder(Path(out)):
            yield LocalStore(Path(out))
        return
    folder = _mirror_folder(out)
    lock = make_folder(folder.parent) / f"{folder.name}.lock"
    with exclusive(lock, f"Another facegan prep is writing into {out}"), _rewrite_errors(out, folder):
        try:
            shutil.rmtree(folder, ignore_errors=True)  # left by a run that was killed
            store = RemoteStore(out, folder)
            with store.locked(force):
                store.mirror()
                yield store
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked_folder(out: Path) -> Iterator[None]:
    """Holds the folder's lock. A folder that was created for the lock alone is removed after an error."""
    is_new = not out.exists()
    state = make_folder(out / STATE_FOLDER)
    with exclusive(state / "lock", f"Another facegan prep is writing into {out}"):
        try:
            yield
        except FaceganError:
            if is_new and [path.name for path in out.rglob("*")] == [STATE_FOLDER, "lock"]:
                shutil.rmtree(out)
            raise


@contextlib.contextmanager
def open_read_only(out: str) -> Iterator[OutputStore]:
    """The store of the dataset at ``out``, to be read only; at a URL without its shards."""
    if not is_url(out):
        require_dataset_folder(Path(out))
        yield LocalStore(Path(out))
        return
    with tempfile.TemporaryDirectory() as name, _rewrite_errors(out, Path(name)):
        store = RemoteStore(out, Path(name))
        store.mirror()
        yield store


def _mirror_folder(url: str) -> Path:
    return user_cache("out") / hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]


@contextlib.contextmanager
def _rewrite_errors(url: str, folder: Path) -> Iterator[None]:
    """Errors name the URL, for it is what the user knows; those of the disk name the folder."""
    try:
        yield
    except RemoteUnavailable as error:
        raise FaceganError(
            f"{url} can't be reached or written: {error}\nWhat is done is kept: start the same command again."
        ) from None
    except DiskError:
        raise
    except FaceganError as error:
        text = str(error).replace(f"{see_verify(folder)}\n", "")  # it reads no URLs
        error.args = (text.replace(str(folder), url.rstrip("/")),)
        raise


class RemoteStore:
    """See the module's text. Errors of the protocol are `RemoteUnavailable`."""

    def __init__(self, url: str, folder: Path) -> None:
        """
        Raises:
            SettingsError: nothing can be written by this protocol.
            DatasetError: the URL holds files, and they are none of ours.
        """
        if url.startswith(("http://", "https://")):
            raise SettingsError(f"{url}: nothing can be written by http. Choose a folder, or s3://, gs://, …")
        self._store = ObjectStore(url)
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
        if (is_dataset_file(name) and name not in _READ) or name.endswith(".tar"):
            _sparse_placeholder(self.folder / name, self._store.sizes[name])
        else:
            self._store.fetch(name, self.folder / name)

    def ready(self) -> None:
        gone = [name for name in self._store.sizes if not (self.folder / name).exists()]
        if DATASET_FILE in gone:  # first: without it nobody takes the rest for a dataset
            self._store.remove([DATASET_FILE])
        self._store.remove(gone)
        self._upload(f"{STATE_FOLDER}/{SETTINGS}")

    def kept(self, chunks: Iterator[ChunkOutcome], folder: Path) -> Iterator[ChunkOutcome]:
        def keep(chunk: ChunkMarker) -> None:
            commit(folder, chunk)
            self._keep(chunk, folder)

        try:  # nothing may be written any more when the lock is given back
            yield from in_background(chunks, keep, _UPLOADS, self._store.stopping.set)
        finally:
            self._store.stopping.clear()

    def _keep(self, chunk: ChunkMarker, folder: Path) -> None:
        self._lock.require()
        shard, rows, marker = (self._name(path(folder, chunk.number)) for path in (shard_path, rows_path, marker_path))
        self._store.remove([name for name in (marker, shard) if name in self._store.sizes])
        if chunk.shard:
            self._upload(shard)
            _sparse_placeholder(self.folder / shard, chunk.shard.bytes)
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
            if is_dataset_file(source):  # one that stands, under another name: its own may be given to the next one
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
    return is_dataset_file(name) or name in _STATE or bool(_CHUNK_FILE.fullmatch(name))


def _read_journal(journal: bytes, where: str) -> tuple[dict[str, str], list[str], str]:
    """Names of the dataset's files and of a folder of chunks, and nothing else.

    Raises:
        DatasetError: it holds something else.
    """
    try:
        with parsing(_JOURNAL):
            told = json.loads(journal)
            copies, remove, clear = dict(told["copy"]), list(told["remove"]), told["clear"]
            ours = (DATASET_FILE in copies or not copies) and all(map(is_dataset_file, [*copies, *remove]))
            if ours and all(map(_SOURCE.fullmatch, copies.values())) and clear in (CHUNKS, REPAIRS):
                return copies, remove, clear
    except DamagedFile:
        pass
    raise DatasetError(f"{where}/{_JOURNAL} is damaged. Make the dataset anew with --force.")


def _sparse_placeholder(path: Path, size: int) -> None:
    """A file of this size that takes no room: it stands for one that lies at the URL."""
    with disk_errors(path.parent):
        make_folder(path.parent)
        path.unlink(missing_ok=True)
        path.touch()
        os.truncate(path, size)

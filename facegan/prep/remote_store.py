"""A dataset at an fsspec URL (``s3://bucket/faces``).

A folder on this machine mirrors it: the same files under the same names, with a sparse placeholder for each shard that
is at the URL. The mirror is created from the URL whenever a run starts, so any machine can resume. A chunk's shard and
rows are uploaded and verified before its marker, which is created conditionally. At the end the store itself copies
them to their final names, by a journal, dataset.json last.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from facegan.errors import DamagedFile, DatasetError, DiskError, FaceganError, SettingsError
from facegan.files import disk_errors, exclusive, make_folder, parse_json, sha256_file, user_cache
from facegan.prep.commit import CHUNKS, REPAIRS, ChunkMarker, ChunkOutcome, commit, marker_path, rows_path, shard_path
from facegan.prep.inspect import ORIGIN_FILE
from facegan.prep.sources.remote import read_range
from facegan.prep.storage import (
    CHUNK_PATTERN,
    FINAL,
    JOURNAL_FILE,
    SETTINGS_FILE,
    Journal,
    OutputStore,
    commit_in_background,
    is_dataset_file,
    require_dataset_folder,
)
from facegan.prep.suppression import SUPPRESSED_FILE
from facegan.remote import RemoteUnavailable, filesystem, is_url, retry
from facegan.shards.checksums import see_verify
from facegan.shards.format import DATASET_FILE, DETECTIONS_FILE, PHOTOS_FILE, PREVIEW_FILE, STATE_FOLDER

LOCK_FILE = f"{STATE_FOLDER}/lock"
_STATE_FILES = (SETTINGS_FILE, f"{STATE_FOLDER}/{ORIGIN_FILE}", SUPPRESSED_FILE)
# Downloaded into the mirror, for an addition or a repair.
_READ = (DATASET_FILE, PHOTOS_FILE, DETECTIONS_FILE, PREVIEW_FILE)
_CHUNK_FILE = re.compile(rf"{CHUNK_PATTERN}\.(tar|json|jsonl)")
_UPLOADS = 8  # concurrent chunks
_THREADS = 16  # for requests of small files
_PIECE_BYTES = 8 << 20


@contextlib.contextmanager
def open_store(out: str, force: bool) -> Iterator[OutputStore]:
    """The store of the dataset at ``out``, a folder or URL, locked for writing."""
    busy = f"Another facegan prep is writing into {out}"
    if not is_url(out):
        store = OutputStore(Path(out))
        require_dataset_folder(store.folder)
        is_new = not store.folder.exists()
        with exclusive(make_folder(store.state) / "lock", busy):
            try:
                yield store
            except FaceganError:  # a folder that was created for the lock alone is removed
                if is_new and [path.name for path in store.folder.rglob("*")] == [STATE_FOLDER, "lock"]:
                    shutil.rmtree(store.folder)
                raise
        return
    folder = user_cache("out") / hashlib.sha256(out.rstrip("/").encode()).hexdigest()[:16]
    lock = make_folder(folder.parent) / f"{folder.name}.lock"
    with exclusive(lock, busy), _errors_name_url(out, folder):
        try:
            shutil.rmtree(folder, ignore_errors=True)  # left by a run that was killed
            store = RemoteStore(out, folder)
            with store.locked(force):
                store.mirror()
                yield store
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def open_read_only(out: str) -> Iterator[OutputStore]:
    """The store of the dataset at ``out`` for reading; nothing is locked or changed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not is_url(out):
            require_dataset_folder(Path(out))
            yield OutputStore(Path(out), unpacked=folder)
            return
        with _errors_name_url(out, folder):
            store = RemoteStore(out, folder)
            store.mirror()
            yield store


@contextlib.contextmanager
def _errors_name_url(url: str, folder: Path) -> Iterator[None]:
    """Errors name the URL, which the user knows, instead of the mirror; those of the disk name the folder."""
    try:
        yield
    except RemoteUnavailable as error:
        raise FaceganError(
            f"{url} cannot be reached or written: {error}\nFinished work is kept. Run the same command again."
        ) from None
    except DiskError:
        raise
    except FaceganError as error:
        text = re.sub(rf"[ \n]{re.escape(see_verify(folder))}", "", str(error))  # it reads no URLs
        error.args = (text.replace(str(folder), url.rstrip("/")),)
        raise


class RemoteStore(OutputStore):
    """A dataset at a URL, with ``folder`` as its mirror. Errors of the protocol are `RemoteUnavailable`."""

    def __init__(self, url: str, folder: Path) -> None:
        if url.startswith(("http://", "https://")):
            raise SettingsError(f"{url} cannot be written: http is read-only. Choose a folder, s3:// or gs://.")
        self._objects = ObjectStore(url)
        super().__init__(folder, self._objects.where)
        self._lock = RemoteLock(self._objects)
        found = self._objects.listing()
        if found and DATASET_FILE not in found and not any(name.startswith(f"{STATE_FOLDER}/") for name in found):
            raise DatasetError(f"{url} is not empty and is not a dataset. Choose another URL.")

    @contextlib.contextmanager
    def locked(self, force: bool) -> Iterator[None]:
        """Holds the lock; first carries out the journal of a killed run, or with ``force`` drops it."""
        with self._lock.held(force):
            if force:
                self._objects.remove([JOURNAL_FILE])
            self._carry_out()
            yield

    def mirror(self) -> None:
        """Fills the folder from the URL."""
        for name in (CHUNKS, REPAIRS):
            make_folder(self.state / name)
        self._objects.sizes = {
            name: size
            for name, size in self._objects.listing().items()
            if is_dataset_file(name) or name in _STATE_FILES or _CHUNK_FILE.fullmatch(name)
        }

        def mirror_one(name: str) -> None:
            if (is_dataset_file(name) and name not in _READ) or name.endswith(".tar"):
                _sparse_placeholder(self.folder / name, self._objects.sizes[name])
            else:
                self._objects.download(name, self.folder / name)

        self._objects.for_each(mirror_one, self._objects.sizes)

    def sync_cleared(self) -> None:
        deleted = [name for name in self._objects.sizes if not (self.folder / name).exists()]
        if DATASET_FILE in deleted:  # first: without it the rest is not a dataset
            self._objects.remove([DATASET_FILE])
        self._objects.remove(deleted)
        self._upload(SETTINGS_FILE)

    def commit_all(self, chunks: Iterator[ChunkOutcome], folder: Path) -> Iterator[ChunkOutcome]:
        def commit_one(chunk: ChunkMarker) -> None:
            commit(folder, chunk)
            self._lock.require()
            paths = (shard_path, rows_path, marker_path)
            shard, rows, marker = (self.name(path(folder, chunk.number)) for path in paths)
            self._objects.remove([name for name in (marker, shard) if name in self._objects.sizes])
            if chunk.shard:
                self._upload(shard)
                _sparse_placeholder(self.folder / shard, chunk.shard.bytes)
            self._upload(rows)
            if not self._objects.create(marker, (self.folder / marker).read_bytes()):
                raise FaceganError(f"Another facegan prep has written {self.where}/{marker}, so this run stops.")

        try:  # nothing may be written once the lock is released
            yield from commit_in_background(chunks, commit_one, _UPLOADS, self._objects.stopping.set)
        finally:
            self._objects.stopping.clear()

    @contextlib.contextmanager
    def open_shard(self, shard: Path) -> Iterator[Path]:
        path, name = self.state / "downloaded.tar", self.name(shard)
        if name not in self._objects.sizes:
            raise DatasetError(f"{self.where}/{name} is missing. Rebuild it with --repair.")
        self._objects.download(name, path)
        yield path
        path.unlink()

    def sha256(self, shard: Path) -> str:
        return self._objects.sha256(self.name(shard))

    def add(self, shard: Path) -> None:
        self._upload(self.name(shard))
        _sparse_placeholder(shard, shard.stat().st_size)

    def stage(self, shard: Path, name: str) -> Path:
        staged = super().stage(shard, name)
        self._objects.copy(self.name(shard), self.name(staged))
        return staged

    def publish(self, journal: Journal) -> None:
        self._lock.require()
        for name in _STATE_FILES:
            if (self.folder / name).exists():
                self._upload(name)
        for source in journal.files.values():
            if not source.endswith(".tar"):  # shards are there already
                self._upload(source)
        self._objects.write(JOURNAL_FILE, json.dumps(vars(journal)).encode())
        self._carry_out()
        super().publish(journal)

    def _carry_out(self) -> None:
        """Carries out the journal at the URL, if there is one. That can be repeated: copies keep their sources."""
        data = self._objects.read(JOURNAL_FILE)
        if data is None:
            return
        journal = Journal.parse(data, f"{self.where}/{JOURNAL_FILE}")
        if files := journal.files:
            self._objects.remove([DATASET_FILE])  # while files are exchanged the dataset is incomplete
            self._objects.remove(journal.remove)
            self._objects.for_each(lambda name: self._objects.copy(files[name], name), files.keys() - {DATASET_FILE})
            sizes = self._objects.listing()
            for name, source in files.items():
                if name != DATASET_FILE and sizes.get(name) != sizes.get(source, -1):
                    raise DatasetError(f"{self.where}/{name} is not a copy of {source}. Run the same command again.")
            self._objects.copy(files[DATASET_FILE], DATASET_FILE)
            only_clearing = Journal({}, [], journal.clear)
            self._objects.write(JOURNAL_FILE, json.dumps(vars(only_clearing)).encode())
        left = (f"{STATE_FOLDER}/{journal.clear}/", f"{STATE_FOLDER}/{FINAL}/")
        self._objects.remove([name for name in self._objects.listing() if name.startswith(left)])
        self._objects.remove([JOURNAL_FILE])

    def _upload(self, name: str) -> None:
        self._objects.upload(name, self.folder / name)


def _sparse_placeholder(path: Path, size: int) -> None:
    """A file of the size of a shard at the URL that takes no space."""
    with disk_errors(path.parent):
        make_folder(path.parent)
        path.unlink(missing_ok=True)
        path.touch()
        os.truncate(path, size)


class ObjectStore:
    """Files at an fsspec URL, by their names below it. Requests are retried; failures are `RemoteUnavailable`."""

    def __init__(self, url: str) -> None:
        self.where = url.rstrip("/")
        self._fs, top = filesystem(url)
        self._top = top.rstrip("/")
        self.sizes: dict[str, int] = {}  # of the files at the URL, as listed or written by this run
        self.stopping = threading.Event()  # while set, no upload starts

    def _path(self, name: str) -> str:
        return f"{self._top}/{name}"

    def listing(self) -> dict[str, int]:
        """Sizes of all files at the URL, by name."""

        def find() -> dict[str, Any]:
            self._fs.invalidate_cache()
            with contextlib.suppress(FileNotFoundError):
                return self._fs.find(self._top, detail=True)
            return {}

        prefix = self._fs._strip_protocol(self._top).rstrip("/") + "/"
        return {path.removeprefix(prefix): int(info["size"] or 0) for path, info in retry(find).items()}

    def read(self, name: str) -> bytes | None:
        """A small file, or None if it is missing."""

        def cat() -> bytes | None:
            with contextlib.suppress(FileNotFoundError):
                return self._fs.cat_file(self._path(name))
            return None

        return retry(cat)

    def create(self, name: str, data: bytes) -> bool:
        """Creates a file; False if it exists with other bytes."""

        def put() -> bool:
            try:
                self._fs.pipe_file(self._path(name), data, mode="create")
            except FileExistsError:
                return self.read(name) == data  # an earlier try arrived, and only its answer was lost
            return True

        created = retry(put)
        if created:
            self.sizes[name] = len(data)
        return created

    def write(self, name: str, data: bytes) -> None:
        retry(lambda: self._fs.pipe_file(self._path(name), data))
        self.sizes[name] = len(data)

    def upload(self, name: str, path: Path) -> None:
        """Uploads a file and reads it back: size and checksum must match."""
        size, sha256 = path.stat().st_size, sha256_file(path)

        def put() -> None:
            if self.stopping.is_set():
                raise RemoteUnavailable("the run was stopped")
            self._fs.put_file(str(path), self._path(name))
            self._fs.invalidate_cache()
            arrived = self.sizes[name] = self._fs.info(self._path(name))["size"]
            if arrived != size or self.sha256(name) != sha256:
                raise OSError(f"{arrived:,} bytes of {name} arrived, which differ from the {size:,} sent")

        retry(put)

    def download(self, name: str, path: Path) -> None:
        """Writes a file of `sizes` to ``path``."""
        with disk_errors(path.parent), path.open("wb") as file:
            for piece in self._pieces(name):
                file.write(piece)

    def sha256(self, name: str) -> str:
        """Of a file of `sizes`, by reading it."""
        digest = hashlib.sha256()
        for piece in self._pieces(name):
            digest.update(piece)
        return digest.hexdigest()

    def _pieces(self, name: str) -> Iterator[bytes]:
        size = self.sizes[name]
        for start in range(0, size, _PIECE_BYTES):
            yield read_range(self._fs, self._path(name), start, min(start + _PIECE_BYTES, size))

    def copy(self, source: str, name: str) -> None:
        """Copies inside the store, if its protocol can."""
        retry(lambda: self._fs.cp_file(self._path(source), self._path(name)))
        self.sizes[name] = self.sizes.get(source, 0)

    def remove(self, names: Iterable[str]) -> None:
        """Deletes files; missing ones are ignored."""

        def remove_one(name: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self._path(name))
            self.sizes.pop(name, None)

        self.for_each(lambda name: retry(lambda: remove_one(name)), names)

    def for_each(self, do: Callable[[str], None], names: Iterable[str]) -> None:
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(do, list(names)))


class RemoteLock:
    """A file at the URL that names the run that writes. Unlike a lock of this machine it outlives a killed process.

    The lock of a dead process of this machine is taken over; that of another machine only with ``force``.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        self._own = json.dumps({**_this_process(), "since": since, "token": os.urandom(8).hex()}).encode()

    @contextlib.contextmanager
    def held(self, force: bool) -> Iterator[None]:
        """Raises FaceganError if another run holds it."""
        while not self._objects.create(LOCK_FILE, self._own):
            holder = self._objects.read(LOCK_FILE)
            if holder is not None and not force and not _is_dead(holder):
                where = self._objects.where
                raise FaceganError(
                    f"Another facegan prep is writing into {where} ({_describe(holder)}). Wait for it, or stop it.\n"
                    f"If it is dead, delete {where}/{LOCK_FILE}; or add --force, which resumes an unfinished run and "
                    f"deletes a complete dataset."
                )
            self._objects.remove([LOCK_FILE])
        try:
            yield
        finally:
            with contextlib.suppress(Exception):  # it is stale then, and the next run reports it
                if self._objects.read(LOCK_FILE) == self._own:
                    self._objects.remove([LOCK_FILE])

    def require(self) -> None:
        """Raises FaceganError if another run has taken it over."""
        holder = self._objects.read(LOCK_FILE)
        if holder != self._own:
            by = f"was taken over by {_describe(holder)}" if holder else "was deleted"
            raise FaceganError(f"The lock of {self._objects.where} {by}, so this run stops.")


def _this_process() -> dict[str, Any]:
    """This process. Its number is valid on this machine, since its last boot, in this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        machine = f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - not a path, but a name for a namespace
    except OSError:
        machine = ""
    return {"process": os.getpid(), "host": socket.gethostname(), "machine": machine}


def _is_dead(holder: bytes) -> bool:
    """Whether the process certainly ended; False for those of other machines."""
    try:
        found, own = parse_json(holder, LOCK_FILE), _this_process()
        if own["machine"] and (found["host"], found["machine"]) == (own["host"], own["machine"]):
            os.kill(int(found["process"]), 0)
    except ProcessLookupError:
        return True
    except (DamagedFile, ValueError, KeyError, TypeError, OSError, OverflowError):
        pass
    return False


def _describe(holder: bytes) -> str:
    try:
        found = parse_json(holder, LOCK_FILE)
        return f"process {found['process']!s:.20} on {found['host']!s:.60}, since {found['since']!s:.40}"
    except (DamagedFile, KeyError, TypeError):
        return "an unknown process"

"""Files at an fsspec URL, by their names below it. Every request is made patiently, and many small ones at once."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import shutil
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from facegan.errors import DamagedFile, DatasetError
from facegan.files import disk_errors, fsync, make_folder, parsing, read_json, remove_partials, sha256_file, write_json
from facegan.prep.commit import CHUNKS, REPAIRS, ChunkMarker, ChunkOutcome, commit
from facegan.prep.plan import Plan
from facegan.prep.sources.remote import read_range
from facegan.remote import RemoteUnavailable, filesystem, retry
from facegan.shards.format import (
    CARD_NAME,
    DATASET_FILE,
    PHOTOS_FILE,
    PREVIEW_FILE,
    SHARD_NAME,
    STATE_FOLDER,
    DatasetInfo,
)

_THREADS = 16
_PIECE_BYTES = 8 << 20


class ObjectStore:
    """What can't be reached or written is `RemoteUnavailable`.

    Attributes:
        where: the URL.
        sizes: of the files that lie there, as far as they were listed or put there by us.
        stopping: while it is set no upload begins.
    """

    def __init__(self, url: str) -> None:
        self.where = url.rstrip("/")
        self._fs, top = filesystem(url)
        self._top = top.rstrip("/")
        self.sizes: dict[str, int] = {}
        self.stopping = threading.Event()

    def path(self, name: str) -> str:
        return f"{self._top}/{name}"

    def listing(self) -> dict[str, int]:
        """Sizes of all that lies there, by name."""

        def find() -> dict[str, Any]:
            self._fs.invalidate_cache()
            try:
                return self._fs.find(self._top, detail=True)
            except FileNotFoundError:
                return {}

        prefix = self._fs._strip_protocol(self._top).rstrip("/") + "/"
        return {path.removeprefix(prefix): int(info["size"] or 0) for path, info in retry(find).items()}

    def read(self, name: str) -> bytes | None:
        """A small file; None where there is none."""
        return retry(lambda: self._read(name))

    def _read(self, name: str) -> bytes | None:
        try:
            return self._fs.cat_file(self.path(name))
        except FileNotFoundError:
            return None

    def create(self, name: str, data: bytes) -> bool:
        """Puts a file where there is none; False where there is one with other bytes."""

        def put() -> bool:
            try:
                self._fs.pipe_file(self.path(name), data, mode="create")
            except FileExistsError:
                return self._read(name) == data  # then an earlier try of ours arrived, and only its answer was lost
            return True

        created = retry(put)
        if created:
            self.sizes[name] = len(data)
        return created

    def write(self, name: str, data: bytes) -> None:
        retry(lambda: self._fs.pipe_file(self.path(name), data))
        self.sizes[name] = len(data)

    def upload(self, name: str, path: Path) -> None:
        """What lies there afterwards was read again, and has the size and the sum of the file here."""
        size, sha256 = path.stat().st_size, sha256_file(path)

        def put() -> None:
            if self.stopping.is_set():
                raise RemoteUnavailable("the run was stopped")
            self._fs.put_file(str(path), self.path(name))
            self._fs.invalidate_cache()
            arrived = self._fs.info(self.path(name))["size"]
            if arrived != size or self._sum(name, size) != sha256:
                raise OSError(f"{arrived:,} bytes of {name} lie there, and are not the {size:,} that were sent")

        retry(put)
        self.sizes[name] = size

    def fetch(self, name: str, path: Path) -> None:
        """Writes a file of `sizes` to ``path``."""
        with disk_errors(path.parent), path.open("wb") as file:
            for piece in self._pieces(name, self.sizes[name]):
                file.write(piece)

    def sha256(self, name: str) -> str:
        """Of a file of `sizes`."""
        return self._sum(name, self.sizes[name])

    def _sum(self, name: str, size: int) -> str:
        digest = hashlib.sha256()
        for piece in self._pieces(name, size):
            digest.update(piece)
        return digest.hexdigest()

    def _pieces(self, name: str, size: int) -> Iterator[bytes]:
        for start in range(0, size, _PIECE_BYTES):
            yield read_range(self._fs, self.path(name), start, min(start + _PIECE_BYTES, size))

    def copy(self, source: str, name: str) -> None:
        """Inside the store, where its protocol can do that."""
        retry(lambda: self._fs.cp_file(self.path(source), self.path(name)))
        self.sizes[name] = self.sizes.get(source, 0)

    def remove(self, names: Iterable[str]) -> None:
        """Those that are there."""

        def remove(name: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self.path(name))
            self.sizes.pop(name, None)

        self.each(lambda name: retry(lambda: remove(name)), names)

    def each(self, do: Callable[[str], None], names: Iterable[str]) -> None:
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(do, list(names)):
                pass


# The folder that a dataset is made in: what stands there, what an earlier run left, what ``--force`` deletes.

UNPACKED = "unpacked"
SETTINGS = "settings.json"


def require_dataset_folder(out: Path) -> None:
    """
    Raises:
        DatasetError: ``out`` holds files, and they are none of ours.
    """
    with disk_errors(out):
        if not out.exists() or (out / STATE_FOLDER).is_dir() or _mentions_a_dataset(out / DATASET_FILE):
            return
        if not out.is_dir() or any(out.iterdir()):
            raise DatasetError(f"{out} is not empty, and what is in it is no dataset. Choose a new folder.")


def _mentions_a_dataset(path: Path) -> bool:
    """Whether a dataset.json is one of facegan's, if perhaps of another version: StyleGAN's has that name too."""
    try:
        found = read_json(path)
    except (OSError, DamagedFile):
        return False
    return isinstance(found, dict) and {"settings", "shards"} <= found.keys()


def existing_dataset(out: Path, force: bool) -> DatasetInfo | None:
    """The dataset in ``out`` that is to be continued; None where there is none, or where it is to be made anew."""
    return DatasetInfo.read(out) if (out / DATASET_FILE).is_file() and not force else None


def stored_settings(out: Path, before: DatasetInfo | None) -> dict[str, Any] | None:
    """The settings that ``out`` was begun with: those of the dataset that stands, or of a run that did not finish."""
    if before:
        return before.settings
    try:
        found = read_json(out / STATE_FOLDER / SETTINGS)
    except (OSError, DamagedFile):
        return None  # never begun; or killed before a photograph was taken
    return found if isinstance(found, dict) else None


def prepare_output_dir(out: Path, plan: Plan, force: bool, repair: bool) -> Path:
    """Clears away what nobody will go on with; the folder for chunks."""
    state = out / STATE_FOLDER
    with disk_errors(out):
        if force and ((out / DATASET_FILE).exists() or stored_settings(out, None) != plan.settings):
            (out / DATASET_FILE).unlink(missing_ok=True)  # first: without it nobody takes the rest for a dataset
            shutil.rmtree(state / CHUNKS, ignore_errors=True)
            shutil.rmtree(state / REPAIRS, ignore_errors=True)
        if repair and not plan.rebuild:
            shutil.rmtree(state / REPAIRS, ignore_errors=True)
        if plan.existing is None:  # shards without a dataset: of one that was being deleted
            for path in out.iterdir():
                if is_dataset_file(path.name):
                    path.unlink()
        shutil.rmtree(state / UNPACKED, ignore_errors=True)  # by a run that was killed
        chunks = make_folder(state / plan.chunks_folder)
        write_json(state / SETTINGS, plan.settings)
        for folder in (out, state, chunks):
            remove_partials(folder)
    return chunks


def recover(out: Path, force: bool) -> None:
    """Carries out what a run had decided on when it was killed; with ``force`` it is dropped."""
    if force:
        (out / STATE_FOLDER / JOURNAL).unlink(missing_ok=True)
    else:
        replay_journal(out)


FINAL = "final"
JOURNAL = "journal.json"
_FILES = (PHOTOS_FILE, PREVIEW_FILE, DATASET_FILE)


def replay_journal(out: Path) -> None:
    """Moves what a finished run had decided on, if there is anything left to move."""
    state = out / STATE_FOLDER
    journal, final = state / JOURNAL, state / FINAL
    if not journal.is_file():
        return
    with disk_errors(out):
        move, remove, clear = _read_journal(journal)
        if (final / DATASET_FILE).is_file():
            (out / DATASET_FILE).unlink(missing_ok=True)  # while files are exchanged, no dataset stands
        for name in remove:
            (out / name).unlink(missing_ok=True)
        for name in [name for name in move if name != DATASET_FILE] + [DATASET_FILE]:
            if (final / name).is_file():
                (final / name).replace(out / name)
        fsync(out)
        journal.unlink()
        shutil.rmtree(state / clear, ignore_errors=True)
        shutil.rmtree(final, ignore_errors=True)


def _read_journal(journal: Path) -> tuple[list[str], list[str], str]:
    """Names of the dataset's files and of a folder of chunks, and nothing else: the journal may come from elsewhere.

    Raises:
        DatasetError: it holds something else.
    """
    try:
        with parsing(journal):
            found = read_json(journal)
            move, remove = [str(name) for name in found["move"]], [str(name) for name in found["remove"]]
            clear = str(found["clear"])
    except DamagedFile:
        move, remove, clear = [], [], ""
    if clear not in (CHUNKS, REPAIRS) or not all(map(is_dataset_file, [*move, *remove])):
        raise DatasetError(f"{journal} is damaged. Make the dataset anew with --force.")
    return move, remove, clear


def is_dataset_file(name: str) -> bool:
    return bool(SHARD_NAME.fullmatch(name) or CARD_NAME.fullmatch(name)) or name in _FILES


# Where a dataset is made: work is done in a folder of this machine, and a `OutputStore` carries it on from there.

_FLUSHES = 4  # at once: a disk takes its time, and workers go on meanwhile


class OutputStore(Protocol):
    """
    Attributes:
        where: as the user knows it.
        folder: the dataset's folder here.
    """

    @property
    def where(self) -> str: ...

    @property
    def folder(self) -> Path: ...

    def ready(self) -> None:
        """What has been cleared away in the folder shall be gone."""
        ...

    def kept(self, chunks: Iterator[ChunkOutcome], folder: Path) -> Iterator[ChunkOutcome]:
        """Chunks that were left in ``folder``, each as it is committed. Their shards need not stay there."""
        ...

    def whole(self, shard: Path) -> AbstractContextManager[Path]:
        """A shard of the folder with all its bytes, for a while."""
        ...

    def sha256(self, shard: Path) -> str: ...

    def publish(self, files: Collection[Path], shards: Mapping[str, Path], remove: Collection[str], clear: str) -> None:
        """The folder is about to become the dataset that these make up.

        Args:
            files: all but the shards.
            shards: by their names from now on, where they lie until now.
            remove: names of the dataset until now that are none of its files any more.
            clear: the folder of chunks that it is made of.
        """
        ...


class LocalStore:
    """A folder, and that is all."""

    def __init__(self, folder: Path) -> None:
        self.where, self.folder = str(folder), folder

    def ready(self) -> None:
        pass

    def kept(self, chunks: Iterator[ChunkOutcome], folder: Path) -> Iterator[ChunkOutcome]:
        return in_background(chunks, lambda chunk: commit(folder, chunk), _FLUSHES)

    def whole(self, shard: Path) -> AbstractContextManager[Path]:
        return contextlib.nullcontext(shard)

    def sha256(self, shard: Path) -> str:
        return sha256_file(shard)

    def publish(self, files: Collection[Path], shards: Mapping[str, Path], remove: Collection[str], clear: str) -> None:
        pass


def in_background(
    chunks: Iterator[ChunkOutcome],
    keep: Callable[[ChunkMarker], None],
    at_once: int,
    stop: Callable[[], None] = lambda: None,
) -> Iterator[ChunkOutcome]:
    """Each chunk when ``keep`` is done with it. Nothing is kept any more when the iterator ends, however it ends."""
    under_way: dict[concurrent.futures.Future[None], ChunkOutcome] = {}
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        try:
            for done in chunks:
                under_way[pool.submit(keep, done.chunk)] = done
                seconds = 0 if len(under_way) < at_once else None
                for kept in concurrent.futures.wait(under_way, seconds, concurrent.futures.FIRST_COMPLETED).done:
                    kept.result()
                    yield under_way.pop(kept)
            for kept in concurrent.futures.as_completed(under_way):
                kept.result()
                yield under_way[kept]
        finally:
            stop()
            pool.shutdown(cancel_futures=True)

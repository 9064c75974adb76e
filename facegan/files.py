"""Writing files so that nobody ever sees half of one, and errors of the disk as sentences."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from facegan.errors import DiskError, FaceganError, SettingsError

TEMPORARY = ".partial"  # suffix of files being written; whoever finds one may delete it

_DISK_ERRORS = {
    errno.ENOSPC: "The disk of {path} is full{need}. Make room, then start the same command again.",
    errno.EDQUOT: "The quota of {path} is used up{need}. Make room, then start the same command again.",
    errno.EROFS: "{path} lies on a read-only file system. Choose another folder.",
    errno.EACCES: "{path} may not be written by this user. Choose another folder, or change its permissions.",
    errno.EPERM: "{path} may not be written by this user. Choose another folder, or change its permissions.",
    errno.ENOTDIR: "{path} can't be a folder: a file is in the way. Choose another folder.",
    errno.EEXIST: "{path} can't be a folder: a file is in the way. Choose another folder.",
    errno.EIO: "The disk of {path} reports an error. Check it, or choose another folder.",
    errno.EFBIG: "A file in {path} grew past this file system's limit. Choose another disk.",
    errno.ENOENT: "{path} can't be made where it is: there is no place for files. Choose another folder.",
    errno.ENAMETOOLONG: "{path} is too long a name. Choose a shorter one.",
}


@contextlib.contextmanager
def disk_errors(path: Path, need_bytes: int | None = None) -> Iterator[None]:
    """Turns the OSErrors that a user can mend into `DiskError` naming ``path``; others pass.

    Where such blocks lie inside each other the outermost names the place, for it is the one that the user knows, and
    the space needed, if it knows that.
    """
    try:
        yield
    except (OSError, DiskError) as error:
        sentence = _DISK_ERRORS.get(error.errno or 0)
        if sentence is None:
            raise
        need_bytes = need_bytes or (error.need_bytes if isinstance(error, DiskError) else None)
        need = f" ({human_bytes(need_bytes)} are needed)" if need_bytes else ""
        raise DiskError(sentence.format(path=path, need=need), error.errno, need_bytes) from error


def user_cache(name: str) -> Path:
    """A folder for what can be made or fetched anew."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("facegan")) / name


CACHE_LIMIT_VARIABLE = "FACEGAN_CACHE_GB"
_CACHE_LIMIT_GB = 20.0


def cache_limit() -> int:
    """Bytes that downloaded shards may take in the user cache.

    Raises:
        SettingsError: the environment variable is not a positive number.
    """
    text = os.environ.get(CACHE_LIMIT_VARIABLE) or str(_CACHE_LIMIT_GB)
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = 0.0
    if not 0 < gigabytes < float("inf"):
        raise SettingsError(f"{CACHE_LIMIT_VARIABLE}={text} is invalid. Set a number of gigabytes above 0.")
    return int(gigabytes * 1e9)


def evict_lru(folder: Path, suffix: str, needed: int, limit: int, keep: Collection[Path] = ()) -> None:
    """Delete the least recently used files of ``folder`` until ``needed`` more bytes fit, by the limit and on the disk.

    A file that somebody has mapped may be deleted: it stays readable to them.

    Args:
        keep: files that stay.

    Raises:
        DiskError: the disk itself is too full.
    """
    files = []
    for path in folder.glob(f"*{suffix}"):
        with contextlib.suppress(FileNotFoundError):  # another process evicts, too
            stat = path.stat()
            files.append((stat.st_mtime_ns, stat.st_size, path))
    total = sum(size for _, size, _ in files) + needed
    kept = set(keep)
    for _, size, path in sorted(files):
        if total <= limit and shutil.disk_usage(folder).free >= needed:
            break
        if path not in kept:
            path.unlink(missing_ok=True)
            total -= size
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiskError(
            f"The disk of {folder} has {human_bytes(free)} left; {human_bytes(needed)} are needed.\n"
            "Free some space, or set XDG_CACHE_HOME to a folder on a larger disk."
        )


def mark_used(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.utime(path)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path that becomes ``path`` when the block succeeds, and is deleted when it fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    with disk_errors(path.parent):
        try:
            yield temporary
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def make_folder(path: Path) -> Path:
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def refuse_folder(path: Path) -> None:
    """
    Raises:
        DiskError: a folder stands where a file is to be written.
    """
    if path.is_dir():
        raise DiskError(f"{path} is a folder, and a file is to be written there. Choose another name.", errno.EISDIR)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under ``path`` whole, flushed to disk, when the block ends well, and else not at all."""
    refuse_folder(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    with disk_errors(path.parent):
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        flush(path.parent)


def refuse_filled(path: Path) -> None:
    """
    Raises:
        FaceganError: ``path`` is there, and not an empty folder.
    """
    with disk_errors(path):
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise FaceganError(f"{path} is there already, and not empty. Choose a new folder.")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that appears under ``path`` whole when the block ends well, and else not at all.

    Raises:
        FaceganError: ``path`` is there, and not an empty folder.
        DiskError: the disk is full, or may not be written.
    """
    refuse_filled(path)
    target = Path(os.path.realpath(path))
    with disk_errors(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target)
        room = target.with_name(f".{target.name}.{os.getpid()}{TEMPORARY}")
        (room / "whole").mkdir(parents=True)
        lock = os.open(room, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield room / "whole"
            os.sync()  # one for all the files: thousands of them, each flushed by itself, would take minutes
            (room / "whole").replace(target)
            flush(target.parent)
        finally:
            shutil.rmtree(room, ignore_errors=True)
            os.close(lock)


def _remove_abandoned(target: Path) -> None:
    """Folders that killed processes left; those that are being filled are locked."""
    for room in target.parent.glob(f".{glob.escape(target.name)}.*{TEMPORARY}"):
        lock = os.open(room, os.O_RDONLY)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(room, ignore_errors=True)
        os.close(lock)


class Busy(FaceganError):
    """Another process holds a lock."""


@contextlib.contextmanager
def exclusive(lock: Path, busy: str) -> Iterator[None]:
    """Holds a lock file. It goes with the process that holds it, however that ends.

    Raises:
        Busy: ``busy`` and which process holds the lock.
    """
    with disk_errors(lock.parent):
        file = lock.open("a+")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Busy(f"{busy} ({file.read().strip()}). Wait for it, or stop it.") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def flush(path: Path) -> None:
    """Makes a file's bytes, or the names in a folder, outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    with replacing(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_partials(folder: Path) -> None:
    """Deletes what a killed process left half written."""
    for path in folder.glob(f".*{TEMPORARY}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def packaged(folder: str) -> Path:
    """A folder of package data (``manifests``): inside the wheel, or at the top of a checkout."""
    package = Path(__file__).parent
    inside = package / "_data" / folder
    return inside if inside.is_dir() else package.parent / folder


def human_bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"

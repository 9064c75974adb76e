"""Writing files so that nobody ever sees half of one, parsing them, and errors of both as sentences."""

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
import tomllib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from facegan.console import Console
from facegan.errors import DamagedFile, DiskError, FaceganError, SettingsError, SourceError

_SUM_BYTES = 32  # of a SHA-256
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
def atomic_write(path: Path) -> Iterator[BinaryIO]:
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
        fsync(path.parent)


def require_empty(path: Path) -> None:
    """
    Raises:
        FaceganError: ``path`` is there, and not an empty folder.
    """
    with disk_errors(path):
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise FaceganError(f"{path} is there already, and not empty. Choose a new folder.")


@contextlib.contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """A folder to fill that appears under ``path`` whole when the block ends well, and else not at all.

    Raises:
        FaceganError: ``path`` is there, and not an empty folder.
        DiskError: the disk is full, or may not be written.
    """
    require_empty(path)
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
            fsync(target.parent)
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


def fsync(path: Path) -> None:
    """Makes a file's bytes, or the names in a folder, outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    with atomic_write(path) as file:
        file.write(data)


@contextlib.contextmanager
def parsing(file: object, advice: str = "Take an undamaged copy.") -> Iterator[None]:
    """Turns whatever a parser raises about bad bytes into a `DamagedFile`; errors of the system pass."""
    try:
        yield
    except FaceganError:
        raise
    except Exception as error:  # parsers of damaged bytes raise anything
        if isinstance(error, OSError) and error.errno is not None:
            raise
        why = _why(error)
        raise DamagedFile(f"{file} is damaged, or holds another format ({why}).\n{advice}", why) from None


def _why(error: Exception) -> str:
    from pydantic import ValidationError  # here: the build hook loads this module before pydantic is installed

    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where:.100}: {first['msg']}" if where else first["msg"]
    text = (str(error) or type(error).__name__).splitlines()[0].partition(";")[0][:160]
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def parse_json(data: bytes | str, file: object, advice: str = "Take an undamaged copy.") -> Any:
    """
    Raises:
        DamagedFile: ``data`` is no JSON.
    """
    with parsing(file, advice):
        return json.loads(data)


def read_json(path: Path, advice: str = "Take an undamaged copy.") -> Any:
    """
    Raises:
        DamagedFile: the file is no JSON.
        OSError: it can't be read.
    """
    return parse_json(path.read_bytes(), path, advice)


def parse_toml(text: str, file: object) -> dict[str, Any]:
    """
    Raises:
        DamagedFile: ``text`` is no TOML.
    """
    with parsing(file):
        return tomllib.loads(text)


def read_tensors(
    path: Path, framework: str = "pt", advice: str = "Take an undamaged copy."
) -> tuple[dict[str, Any], dict[str, str]]:
    """Tensors (torch's for ``pt``, NumPy's for ``np``) and metadata of a safetensors file.

    Raises:
        DamagedFile: it is no safetensors file.
        OSError: it can't be read.
    """
    from safetensors import safe_open

    with path.open("rb"):  # safetensors calls all that it can't open missing or damaged
        pass
    with parsing(path, advice), safe_open(path, framework) as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
        _refuse_odd_numbers(tensors, "float4", "float8")
        return tensors, opened.metadata() or {}


def parse_tensors(data: bytes, file: object) -> dict[str, Any]:
    """torch's tensors of a safetensors file's bytes.

    Raises:
        DamagedFile: it is no safetensors file.
    """
    from safetensors.torch import load

    with parsing(file):
        tensors = load(data)
        _refuse_odd_numbers(tensors, "float4", "float8", "complex")
        return tensors


def _refuse_odd_numbers(tensors: dict[str, Any], *kinds: str) -> None:
    for name, tensor in tensors.items():
        if any(kind in str(tensor.dtype) for kind in kinds):
            raise ValueError(f"its tensor {name} is {tensor.dtype}")


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def write_cached(path: Path, data: bytes) -> None:
    """A file for `read_cached`: ``data``, and behind it their SHA-256."""
    write_bytes(path, data + hashlib.sha256(data).digest())


def read_cached(path: Path) -> bytes | None:
    """What `write_cached` was given; None where there is no such file, or, with a warning, where it was altered."""
    try:
        data = memoryview(path.read_bytes())
    except OSError:
        return None
    if hashlib.sha256(data[:-_SUM_BYTES]).digest() != data[-_SUM_BYTES:]:
        Console().warn(f"{path} does not match its checksum: it is made again.")
        return None
    return bytes(data[:-_SUM_BYTES])


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


def files_below(
    top: bytes, enters: Callable[[bytes, bytes], bool], follow_links: bool = True
) -> Iterator[tuple[bytes, os.DirEntry[bytes]]]:
    """Everything below a folder that is not a folder, in no order, each with its name below ``top``.

    A link to a folder is followed, unless that folder is one that the link is in: such a link comes like a file.

    Args:
        enters: whether to look into a folder, by its path and its name below ``top`` (empty, or with a final slash).

    Raises:
        SourceError: links lead to folders of links that lead to folders of links, and so on.
        OSError: a folder can't be read.
    """
    above: frozenset[_Identity] = frozenset()
    if follow_links:
        real = Path(os.fsdecode(os.path.realpath(top)))
        above = frozenset(_identity(parent.stat()) for parent in real.parents)
    followed, waiting = 0, [(top, b"", above)]
    while waiting:
        folder, prefix, above = waiting.pop()
        if not enters(folder, prefix):
            continue
        if follow_links:
            above |= {_identity(os.stat(folder))}  # noqa: PTH116 - names are bytes
        with os.scandir(folder) as entries:  # never all at once: a folder may hold millions
            for entry in entries:
                is_linked = follow_links and entry.is_symlink() and _is_folder_outside(entry, above)
                if not is_linked and not entry.is_dir(follow_symlinks=False):
                    yield prefix + entry.name, entry
                    continue
                followed += is_linked
                if followed > _MOST_LINKED_FOLDERS:
                    raise SourceError(
                        f"{os.fsdecode(top)} has links to more than {_MOST_LINKED_FOLDERS:,} folders. Remove links "
                        "to folders of links,\nor leave all links out (facegan prep: --no-follow-links)."
                    )
                waiting.append((entry.path, prefix + entry.name + b"/", above))


_MOST_LINKED_FOLDERS = 100_000  # ImageNet-21k by links has 21,841; two links a level give 2^depth without a loop
_Identity = tuple[int, int]  # a folder's device and inode


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino


def _is_folder_outside(link: os.DirEntry[bytes], above: frozenset[_Identity]) -> bool:
    """Whether a link leads to a folder that it is not in."""
    try:
        if not link.is_dir():
            return False
        return _identity(link.stat()) not in above
    except OSError:  # a link to itself, or behind a folder that may not be read
        return False


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

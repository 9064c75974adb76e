"""Atomic files and folders, locks, checksums, parsing, and the disk's errors as sentences."""

from __future__ import annotations

import contextlib
import errno
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

_LOCK = "lock"  # inside a staging folder
TEMPORARY = ".partial"  # suffix of files being written; safe to delete once no process writes them

_DISK_ERRORS = {
    errno.ENOSPC: "The disk of {path} is full{need}. Free some space, then run the same command again.",
    errno.EDQUOT: "The quota of {path} is used up{need}. Free some space, then run the same command again.",
    errno.EROFS: "{path} is on a read-only file system. Choose another folder.",
    errno.EACCES: "This user may not write to {path}. Choose another folder, or change its permissions.",
    errno.EPERM: "This user may not write to {path}. Choose another folder, or change its permissions.",
    errno.ENOTDIR: "{path} cannot be a folder: a file is in the way. Choose another folder.",
    errno.EEXIST: "{path} cannot be a folder: a file is in the way. Choose another folder.",
    errno.EIO: "The disk of {path} reports an error. Check it, or choose another folder.",
    errno.EFBIG: "A file in {path} grew past this file system's limit. Choose another disk.",
    errno.ENOENT: "{path} cannot be created there. Choose another folder.",
    errno.ENAMETOOLONG: "The name {path} is too long. Choose a shorter one.",
}


@contextlib.contextmanager
def disk_errors(path: Path, need_bytes: int | None = None) -> Iterator[None]:
    """Turn the OSErrors that a user can fix into `DiskError` naming ``path``; others pass.

    Of nested blocks the outermost names its path, because the user knows that one, and the space needed if it is known.
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


CACHE_LIMIT_VARIABLE = "FACEGAN_CACHE_GB"


def user_cache(name: str) -> Path:
    """A folder for files that can be downloaded or computed again."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("facegan")) / name


def cache_limit() -> int:
    """Bytes that downloaded shards may take in the user cache."""
    text = os.environ.get(CACHE_LIMIT_VARIABLE) or "20"
    gigabytes = 0.0
    with contextlib.suppress(ValueError):
        gigabytes = float(text)
    if not 0 < gigabytes < float("inf"):
        raise SettingsError(f"{CACHE_LIMIT_VARIABLE}={text} is invalid. Set a number of gigabytes above 0.")
    return int(gigabytes * 1e9)


def evict_lru(folder: Path, suffix: str, needed: int, limit: int, keep: Collection[Path] = ()) -> None:
    """Delete the least recently used files of ``folder`` until ``needed`` more bytes fit, by the limit and on the disk.

    A process that has mapped a deleted file can still read it.
    """
    files = []
    for path in folder.glob(f"*{suffix}"):
        with contextlib.suppress(FileNotFoundError):  # another process evicts, too
            stat = path.stat()
            files.append((stat.st_mtime_ns, stat.st_size, path))
    total = sum(size for _, size, _ in files) + needed
    for _, size, path in sorted(files):
        if total <= limit and shutil.disk_usage(folder).free >= needed:
            break
        if path not in keep:
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
    temporary = _temporary(path)
    with disk_errors(path.parent):
        try:
            yield temporary
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def make_folder(path: Path) -> Path:
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def refuse_folder(path: Path) -> None:
    """Raises DiskError if ``path`` is a folder."""
    if path.is_dir():
        raise DiskError(f"{path} is a folder, so no file can be written there. Choose another name.", errno.EISDIR)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A file that appears at ``path`` complete and flushed to disk when the block succeeds, and else not at all."""
    refuse_folder(path)
    with disk_errors(path.parent):
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        fsync(path.parent)


def require_empty(path: Path) -> None:
    """Raises FaceganError if ``path`` exists and is not an empty folder."""
    with disk_errors(path):
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise FaceganError(f"{path} already exists and is not empty. Choose a new folder.")


@contextlib.contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """A folder to fill that appears at ``path`` complete when the block succeeds, and else not at all. ``path`` must
    not exist, or be empty."""
    import filelock  # here: 0.1 s, and the build hook loads this module before anything is installed

    require_empty(path)
    target = Path(os.path.realpath(path))
    with disk_errors(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        for abandoned in target.parent.glob(f".{glob.escape(target.name)}.*{TEMPORARY}"):  # those in use are locked
            with contextlib.suppress(filelock.Timeout), filelock.FileLock(abandoned / _LOCK, timeout=0):
                shutil.rmtree(abandoned, ignore_errors=True)
        staging = _temporary(target)
        (staging / "whole").mkdir(parents=True)
        try:
            with filelock.FileLock(staging / _LOCK):
                yield staging / "whole"
                if hasattr(os, "sync"):  # one for all the files: flushing thousands one by one would take minutes
                    os.sync()
                (staging / "whole").replace(target)
                fsync(target.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def exclusive(lock: Path, busy: str) -> Iterator[None]:
    """Hold a lock file, which the system releases when the process ends, however it ends; or raise FaceganError.

    ``busy``: the error, to which the process that the lock file names is added.
    """
    import filelock

    with disk_errors(lock.parent):
        held = filelock.FileLock(lock, timeout=0)
        try:
            held.acquire()
        except filelock.Timeout:
            holder = "its process is unknown"
            with contextlib.suppress(OSError):
                holder = lock.read_text(encoding="utf-8").strip()
            raise FaceganError(f"{busy} ({holder}). Wait for it, or stop it.") from None
    try:
        with contextlib.suppress(OSError):  # Windows lets nobody write into a locked file, or read it
            lock.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        held.release()


def fsync(path: Path) -> None:
    """Make a file's bytes, or the names in a folder, survive a power cut. Windows cannot flush folders."""
    if os.name == "nt" and path.is_dir():
        return
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
    """Turn whatever a parser raises about bad bytes into `DamagedFile`; the system's errors pass."""
    try:
        yield
    except FaceganError:
        raise
    except Exception as error:  # parsers of damaged bytes raise anything
        if isinstance(error, OSError) and error.errno is not None:
            raise
        why = _why(error)
        raise DamagedFile(f"{file} is damaged or has another format ({why}).\n{advice}", why) from None


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
    """Raises DamagedFile if ``data`` is not JSON."""
    with parsing(file, advice):
        return json.loads(data)


def read_json(path: Path, advice: str = "Take an undamaged copy.") -> Any:
    """Raises DamagedFile if the file is not JSON, OSError if it cannot be read."""
    return parse_json(path.read_bytes(), path, advice)


def parse_toml(text: str, file: object) -> dict[str, Any]:
    """Raises DamagedFile if ``text`` is not TOML."""
    with parsing(file):
        return tomllib.loads(text)


def read_tensors(path: Path, framework: str = "pt") -> tuple[dict[str, Any], dict[str, str]]:
    """Tensors (torch's for ``pt``, NumPy's for ``np``) and metadata of a safetensors file; or DamagedFile, OSError."""
    from safetensors import safe_open

    with path.open("rb"):  # safetensors calls every file that it cannot open missing or damaged
        pass
    with parsing(path), safe_open(path, framework) as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
        _refuse_dtypes(tensors, "float4", "float8")
        return tensors, opened.metadata() or {}


def parse_tensors(data: bytes, file: object) -> dict[str, Any]:
    """torch tensors from a safetensors file's bytes; raises DamagedFile if they are not one."""
    from safetensors.torch import load

    with parsing(file):
        tensors = load(data)
        _refuse_dtypes(tensors, "float4", "float8", "complex")
        return tensors


def _refuse_dtypes(tensors: dict[str, Any], *kinds: str) -> None:
    for name, tensor in tensors.items():
        if any(kind in str(tensor.dtype) for kind in kinds):
            raise ValueError(f"its tensor {name} is {tensor.dtype}")


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def write_cached(path: Path, data: bytes) -> None:
    """A file for `read_cached`: ``data`` followed by its SHA-256."""
    write_bytes(path, data + hashlib.sha256(data).digest())


def read_cached(path: Path) -> bytes | None:
    """The data of `write_cached`; None if there is no such file or, with a warning, if it was altered."""
    try:
        data = memoryview(path.read_bytes())
    except OSError:
        return None
    content, checksum = data[:-32], data[-32:]
    if hashlib.sha256(content).digest() != checksum:
        Console().warn(f"{path} does not match its checksum; computing it again.")
        return None
    return bytes(content)


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_partials(folder: Path) -> None:
    """Delete what killed processes left half written."""
    for path in folder.glob(f".*{TEMPORARY}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def files_below(
    top: bytes, enters: Callable[[bytes, bytes], bool], follow_links: bool = True
) -> Iterator[tuple[bytes, os.DirEntry[bytes]]]:
    """Everything below a folder that is not a folder, unsorted, with its name below ``top``.

    A link to a folder is followed unless the link is inside that folder: such a link is yielded like a file. Links
    that multiply (to folders of links to folders of links) are a SourceError.

    ``enters``: whether to descend, given a folder's path and its name below ``top`` (empty, or with a final slash).
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
                if followed > _MAX_LINKED_FOLDERS:
                    raise SourceError(
                        f"{os.fsdecode(top)} has links to more than {_MAX_LINKED_FOLDERS:,} folders. Remove links "
                        "to folders of links,\nor leave out all links (facegan prep --no-follow-links)."
                    )
                waiting.append((entry.path, prefix + entry.name + b"/", above))


_MAX_LINKED_FOLDERS = 100_000  # ImageNet-21k by links has 21,841; two links a level give 2^depth without a loop
_Identity = tuple[int, int]  # a folder's device and inode


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino


def _is_folder_outside(link: os.DirEntry[bytes], above: frozenset[_Identity]) -> bool:
    """Whether a link leads to a folder that does not contain it."""
    with contextlib.suppress(OSError):  # a link to itself, or into an unreadable folder
        return link.is_dir() and _identity(link.stat()) not in above
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

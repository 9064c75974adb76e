"""What the inputs of a stage look like: the names, sizes and times of files, never their bytes.

A fingerprint changes with any file that is added, removed, renamed or rewritten; not with files at URLs or of
``torchvision:``, nor with a file that is changed with its size and time kept.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
from pathlib import Path

from facegan.errors import SourceError
from facegan.files import files_below
from facegan.recipes.recipe import is_local
from facegan.remote import is_url

MISSING = ""
_REMOTE = "not looked at"


def fingerprint(path: str, leave_out: Path | None = None) -> str:
    """Of a file, a folder with everything below it, or a pattern of files; `MISSING` if there is nothing.

    Args:
        leave_out: a folder inside to ignore: the dataset that is made from the others.
    """
    if is_local(path):
        return _of_folder(path, leave_out) if Path(path).is_dir() else _of_file(path)
    if is_url(path) or ":" in path.partition("/")[0]:
        return _REMOTE
    from braceexpand import braceexpand

    try:
        files = [found for text in braceexpand(path) for found in sorted(glob.glob(text))]  # noqa: PTH207 - as given
    except ValueError:
        return MISSING
    return " ".join(map(_of_file, files))


def size_and_time(path: Path) -> list[int] | None:
    """None if there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _of_file(path: str) -> str:
    found = size_and_time(Path(path))
    return f"{found[0]} bytes, {found[1]}" if found else MISSING


def _of_folder(top: str, leave_out: Path | None) -> str:
    """The digests are added up: files come in any order, and a million of them need not be sorted."""
    ignored = os.fsencode(os.path.realpath(leave_out)) if leave_out else None
    count = total = 0
    with contextlib.suppress(OSError, SourceError):  # prep reports the problem
        for name, entry in files_below(os.fsencode(top), lambda folder, _: os.path.realpath(folder) != ignored):
            count, total = count + 1, total + _digest(name, entry) & (1 << 64) - 1
    return f"{count} files, {total:016x}"


def _digest(name: bytes, entry: os.DirEntry[bytes]) -> int:
    try:
        status = entry.stat()
        text = b"%d %d" % (status.st_size, status.st_mtime_ns)
    except OSError:  # a dangling link
        text = b""
    return int.from_bytes(hashlib.blake2b(name + b"\0" + text, digest_size=8).digest())

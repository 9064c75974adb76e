"""What a stage was made from, told at a glance: the names, sizes and times of files, never their bytes.

Noticed is any file that was added, removed, renamed, or written since. Not noticed is what lies behind a URL or comes
from ``torchvision:``, and a file that was changed with its size and time kept.
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

GONE = ""  # nothing is there any more
_FAR = "not looked at"


def fingerprint(where: str, leave_out: Path | None = None) -> str:
    """What there is to see of a file, a folder with all below it, or a pattern of files; `GONE` where nothing is.

    Args:
        leave_out: a folder inside that is not looked into: the dataset that is made from the others.
    """
    if is_local(where):
        return _folder(where, leave_out) if Path(where).is_dir() else _file(where)
    if is_url(where) or ":" in where.partition("/")[0]:
        return _FAR
    from braceexpand import braceexpand

    try:
        files = [path for text in braceexpand(where) for path in sorted(glob.glob(text))]  # noqa: PTH207 - as given
    except ValueError:
        return GONE
    return " ".join(map(_file, files))


def signature(path: Path) -> list[int] | None:
    """Size and time of a file; None where there is none."""
    try:
        told = path.stat()
    except OSError:
        return None
    return [told.st_size, told.st_mtime_ns]


def _file(where: str) -> str:
    told = signature(Path(where))
    return f"{told[0]} bytes, {told[1]}" if told else GONE


def _folder(top: str, leave_out: Path | None) -> str:
    """A sum of digests: files come in any order, and a million of them are not kept to be sorted."""
    avoid = os.fsencode(os.path.realpath(leave_out)) if leave_out else None
    count = total = 0
    with contextlib.suppress(OSError, SourceError):  # prep says what is wrong with it
        for name, entry in files_below(os.fsencode(top), lambda folder, _: os.path.realpath(folder) != avoid):
            count, total = count + 1, total + _digest(name, entry) & (1 << 64) - 1
    return f"{count} files, {total:016x}"


def _digest(name: bytes, entry: os.DirEntry[bytes]) -> int:
    try:
        told = entry.stat()
        seen = b"%d %d" % (told.st_size, told.st_mtime_ns)
    except OSError:  # a link that leads nowhere
        seen = b""
    return int.from_bytes(hashlib.blake2b(name + b"\0" + seen, digest_size=8).digest())

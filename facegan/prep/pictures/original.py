"""The photograph that a sample was cut from, read again from where it lay."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from facegan.errors import DamagedFile, SourceError
from facegan.files import make_folder, read_json, write_bytes
from facegan.prep.sources import open_source
from facegan.prep.sources.base import DAMAGED, Entry, Source
from facegan.prep.sources.folder import Folder
from facegan.prep.sources.table import Table
from facegan.remote import Unreachable, is_url
from facegan.shards.layout import STATE_FOLDER, readable_path

ORIGIN_FILE = "source.json"  # {"source": path or URL, "root": the folder in it below which paths are told}


def read_original(out: Path, path: str, source: str | None = None) -> bytes | None:
    """The file of the photograph that dataset ``out`` calls ``path``; None where it is gone, or nobody knows where.

    Args:
        source: where the photographs lie now, if not where prep found them.
    """
    origin, root = (source, None) if source else _origin(out)
    if not origin:
        return None
    try:
        opened = open_source(origin)
        entry = _find(opened, root, path)
        if entry is None:
            return None
        with (
            tempfile.TemporaryDirectory() as folder,
            # A table is unpacked for many of its photographs, and not for one.
            contextlib.closing(
                (opened if isinstance(opened, Table) else opened.unpacked(Path(folder))).reader()
            ) as reader,
        ):
            return reader.read(entry)
    except (SourceError, Unreachable, OSError, *DAMAGED):
        return None


def _origin(out: Path) -> tuple[str | None, str | None]:
    try:
        told = read_json(out / STATE_FOLDER / ORIGIN_FILE)
    except (OSError, DamagedFile):
        return None, None
    source, root = (told.get("source"), told.get("root")) if isinstance(told, dict) else (None, None)
    return (source, root) if isinstance(source, str) and isinstance(root, str) else (None, None)


def _find(source: Source, root: str | None, path: str) -> Entry | None:
    """
    Args:
        root: None where it is not known: then a photograph fits whose name ends in ``path``, the shortest first.
    """
    if isinstance(source, Folder) and (entry := _in_folder(source.path, (root or "") + path)):
        return entry
    names = ((readable_path(entry.name), entry) for entry in source.photos(Counter()))
    if root is not None:
        found = [entry for name, entry in names if name == root + path]
        return found[-1] if found else None  # of a name that comes twice the later one counts
    return min((entry for name, entry in names if f"/{name}".endswith(f"/{path}")), key=_length, default=None)


def _length(entry: Entry) -> int:
    return len(entry.name)


def _in_folder(folder: Path, name: str) -> Entry | None:
    """A file below ``folder``, found without listing it. A name that leads out of the folder finds nothing; a link that
    does is followed, as prep has done."""
    file = folder / name
    inside = ".." not in Path(name).parts and not Path(name).is_absolute()
    return Entry(os.fsencode(name), file.stat().st_size) if inside and file.is_file() else None


def write_origin(out: Path, where: str, root: bytes) -> None:
    """Notes in ``out`` where its photographs lie, and below which folder there."""
    stands = is_url(where) or where.startswith("torchvision:")
    _note(out, where if stands else str(Path(where).absolute()), readable_path(root))


def copy_origin(outs: Iterable[Path], new: Path) -> None:
    """Notes beside a dataset made of others where their photographs lie, if that is one place."""
    found = {_origin(out) for out in outs}
    source, root = found.pop() if len(found) == 1 else (None, None)
    if source is not None and root is not None:
        _note(new, source, root)


def _note(out: Path, source: str, root: str) -> None:
    told = {"source": source, "root": root}
    # As ASCII: a path may not be UTF-8.
    write_bytes(make_folder(out / STATE_FOLDER) / ORIGIN_FILE, json.dumps(told).encode())

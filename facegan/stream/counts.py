"""How many faces tar files without an index hold, kept in the user cache for as long as the files stay as they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from facegan.errors import DiskError
from facegan.files import make_folder, parse_json, read_cached, user_cache, write_cached
from facegan.stream.room import make_room

_KEPT_BYTES = 16 << 20  # of all of them together

Marks = list[list[int]]  # size, time of change in ns


def file_marks(paths: Sequence[str]) -> Marks:
    """Nothing where one of them is no file here: then nobody tells when it changes."""
    try:
        stats = [Path(path).stat() for path in paths]
    except OSError:
        return []
    return [[stat.st_size, stat.st_mtime_ns] for stat in stats]


def kept_count(paths: Sequence[str], marks: Marks) -> int | None:
    """The count of files that still have these marks, if it was kept."""
    data = read_cached(_place(paths)) if marks else None
    kept = parse_json(data, _place(paths)) if data else {}
    return kept["count"] if kept and kept["marks"] == marks else None


def keep_count(paths: Sequence[str], marks: Marks, count: int) -> None:
    with suppress(DiskError):  # then the next run counts again
        place = _place(paths)
        make_room(make_folder(place.parent), ".count", 100 * len(marks), _KEPT_BYTES)
        write_cached(place, json.dumps({"marks": marks, "count": count}).encode())


def _place(paths: Sequence[str]) -> Path:
    names = "\n".join(str(Path(path).resolve()) for path in paths)
    return user_cache("index") / f"{hashlib.sha256(names.encode(errors='surrogateescape')).hexdigest()[:32]}.count"

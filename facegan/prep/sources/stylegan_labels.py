"""StyleGAN's dataset.json: class labels of the photographs beside it, kept on disk, for there may be millions."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol

from facegan.prep.temp_database import TempDatabase

LABELS_FILE = "dataset.json"
_BEGIN = re.compile(r'"labels"\s*:\s*\[')
_PIECE_BYTES = 1 << 16
_CACHE_KB = 8_000


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class StyleGANLabels:
    """Name → label from ``{"labels": [["00000/img00000000.png", 6], …]}`` (NVlabs, dataset_tool.py).

    None where the file is something else, or its labels are null or vectors.
    """

    def __init__(self, file: BinaryIO | _Readable | None) -> None:
        self._db: TempDatabase | None = None
        if file is None:
            return
        db = TempDatabase("CREATE TABLE labels (name BLOB PRIMARY KEY, label INTEGER) WITHOUT ROWID", _CACHE_KB)
        try:
            db.many("INSERT OR REPLACE INTO labels VALUES (?, ?)", _labels(file))
            self._db = db
        except (ValueError, TypeError, OverflowError, RecursionError):
            db.close()
        except BaseException:
            db.close()
            raise

    @property
    def told(self) -> bool:
        """Whether there are any."""
        return self._db is not None

    def of(self, name: bytes) -> int:
        """0 where none was told."""
        return self._db.number("SELECT label FROM labels WHERE name = ?", name) if self._db else 0

    def close(self) -> None:
        if self._db:
            self._db.close()


def _labels(file: BinaryIO | _Readable) -> Iterator[tuple[bytes, int]]:
    """
    Raises:
        ValueError, TypeError, RecursionError: these are no labels.
    """
    for pair in _items(file):
        name, label = pair
        yield str(name).encode("utf-8", "surrogateescape"), int(label)


def _items(file: BinaryIO | _Readable) -> Iterator[Any]:
    """The items of the list of labels, parsed as the file is read."""
    text, decoder = codecs.getincrementaldecoder("utf-8-sig")(), json.JSONDecoder()
    waiting = text.decode(file.read(_PIECE_BYTES))
    begin = _BEGIN.search(waiting)
    if begin is None:
        return
    at = begin.end()
    while True:
        try:
            at = _skip(waiting, at)
            if waiting[at] == "]":
                return
            item, at = decoder.raw_decode(waiting, at)
            yield item
        except (IndexError, json.JSONDecodeError):  # the item goes on in what was not read yet
            more = file.read(_PIECE_BYTES)
            if not more or len(waiting) - at > _PIECE_BYTES:
                raise ValueError("a list that does not end") from None
            waiting, at = waiting[at:] + text.decode(more), 0


_GAP = re.compile(r"[\s,]*")


def _skip(text: str, at: int) -> int:
    found = _GAP.match(text, at)
    return found.end() if found else at

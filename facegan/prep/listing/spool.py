"""Entries of a source as they were listed, packed into blobs of thousands.

A run that finds nothing new needs no more of them, and a table with a row for each takes three times as long to write.
"""

from __future__ import annotations

import itertools
import json
from array import array
from collections.abc import Iterable, Iterator

from facegan.prep.listing.scratch import Scratch
from facegan.prep.sources.base import Entry, common_folder
from facegan.shards.layout import readable_path
from facegan.shards.photos import Fingerprint

SCHEMA = "CREATE TABLE spool (ends BLOB, names BLOB, sizes BLOB, rest TEXT);"
_AT_ONCE = 5_000


class Spool:
    """Keeps them in a table of a database.

    Attributes:
        count: how many there are.
    """

    def __init__(self, db: Scratch) -> None:
        self._db = db
        self.count = 0
        self._first, self._last = b"", b""

    def fill(self, entries: Iterator[Entry]) -> None:
        self._db.many("INSERT INTO spool VALUES (?, ?, ?, ?)", self._packed(entries))

    def _packed(self, entries: Iterator[Entry]) -> Iterator[tuple[bytes, bytes, bytes, str | None]]:
        while some := list(itertools.islice(entries, _AT_ONCE)):
            names, sizes, places, labels, parts = zip(*some, strict=True)
            first, last = min(names), max(names)
            self._first = min(self._first, first) if self.count else first
            self._last = max(self._last, last)
            self.count += len(some)
            told = any(places) or any(labels) or any(parts)
            ends = array("Q", itertools.accumulate(map(len, names)))
            rest = json.dumps([places, labels, parts]) if told else None
            yield ends.tobytes(), b"".join(names), array("q", sizes).tobytes(), rest

    def rows(self) -> Iterator[tuple[bytes, int, list[int], int, str]]:
        """The fields of every entry, in the order in which they were listed."""
        for ends, names, sizes, rest in self._blobs():
            raw = (names[start:end] for start, end in itertools.pairwise([0, *ends]))
            if rest:
                yield from zip(raw, sizes, *json.loads(rest), strict=True)
            else:
                yield from ((name, size, [], 0, "") for name, size in zip(raw, sizes, strict=True))

    def _blobs(self) -> Iterator[tuple[array, bytes, array, str | None]]:
        number = 0
        while blob := self._db.first(
            "SELECT ends, names, sizes, rest FROM spool WHERE rowid = ?", number := number + 1
        ):
            ends, names, sizes, rest = blob
            yield array("Q", ends), names, array("q", sizes), rest

    def root(self) -> bytes:
        """The deepest folder that holds all of them."""
        return common_folder(self._first, self._last)

    def fingerprint(self) -> str:
        """Of paths below the root, and sizes."""
        found, below = Fingerprint(), len(self.root())
        for ends, names, sizes, _ in self._blobs():
            found.add_photos(zip(_paths(names, ends, below), sizes, strict=True))
        return str(found)


def _paths(names: bytes, ends: Iterable[int], below: int) -> Iterable[str]:
    borders = itertools.pairwise([0, *ends])
    if names.isascii():  # then a name is as long in characters as in bytes
        text = names.decode()
        return [text[start + below : end] for start, end in borders]
    return [readable_path(names[start + below : end]) for start, end in borders]

"""All photographs of a source, sorted by name, on disk: a run over millions of them keeps none of them in memory."""

from __future__ import annotations

import itertools
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from facegan.console import shown
from facegan.errors import SourceError
from facegan.prep.sources.base import Entry, Ignored, MultiSource, Source, common_folder, listed
from facegan.prep.temp_database import TempDatabase
from facegan.shards.format import readable_path
from facegan.shards.photos import Fingerprint

# Entries of a source as they were listed, packed into blobs of thousands.
#
# A run that finds nothing new needs no more of them, and a table with a row for each takes three times as long to
# write.

BUFFER_SCHEMA = "CREATE TABLE spool (ends BLOB, names BLOB, sizes BLOB, rest TEXT);"
_AT_ONCE = 5_000


class EntryBuffer:
    """Keeps them in a table of a database.

    Attributes:
        count: how many there are.
    """

    def __init__(self, db: TempDatabase) -> None:
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


_SCHEMA = """
    CREATE TABLE found (name BLOB, ascii INTEGER, size INTEGER, place TEXT, label INTEGER, part TEXT);
    CREATE TABLE photos (name BLOB PRIMARY KEY, ascii INTEGER, size INTEGER, place TEXT, label INTEGER, part TEXT,
                         new INTEGER DEFAULT 1, split TEXT DEFAULT '', sha256 TEXT DEFAULT '', twin INTEGER DEFAULT 0,
                         attributes INTEGER DEFAULT 0) WITHOUT ROWID;
    CREATE TABLE again (chunk INTEGER, place INTEGER, path TEXT, twin INTEGER, PRIMARY KEY (chunk, place))
                       WITHOUT ROWID;
    CREATE TABLE known (path TEXT PRIMARY KEY, size INTEGER, sha256 TEXT, seen INTEGER DEFAULT 0) WITHOUT ROWID;
"""
_VOTERS = 1000  # photographs that are asked for the folder below which paths are told


class IndexedPhoto(NamedTuple):
    """A photograph that is to be prepared: its path in the dataset, and its entry in the source."""

    path: bytes
    entry: Entry
    split: str
    is_duplicate: bool  # the bytes of a photograph before it: a duplicate
    attributes: int = 0  # as bits, see `facegan.prep.request`


class PhotoIndex:
    """What a run knows of each photograph, in a database of its own."""

    def __init__(self, source: Source) -> None:
        """
        Raises:
            SourceError: the source can't be listed.
        """
        self._source = source
        self._arranged = self._has_paths = False
        self.ignored = Ignored()
        self.root = b""  # the folder below which paths are told
        self._db = TempDatabase(BUFFER_SCHEMA + _SCHEMA)
        self._spool = EntryBuffer(self._db)
        self._db.function("below", 1, lambda name: readable_path(name[len(self.root) :]))
        try:
            self._spool.fill(listed(self._source, self.ignored))
        except BaseException:
            self._db.close()
            raise

    def matches(self, count: int, fingerprint: str) -> bool:
        """Whether these are the photographs of a dataset with this fingerprint: no more, no fewer, and no others.

        That takes a fifth of the time of `arrange` and a comparison one by one.
        """
        if self._arranged or len(self) != count:
            return False
        self.root = self._spool.root()
        return self._spool.fingerprint() == fingerprint

    def sort(self, limit: int | None = None) -> None:
        """Sorts them, if that was not done; all that follows needs it.

        Args:
            limit: only so many are new.

        Raises:
            SourceError: a name stands in two archives.
        """
        if self._arranged:
            return
        rows = (
            (name, name.isascii(), size, json.dumps(place) if place else None, label, part)
            for name, size, place, label, part in self._spool.rows()
        )
        self._db.many("INSERT INTO found VALUES (?, ?, ?, ?, ?, ?)", rows)
        self._db.run("DROP TABLE spool")
        self._refuse_names_of_two_archives(self._source)
        # Sorted first and then inserted in order: a tree grows ten times as fast at its end as in its middle.
        self._db.run(
            "INSERT OR REPLACE INTO photos (name, ascii, size, place, label, part) "
            "SELECT name, ascii, size, place, label, part FROM found ORDER BY name, rowid"
        )
        self._db.run("DROP TABLE found")
        self._arranged = True
        if limit is not None:  # the others are there, and not wanted now
            first = "SELECT name FROM photos ORDER BY name LIMIT ?"
            self._db.run(f"UPDATE photos SET new = 0 WHERE name NOT IN ({first})", limit)

    def _refuse_names_of_two_archives(self, source: Source) -> None:
        if not isinstance(source, MultiSource):
            return
        twice = self._db.first(
            "SELECT name, min(json_extract(place, '$[0]')), max(json_extract(place, '$[0]')) FROM found GROUP BY name "
            "HAVING min(json_extract(place, '$[0]')) < max(json_extract(place, '$[0]')) ORDER BY name LIMIT 1"
        )
        if twice:
            name, first, last = twice
            raise SourceError(
                f"{shown(readable_path(name))} stands in {source.members[first].where} and in "
                f"{source.members[last].where}.\n"
                f"Prepare them into datasets of their own: names have to differ within one."
            )

    def __len__(self) -> int:
        return self._db.number("SELECT count(*) FROM photos") if self._arranged else self._spool.count

    def names(self) -> Iterator[bytes]:
        """All of them, sorted."""
        self.sort()
        return (name for (name,) in self._db.rows("SELECT name FROM photos ORDER BY name"))

    def set_root(self, existing: bool) -> None:
        """Finds the folder below which paths are told: the deepest common one at first, later the one that was it then.

        It follows from the paths themselves, so that nothing but the dataset has to be kept: an archive and a folder of
        the same photographs give the same dataset.
        """
        self.sort()
        if existing:
            votes = self._votes(max(1, len(self) // _VOTERS)) or self._votes(1)
            if votes:
                self.root = max(sorted(votes), key=votes.__getitem__)
                self._refuse_outside()
                return
        first, last = self._db.first("SELECT min(name), max(name) FROM photos") or (b"", b"")
        self.root = common_folder(first, last)

    def _votes(self, step: int) -> Counter[bytes]:
        """Folders below which a photograph has a known path, with the number of such photographs, of every step-th."""
        votes: Counter[bytes] = Counter()
        for name in itertools.islice(self.names(), None, None, step):
            for prefix in _folders(name):
                if self._db.number("SELECT count(*) FROM known WHERE path = ?", readable_path(name[len(prefix) :])):
                    votes[prefix] += 1
        return votes

    def _refuse_outside(self) -> None:
        outside = self._db.first(
            "SELECT name FROM photos WHERE substr(name, 1, ?) <> ? ORDER BY name LIMIT 1", len(self.root), self.root
        )
        if self.root and outside:
            raise SourceError(
                f"{shown(readable_path(outside[0]))} lies outside {shown(readable_path(self.root))}, the folder that "
                f"the first prep fixed.\nPrepare it into a dataset of its own, or make this one anew with --force."
            )

    @property
    def _path(self) -> str:
        """The path in the dataset, for queries. A function in Python takes longer than all the rest of them."""
        return f"CASE ascii WHEN 1 THEN CAST(substr(name, {len(self.root) + 1}) AS TEXT) ELSE below(name) END"

    def add_existing(self, rows: Iterable[tuple[str, int, str]]) -> None:
        """Path, size and SHA-256 of what the dataset accounts for already."""
        self._db.many("INSERT OR REPLACE INTO known (path, size, sha256) VALUES (?, ?, ?)", rows)

    def exclude_existing(self) -> None:
        """Tells new photographs from those that the dataset holds (once `set_root` was called)."""
        self._db.run(f"UPDATE photos SET new = 0 WHERE {self._path} IN (SELECT path FROM known)")
        self._db.run(f"UPDATE known SET seen = 1 WHERE path IN (SELECT {self._path} FROM photos WHERE new = 0)")

    def changed(self) -> tuple[str, int, int] | None:
        """Path, size then and size now of the first known photograph whose size is another one."""
        return self._db.first(
            f"SELECT path, known.size, photos.size FROM photos JOIN known ON path = {self._path} "
            "WHERE new = 0 AND photos.size > 0 AND known.size <> photos.size ORDER BY name LIMIT 1"
        )

    def missing(self) -> tuple[int, str]:
        """How many known photographs are not in the source any more, and the first of them."""
        count = self._db.number("SELECT count(*) FROM known WHERE seen = 0")
        first = self._db.first("SELECT path FROM known WHERE seen = 0 ORDER BY path LIMIT 1")
        return count, first[0] if first else ""

    def split_by(self, split_of: Callable[[bytes, str], str]) -> None:
        """Gives every new photograph its split, by its path and the source's part.

        Raises:
            SourceError: as ``split_of`` does.
        """
        self._db.function("split_of", 2, lambda name, part: split_of(name[len(self.root) :], part))
        self._db.run("UPDATE photos SET split = split_of(name, part) WHERE new")

    def set_attributes(self, rows: Iterable[tuple[bytes, int]]) -> str:
        """Attributes of the new photographs by the last part of their names; the first that has none, or nothing."""
        self._db.run("CREATE TABLE attributes (file BLOB PRIMARY KEY, bits INTEGER) WITHOUT ROWID")
        self._db.function("file", 1, lambda name: name.rpartition(b"/")[2])
        self._db.many("INSERT OR REPLACE INTO attributes VALUES (?, ?)", rows)
        missing = self._db.first(
            "SELECT name FROM photos WHERE new AND file(name) NOT IN (SELECT file FROM attributes) "
            "ORDER BY name LIMIT 1"
        )
        self._db.run(
            "UPDATE photos SET attributes = coalesce((SELECT bits FROM attributes WHERE file = file(name)), 0)"
        )
        return readable_path(missing[0]) if missing else ""

    def set_checksums(self, sums: Iterable[tuple[bytes, str]]) -> None:
        """SHA-256 by name."""
        self._db.many("UPDATE photos SET sha256 = ? WHERE name = ?", ((sha, name) for name, sha in sums))

    def mark_duplicates(self) -> int:
        """Marks new photographs whose bytes an earlier one has: one of the dataset, or one with a smaller path."""
        self._db.run(
            "CREATE TEMP TABLE firsts AS SELECT sha256, min(name) AS name FROM photos "
            "WHERE new AND sha256 <> '' GROUP BY sha256"
        )
        self._db.run("CREATE INDEX temp.by_sum ON firsts (sha256)")
        self._db.run(
            "UPDATE photos SET twin = 1 WHERE new AND sha256 <> '' AND ("
            "name <> (SELECT name FROM firsts WHERE firsts.sha256 = photos.sha256) "
            "OR sha256 IN (SELECT sha256 FROM known))"
        )
        self._db.run("DROP TABLE firsts")
        return self._db.number("SELECT sum(twin) FROM photos")

    def photos(self, split: str, first: bytes = b"", count: int = -1) -> Iterator[IndexedPhoto]:
        """New photographs of a split from a name on, sorted by path."""
        rows = self._db.rows(
            "SELECT name, size, place, label, part, split, twin, attributes FROM photos "
            "WHERE new AND split = ? AND name >= ? ORDER BY name LIMIT ?", split, first, count,
        )  # fmt: skip
        for name, size, place, label, part, of, twin, attributes in rows:
            entry = Entry(name, size, tuple(json.loads(place)) if place else (), label, part)
            yield IndexedPhoto(name[len(self.root) :], entry, of, bool(twin), attributes)

    def select_for_repair(self, chunk: int, rows: Iterable[tuple[str, bool]]) -> str:
        """Takes note of the photographs (path, twin) of a standing chunk; the first that is gone, or nothing."""
        self._db.many(
            "INSERT INTO again VALUES (?, ?, ?, ?)", ((chunk, i, path, twin) for i, (path, twin) in enumerate(rows))
        )
        if not self._has_paths:
            self._db.run("CREATE TABLE paths (path TEXT PRIMARY KEY, name BLOB) WITHOUT ROWID")
            self._db.run(f"INSERT OR IGNORE INTO paths SELECT {self._path}, name FROM photos")
            self._has_paths = True
        gone = self._db.first(
            "SELECT path FROM again WHERE chunk = ? AND path NOT IN (SELECT path FROM paths) ORDER BY place", chunk
        )
        return gone[0] if gone else ""

    def photos_for_repair(self, chunk: int, split: str) -> Iterator[IndexedPhoto]:
        """The photographs of a standing chunk in its order."""
        rows = self._db.rows(
            "SELECT name, size, photos.place, label, part, again.twin, attributes FROM again JOIN paths USING (path) "
            "JOIN photos USING (name) WHERE chunk = ? ORDER BY again.place", chunk,
        )  # fmt: skip
        for name, size, place, label, part, twin, attributes in rows:
            entry = Entry(name, size, tuple(json.loads(place)) if place else (), label, part)
            yield IndexedPhoto(name[len(self.root) :], entry, split, bool(twin), attributes)

    def close(self) -> None:
        self._db.close()


def _folders(name: bytes) -> Iterator[bytes]:
    """The folders that a file lies in, from the top (empty) down, each with its final slash."""
    yield b""
    at = name.find(b"/")
    while at >= 0:
        yield name[: at + 1]
        at = name.find(b"/", at + 1)

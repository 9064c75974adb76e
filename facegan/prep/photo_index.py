"""All photographs of a source, sorted by name, in a temporary SQLite database: none of them stays in memory.

SQLite and not DuckDB: to add to a million photographs takes 187 MB and not 291, at four fifths of the CPU time, and a
killed process leaves no file behind.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sqlite3
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from facegan.console import shown
from facegan.errors import DiskError, SourceError
from facegan.prep.sources.base import Entry, Ignored, MultiSource, Source, common_folder, listed
from facegan.shards.format import readable_path
from facegan.shards.photos import Fingerprint

_VOTERS = 1000  # photographs that vote for the folder below which paths are stored
_SCHEMA = """
    CREATE TABLE found (name BLOB, ascii INTEGER, size INTEGER, locator TEXT, label INTEGER, part TEXT);
    CREATE TABLE photos (name BLOB PRIMARY KEY, ascii INTEGER, size INTEGER, locator TEXT, label INTEGER, part TEXT,
                         new INTEGER DEFAULT 1, split TEXT DEFAULT '', sha256 TEXT DEFAULT '',
                         is_duplicate INTEGER DEFAULT 0, attributes INTEGER DEFAULT 0) WITHOUT ROWID;
    CREATE TABLE repairs (chunk INTEGER, place INTEGER, path TEXT, is_duplicate INTEGER, PRIMARY KEY (chunk, place))
                         WITHOUT ROWID;
    CREATE TABLE existing (path TEXT PRIMARY KEY, size INTEGER, sha256 TEXT, seen INTEGER DEFAULT 0) WITHOUT ROWID;
"""


class IndexedPhoto(NamedTuple):
    """A photograph to prepare: its path in the dataset, and its entry in the source."""

    path: bytes
    entry: Entry
    split: str
    is_duplicate: bool  # it has the bytes of a photograph before it
    attributes: int = 0  # as bits, see `facegan.prep.request`


class PhotoIndex:
    """All facts that a run needs about each photograph.

    Attributes:
        ignored: files that are not photographs, by suffix.
        root: the folder below which paths are stored.
    """

    def __init__(self, source: Source) -> None:
        """
        Raises:
            SourceError: the source cannot be listed.
        """
        self._source = source
        self._is_sorted = self._has_paths = False
        self.ignored = Ignored()
        self.root = b""
        self._db = TempDatabase(_SCHEMA)
        self._buffer = EntryBuffer(self._db)
        self._db.function("below", 1, lambda name: readable_path(name[len(self.root) :]))
        try:
            self._buffer.fill(listed(source, self.ignored))
        except BaseException:
            self._db.close()
            raise

    def __len__(self) -> int:
        return self._db.number("SELECT count(*) FROM photos") if self._is_sorted else self._buffer.count

    def close(self) -> None:
        self._db.close()

    def matches(self, count: int, fingerprint: str) -> bool:
        """Whether these are just the photographs of a dataset with this fingerprint. Five times as fast as `sort`."""
        if self._is_sorted or len(self) != count:
            return False
        self.root = self._buffer.root()
        return self._buffer.fingerprint() == fingerprint

    def sort(self, limit: int | None = None) -> None:
        """Sort the photographs by name, once; all methods below need it. Of a name the last entry counts.

        Args:
            limit: only the first so many are new.

        Raises:
            SourceError: a name is in two archives.
        """
        if self._is_sorted:
            return
        rows = (
            (name, name.isascii(), size, json.dumps(locator) if locator else None, label, part)
            for name, size, locator, label, part in self._buffer.rows()
        )
        self._db.many("INSERT INTO found VALUES (?, ?, ?, ?, ?, ?)", rows)
        self._db.run("DROP TABLE buffer")
        if isinstance(self._source, MultiSource):
            self._refuse_names_of_two_archives(self._source)
        # Sorted first and then inserted in order: a tree grows ten times as fast at its end as in its middle.
        self._db.run(
            "INSERT OR REPLACE INTO photos (name, ascii, size, locator, label, part) "
            "SELECT name, ascii, size, locator, label, part FROM found ORDER BY name, rowid"
        )
        self._db.run("DROP TABLE found")
        self._is_sorted = True
        if limit is not None:
            first = "SELECT name FROM photos ORDER BY name LIMIT ?"
            self._db.run(f"UPDATE photos SET new = 0 WHERE name NOT IN ({first})", limit)

    def _refuse_names_of_two_archives(self, source: MultiSource) -> None:
        number = "json_extract(locator, '$[0]')"
        repeated = self._db.first(
            f"SELECT name, min({number}) AS first, max({number}) AS last FROM found GROUP BY name "
            "HAVING first < last ORDER BY name LIMIT 1"
        )
        if repeated:
            name, first, last = repeated
            raise SourceError(
                f"{shown(readable_path(name))} is in {source.members[first].where} and in "
                f"{source.members[last].where}.\nPrepare them into two datasets: names must differ within one."
            )

    def names(self) -> Iterator[bytes]:
        """All of them, sorted."""
        self.sort()
        return (name for (name,) in self._db.rows("SELECT name FROM photos ORDER BY name"))

    def set_root(self, existing: bool) -> None:
        """Find the folder below which paths are stored: the deepest common one at first, later the one it was then.

        It follows from the paths alone, so that an archive and a folder of the same photographs give the same dataset.

        Raises:
            SourceError: a photograph is outside that folder.
        """
        self.sort()
        votes = (self._votes(max(1, len(self) // _VOTERS)) or self._votes(1)) if existing else None
        if votes:
            self.root = max(sorted(votes), key=votes.__getitem__)
            self._refuse_outside()
        else:
            self.root = self._buffer.root()

    def _votes(self, step: int) -> Counter[bytes]:
        """Folders below which every step-th photograph has an existing path, with the number of such photographs."""
        votes: Counter[bytes] = Counter()
        for name in itertools.islice(self.names(), None, None, step):
            for prefix in _folders(name):
                path = readable_path(name[len(prefix) :])
                votes[prefix] += self._db.number("SELECT count(*) FROM existing WHERE path = ?", path)
        return +votes

    def _refuse_outside(self) -> None:
        outside = self._db.first(
            "SELECT name FROM photos WHERE substr(name, 1, ?) <> ? ORDER BY name LIMIT 1", len(self.root), self.root
        )
        if self.root and outside:
            raise SourceError(
                f"{shown(readable_path(outside[0]))} is outside {shown(readable_path(self.root))}, the folder that the "
                f"first prep fixed.\nPrepare it into another OUT, or add --force to delete this one and prepare again."
            )

    @property
    def _path(self) -> str:
        """SQL for the path in the dataset. A Python function for each would take longer than the rest of a query."""
        return f"CASE ascii WHEN 1 THEN CAST(substr(name, {len(self.root) + 1}) AS TEXT) ELSE below(name) END"

    def add_existing(self, rows: Iterable[tuple[str, int, str]]) -> None:
        """Path, size and SHA-256 of the photographs that the dataset accounts for already."""
        self._db.many("INSERT OR REPLACE INTO existing (path, size, sha256) VALUES (?, ?, ?)", rows)

    def exclude_existing(self) -> None:
        """Photographs that the dataset accounts for are not new. Needs `set_root`."""
        self._db.run(f"UPDATE photos SET new = 0 WHERE {self._path} IN (SELECT path FROM existing)")
        self._db.run(f"UPDATE existing SET seen = 1 WHERE path IN (SELECT {self._path} FROM photos WHERE new = 0)")

    def changed(self) -> tuple[str, int, int] | None:
        """Path, size then and size now of the first existing photograph whose size has changed."""
        return self._db.first(
            f"SELECT path, existing.size, photos.size FROM photos JOIN existing ON path = {self._path} "
            "WHERE new = 0 AND photos.size > 0 AND existing.size <> photos.size ORDER BY name LIMIT 1"
        )

    def missing(self) -> tuple[int, str]:
        """Number of existing photographs that the source no longer has, and the first of them."""
        count, first = self._db.first("SELECT count(*), min(path) FROM existing WHERE seen = 0") or (0, None)
        return count, first or ""

    def split_by(self, split_of: Callable[[bytes, str], str]) -> None:
        """Give every new photograph its split, by its path and the source's part; raises as ``split_of`` does."""
        self._db.function("split_of", 2, lambda name, part: split_of(name[len(self.root) :], part))
        self._db.run("UPDATE photos SET split = split_of(name, part) WHERE new")

    def set_attributes(self, rows: Iterable[tuple[bytes, int]]) -> str:
        """Set the photographs' attributes by the last part of their names.

        Returns:
            The first new photograph without attributes, or an empty string.
        """
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

    def set_checksums(self, checksums: Iterable[tuple[bytes, str]]) -> None:
        """SHA-256 by name; empty where it is unknown."""
        self._db.many("UPDATE photos SET sha256 = ? WHERE name = ?", ((sha, name) for name, sha in checksums))

    def mark_duplicates(self) -> int:
        """Mark new photographs with the bytes of an earlier one: in the dataset, or with a smaller name."""
        self._db.run(
            "CREATE TEMP TABLE firsts AS SELECT sha256, min(name) AS name FROM photos "
            "WHERE new AND sha256 <> '' GROUP BY sha256"
        )
        self._db.run("CREATE INDEX temp.by_sha256 ON firsts (sha256)")
        self._db.run(
            "UPDATE photos SET is_duplicate = 1 WHERE new AND sha256 <> '' AND ("
            "name <> (SELECT name FROM firsts WHERE firsts.sha256 = photos.sha256) "
            "OR sha256 IN (SELECT sha256 FROM existing))"
        )
        self._db.run("DROP TABLE firsts")
        return self._db.number("SELECT sum(is_duplicate) FROM photos")

    def photos(self, split: str, first: bytes = b"", count: int = -1) -> Iterator[IndexedPhoto]:
        """New photographs of a split from a name on, sorted by path."""
        return self._photos(
            "SELECT name, size, locator, label, part, split, is_duplicate, attributes FROM photos "
            "WHERE new AND split = ? AND name >= ? ORDER BY name LIMIT ?", split, first, count,
        )  # fmt: skip

    def select_for_repair(self, chunk: int, rows: Iterable[tuple[str, bool]]) -> str:
        """Note the photographs (path, is_duplicate) of an existing chunk.

        Returns:
            The first photograph that the source no longer has, or an empty string.
        """
        numbered = ((chunk, place, path, is_duplicate) for place, (path, is_duplicate) in enumerate(rows))
        self._db.many("INSERT INTO repairs VALUES (?, ?, ?, ?)", numbered)
        if not self._has_paths:
            self._db.run("CREATE TABLE paths (path TEXT PRIMARY KEY, name BLOB) WITHOUT ROWID")
            self._db.run(f"INSERT OR IGNORE INTO paths SELECT {self._path}, name FROM photos")
            self._has_paths = True
        missing = self._db.first(
            "SELECT path FROM repairs WHERE chunk = ? AND path NOT IN (SELECT path FROM paths) ORDER BY place", chunk
        )
        return missing[0] if missing else ""

    def photos_for_repair(self, chunk: int, split: str) -> Iterator[IndexedPhoto]:
        """The photographs of an existing chunk in its order."""
        return self._photos(
            "SELECT name, size, photos.locator, label, part, ?, repairs.is_duplicate, attributes "
            "FROM repairs JOIN paths USING (path) JOIN photos USING (name) WHERE chunk = ? ORDER BY repairs.place",
            split, chunk,
        )  # fmt: skip

    def _photos(self, query: str, *values: object) -> Iterator[IndexedPhoto]:
        for name, size, locator, label, part, split, is_duplicate, attributes in self._db.rows(query, *values):
            entry = Entry(name, size, tuple(json.loads(locator)) if locator else (), label, part)
            yield IndexedPhoto(name[len(self.root) :], entry, split, bool(is_duplicate), attributes)


def _folders(name: bytes) -> Iterator[bytes]:
    """The folders of a file from the top (empty) down, each with its final slash."""
    yield b""
    at = name.find(b"/")
    while at >= 0:
        yield name[: at + 1]
        at = name.find(b"/", at + 1)


class EntryBuffer:
    """Entries as they were listed, packed into blobs of thousands.

    A run without new photographs needs no more of them, and a table with a row for each takes three times as long to
    write.
    """

    _AT_ONCE = 5_000

    def __init__(self, db: TempDatabase) -> None:
        self._db = db
        self._db.run("CREATE TABLE buffer (ends BLOB, names BLOB, sizes BLOB, rest TEXT)")
        self.count = 0
        self._first, self._last = b"", b""

    def fill(self, entries: Iterator[Entry]) -> None:
        self._db.many("INSERT INTO buffer VALUES (?, ?, ?, ?)", self._packed(entries))

    def _packed(self, entries: Iterator[Entry]) -> Iterator[tuple[bytes, bytes, bytes, str | None]]:
        while batch := list(itertools.islice(entries, self._AT_ONCE)):
            names, sizes, locators, labels, parts = zip(*batch, strict=True)
            first, last = min(names), max(names)
            self._first = min(self._first, first) if self.count else first
            self._last = max(self._last, last)
            self.count += len(batch)
            has_rest = any(locators) or any(labels) or any(parts)
            ends = array("Q", itertools.accumulate(map(len, names)))
            rest = json.dumps([locators, labels, parts]) if has_rest else None
            yield ends.tobytes(), b"".join(names), array("q", sizes).tobytes(), rest

    def rows(self) -> Iterator[tuple[bytes, int, list[int], int, str]]:
        """The fields of every entry, in the order in which they were listed."""
        for ends, names, sizes, rest in self._blobs():
            split_names = (names[start:end] for start, end in itertools.pairwise([0, *ends]))
            if rest:
                yield from zip(split_names, sizes, *json.loads(rest), strict=True)
            else:
                yield from ((name, size, [], 0, "") for name, size in zip(split_names, sizes, strict=True))

    def _blobs(self) -> Iterator[tuple[array, bytes, array, str | None]]:
        for number in itertools.count(1):
            blob = self._db.first("SELECT ends, names, sizes, rest FROM buffer WHERE rowid = ?", number)
            if blob is None:
                return
            ends, names, sizes, rest = blob
            yield array("Q", ends), names, array("q", sizes), rest

    def root(self) -> bytes:
        """The deepest folder that holds all of them."""
        return common_folder(self._first, self._last)

    def fingerprint(self) -> str:
        """Of paths below the root, and sizes."""
        found, below = Fingerprint(), len(self.root())
        for ends, names, sizes, _ in self._blobs():
            borders = itertools.pairwise([0, *ends])
            if names.isascii():  # a name is as long in characters as in bytes
                text = names.decode()
                paths = [text[start + below : end] for start, end in borders]
            else:
                paths = [readable_path(names[start + below : end]) for start, end in borders]
            found.add_photos(zip(paths, sizes, strict=True))
        return str(found)


class TempDatabase:
    """A private SQLite database: in memory while it is small, then in an unnamed file, which a killed process loses.

    Queries can be interrupted, and a full disk is explained.
    """

    _FETCH_ROWS = 1000
    _STEPS = 50_000  # of SQLite's machine between checks for Ctrl-C: some milliseconds
    # SQLite's message in place of an exception raised by a function that it called.
    _HIDDEN = ("interrupted", "user-defined function raised exception")

    def __init__(self, schema: str) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._raised: list[Exception] = []  # by Python functions
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "temp_store=FILE", "cache_size=-32000"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(schema)
        # A signal's handler runs with the next line of Python: without this one, after a query of a minute.
        self._db.set_progress_handler(lambda: None, self._STEPS)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """
        Raises:
            KeyboardInterrupt: Ctrl-C during a query.
            DiskError: the temporary file cannot grow.
        """
        try:
            yield
        except sqlite3.OperationalError as error:
            if self._raised:
                raise self._raised.pop() from None
            if str(error) in self._HIDDEN:
                raise KeyboardInterrupt from None
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
                raise DiskError(
                    f"The photo index does not fit into the folder for temporary files, {_temporary_folder()} "
                    f"({error}).\nFree some space (about 200 bytes per photograph), or set TMPDIR=FOLDER."
                ) from None
            raise

    def function(self, name: str, arguments: int, function: Callable[..., Any]) -> None:
        """Add a function to SQL; queries raise what it raises."""

        def guarded(*values: Any) -> Any:
            try:
                return function(*values)
            except Exception as error:
                self._raised[:] = [error]
                raise

        self._db.create_function(name, arguments, guarded, deterministic=True)

    def run(self, query: str, *values: object) -> None:
        with self._errors():
            self._db.execute(query, values)

    def many(self, query: str, rows: Iterable[tuple]) -> None:
        """Run the query for each row, in one transaction."""
        with self._errors():
            self._db.execute("BEGIN")
            self._db.executemany(query, rows)
            self._db.execute("COMMIT")

    def first(self, query: str, *values: object) -> tuple | None:
        with self._errors():
            return self._db.execute(query, values).fetchone()

    def number(self, query: str, *values: object) -> int:
        found = self.first(query, *values)
        return int(found[0] or 0) if found else 0

    def rows(self, query: str, *values: object) -> Iterator[tuple]:
        with self._errors():
            cursor = self._db.execute(query, values)
        while True:
            with self._errors():
                rows = cursor.fetchmany(self._FETCH_ROWS)
            if not rows:
                return
            yield from rows

    def close(self) -> None:
        self._db.close()


def _temporary_folder() -> str:
    """Where SQLite puts temporary files (https://www.sqlite.org/tempfiles.html, section 5)."""
    named = (os.environ.get("SQLITE_TMPDIR", ""), os.environ.get("TMPDIR", ""))
    folders = (*named, "/var/tmp", "/usr/tmp", "/tmp")
    return next((folder for folder in folders if os.access(folder, os.W_OK | os.X_OK)), ".")

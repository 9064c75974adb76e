"""All photographs of a source, sorted by name, on disk: a run over millions of them keeps none of them in memory."""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from facegan.errors import SourceError
from facegan.prep.sources.base import Entry, Source, common_folder, reachable
from facegan.shards.layout import readable_path

_SCHEMA = """
    CREATE TABLE found (name BLOB, size INTEGER, place TEXT, label INTEGER, part TEXT);
    CREATE TABLE photos (name BLOB PRIMARY KEY, size INTEGER, place TEXT, label INTEGER, part TEXT,
                         new INTEGER DEFAULT 1, split TEXT DEFAULT '', sha256 TEXT DEFAULT '', twin INTEGER DEFAULT 0)
                        WITHOUT ROWID;
    CREATE TABLE again (chunk INTEGER, place INTEGER, path TEXT, twin INTEGER, PRIMARY KEY (chunk, place))
                       WITHOUT ROWID;
    CREATE TABLE known (path TEXT PRIMARY KEY, size INTEGER, sha256 TEXT, seen INTEGER DEFAULT 0) WITHOUT ROWID;
"""
_TAKE = 1000  # rows that are fetched at once


class Photo(NamedTuple):
    """A photograph that is to be prepared: its path in the dataset, and its entry in the source."""

    path: bytes
    entry: Entry
    split: str
    twin: bool  # the bytes of a photograph before it: a duplicate


class Catalogue:
    """A private SQLite database: SQLite keeps it in memory while it is small, and in a temporary file else."""

    def __init__(self, source: Source, limit: int | None = None) -> None:
        """
        Raises:
            SourceError: the source can't be listed, or a name stands in two of its archives.
        """
        self.ignored: Counter[str] = Counter()
        self.root = b""  # the folder below which paths are told
        self._db = sqlite3.connect("", isolation_level=None)
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "temp_store=FILE", "cache_size=-32000"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(_SCHEMA)
        self._db.create_function("below", 1, lambda name: readable_path(name[len(self.root) :]), deterministic=True)
        with reachable(source.where):
            self._fill(source, limit)

    def _fill(self, source: Source, limit: int | None) -> None:
        rows = (
            (name, size, json.dumps(place) if place else None, label, part)
            for name, size, place, label, part in source.photos(self.ignored)
        )
        self._db.execute("BEGIN")
        self._db.executemany("INSERT INTO found VALUES (?, ?, ?, ?, ?)", rows)
        self._refuse_names_of_two_archives(source)
        # Sorted first and then inserted in order: a tree grows ten times as fast at its end as in its middle.
        self._db.execute(
            "INSERT OR REPLACE INTO photos (name, size, place, label, part) "
            "SELECT name, size, place, label, part FROM found ORDER BY name, rowid"
        )
        self._db.execute("DROP TABLE found")
        if limit is not None:  # the others are there, and not wanted now
            first = "SELECT name FROM photos ORDER BY name LIMIT ?"
            self._db.execute(f"UPDATE photos SET new = 0 WHERE name NOT IN ({first})", (limit,))
        self._db.execute("COMMIT")

    def _refuse_names_of_two_archives(self, source: Source) -> None:
        archives = getattr(source, "members", ())
        if len(archives) < 2:
            return
        twice = self._db.execute(
            "SELECT name, min(place ->> 0), max(place ->> 0) FROM found GROUP BY name "
            "HAVING min(place ->> 0) < max(place ->> 0) ORDER BY name LIMIT 1"
        ).fetchone()
        if twice:
            name, first, last = twice
            raise SourceError(
                f"{readable_path(name)} stands in {archives[first].where} and in {archives[last].where}.\n"
                f"Prepare them into datasets of their own: names have to differ within one."
            )

    def __len__(self) -> int:
        return self._one("SELECT count(*) FROM photos")

    def _one(self, query: str, *values: object) -> int:
        return int(self._db.execute(query, values).fetchone()[0] or 0)

    def names(self) -> Iterator[bytes]:
        """All of them, sorted."""
        return (name for (name,) in self._rows("SELECT name FROM photos ORDER BY name"))

    def _rows(self, query: str, *values: object) -> Iterator[tuple]:
        cursor = self._db.execute(query, values)
        while rows := cursor.fetchmany(_TAKE):
            yield from rows

    def set_root(self, known: bool) -> None:
        """Finds the folder below which paths are told: the deepest common one at first, later the one that was it then.

        It follows from the paths themselves, so that nothing but the dataset has to be kept: an archive and a folder of
        the same photographs give the same dataset.
        """
        if known:
            votes = self._votes(max(1, len(self) // _TAKE)) or self._votes(1)
            if votes:
                self.root = max(sorted(votes), key=votes.__getitem__)
                self._refuse_outside()
                return
        first, last = self._db.execute("SELECT min(name), max(name) FROM photos").fetchone()
        self.root = common_folder(first, last)

    def _votes(self, step: int) -> Counter[bytes]:
        """Folders below which a photograph has a known path, with the number of such photographs, of every step-th."""
        votes: Counter[bytes] = Counter()
        for name in itertools.islice(self.names(), None, None, step):
            for prefix in _folders(name):
                if self._one("SELECT count(*) FROM known WHERE path = ?", readable_path(name[len(prefix) :])):
                    votes[prefix] += 1
        return votes

    def _refuse_outside(self) -> None:
        outside = self._db.execute(
            "SELECT name FROM photos WHERE substr(name, 1, ?) <> ? ORDER BY name LIMIT 1", (len(self.root), self.root)
        ).fetchone()
        if self.root and outside:
            raise SourceError(
                f"{readable_path(outside[0])} lies outside {readable_path(self.root)}, the folder that the first prep "
                f"fixed.\nPrepare it into a dataset of its own, or make this one anew with --force."
            )

    def add_known(self, rows: Iterable[tuple[str, int, str]]) -> None:
        """Path, size and SHA-256 of what the dataset accounts for already."""
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR REPLACE INTO known (path, size, sha256) VALUES (?, ?, ?)", rows)
        self._db.execute("COMMIT")

    def mark_known(self) -> None:
        """Tells new photographs from those that the dataset holds (once `set_root` was called)."""
        self._db.execute("UPDATE photos SET new = 0 WHERE below(name) IN (SELECT path FROM known)")
        self._db.execute("UPDATE known SET seen = 1 WHERE path IN (SELECT below(name) FROM photos WHERE new = 0)")

    def changed(self) -> tuple[str, int, int] | None:
        """Path, size then and size now of the first known photograph whose size is another one."""
        return self._db.execute(
            "SELECT path, known.size, photos.size FROM photos JOIN known ON path = below(name) "
            "WHERE new = 0 AND photos.size > 0 AND known.size <> photos.size ORDER BY name LIMIT 1"
        ).fetchone()

    def gone(self) -> tuple[int, str]:
        """How many known photographs are not in the source any more, and the first of them."""
        count = self._one("SELECT count(*) FROM known WHERE seen = 0")
        first = self._db.execute("SELECT path FROM known WHERE seen = 0 ORDER BY path LIMIT 1").fetchone()
        return count, first[0] if first else ""

    def split_by(self, split_of: Callable[[bytes, str], str]) -> None:
        """Gives every new photograph its split, by its path and the source's part.

        Raises:
            SourceError: as ``split_of`` does.
        """
        problems: list[SourceError] = []  # SQLite would only say that a function raised something

        def told(name: bytes, part: str) -> str:
            try:
                return split_of(name[len(self.root) :], part)
            except SourceError as error:
                problems.append(error)
                raise

        self._db.create_function("split_of", 2, told, deterministic=True)
        try:
            self._db.execute("UPDATE photos SET split = split_of(name, part) WHERE new")
        except sqlite3.OperationalError:
            raise problems[0] if problems else AssertionError("split_of failed") from None

    def set_sums(self, sums: Iterable[tuple[bytes, str]]) -> None:
        """SHA-256 by name."""
        self._db.execute("BEGIN")
        self._db.executemany("UPDATE photos SET sha256 = ? WHERE name = ?", ((sha, name) for name, sha in sums))
        self._db.execute("COMMIT")

    def mark_twins(self) -> int:
        """Marks new photographs whose bytes an earlier one has: one of the dataset, or one with a smaller path."""
        self._db.executescript(
            """
            CREATE TEMP TABLE firsts AS SELECT sha256, min(name) AS name FROM photos
                WHERE new AND sha256 <> '' GROUP BY sha256;
            CREATE INDEX temp.by_sum ON firsts (sha256);
            UPDATE photos SET twin = 1 WHERE new AND sha256 <> '' AND (
                name <> (SELECT name FROM firsts WHERE firsts.sha256 = photos.sha256)
                OR sha256 IN (SELECT sha256 FROM known));
            DROP TABLE firsts;
            """
        )
        return self._one("SELECT sum(twin) FROM photos")

    @property
    def new(self) -> int:
        return self._one("SELECT count(*) FROM photos WHERE new")

    def photos(self, split: str, first: bytes = b"", count: int = -1) -> Iterator[Photo]:
        """New photographs of a split from a name on, sorted by path."""
        rows = self._rows(
            "SELECT name, size, place, label, part, split, twin FROM photos WHERE new AND split = ? AND name >= ? "
            "ORDER BY name LIMIT ?", split, first, count,
        )  # fmt: skip
        for name, size, place, label, part, of, twin in rows:
            entry = Entry(name, size, tuple(json.loads(place)) if place else (), label, part)
            yield Photo(name[len(self.root) :], entry, of, bool(twin))

    def ask_again(self, chunk: int, rows: Iterable[tuple[str, bool]]) -> str:
        """Takes note of the photographs (path, twin) of a standing chunk; the first that is gone, or nothing."""
        self._db.executemany(
            "INSERT INTO again VALUES (?, ?, ?, ?)", ((chunk, i, path, twin) for i, (path, twin) in enumerate(rows))
        )
        self._db.execute("CREATE TABLE IF NOT EXISTS paths (path TEXT PRIMARY KEY, name BLOB) WITHOUT ROWID")
        if not self._one("SELECT count(*) FROM paths"):
            self._db.execute("INSERT OR IGNORE INTO paths SELECT below(name), name FROM photos")
        gone = self._db.execute(
            "SELECT path FROM again WHERE chunk = ? AND path NOT IN (SELECT path FROM paths) ORDER BY place", (chunk,)
        ).fetchone()
        return gone[0] if gone else ""

    def photos_again(self, chunk: int, split: str) -> Iterator[Photo]:
        """The photographs of a standing chunk in its order."""
        rows = self._rows(
            "SELECT name, size, photos.place, label, part, again.twin FROM again JOIN paths USING (path) "
            "JOIN photos USING (name) WHERE chunk = ? ORDER BY again.place", chunk,
        )  # fmt: skip
        for name, size, place, label, part, twin in rows:
            entry = Entry(name, size, tuple(json.loads(place)) if place else (), label, part)
            yield Photo(name[len(self.root) :], entry, split, bool(twin))

    def close(self) -> None:
        self._db.close()


def _folders(name: bytes) -> Iterator[bytes]:
    """The folders that a file lies in, from the top (empty) down, each with its final slash."""
    yield b""
    at = name.find(b"/")
    while at >= 0:
        yield name[: at + 1]
        at = name.find(b"/", at + 1)

"""A private SQLite database in a temporary file: its work can be interrupted, and its full disk gets a sentence."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from facegan.errors import DiskError

_TAKE = 1000  # rows that are fetched at once
_BREATHE = 50_000  # steps of SQLite's machine between looks for Ctrl-C: some milliseconds
# What SQLite says in place of an exception that was raised in a function called by it.
_HIDDEN = ("interrupted", "user-defined function raised exception")


class TempDatabase:
    """SQLite keeps it in memory while it is small, and in a file that has no name else: nothing is left by a kill."""

    def __init__(self, schema: str, cache_kb: int = 32_000) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._raised: list[Exception] = []  # by functions of ours
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "temp_store=FILE", f"cache_size=-{cache_kb}"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(schema)
        # A signal's handler runs in the next line of Python. Without this one a query of a minute would come first.
        self._db.set_progress_handler(lambda: None, _BREATHE)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """
        Raises:
            KeyboardInterrupt: while SQLite worked.
            DiskError: the temporary file can't grow.
        """
        try:
            yield
        except sqlite3.OperationalError as error:
            if self._raised:
                raise self._raised.pop() from None
            if str(error) in _HIDDEN:
                raise KeyboardInterrupt from None
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
                raise DiskError(
                    f"The list of photographs does not fit into the folder for temporary files, {_temporary_folder()} "
                    f"({error}).\nMake room (about 200 bytes a photograph), or name another with TMPDIR=FOLDER."
                ) from None
            raise

    def function(self, name: str, arguments: int, function: Callable[..., Any]) -> None:
        """Makes a function known to queries; what it raises is raised by them."""

        def told(*values: Any) -> Any:
            try:
                return function(*values)
            except Exception as error:
                self._raised[:] = [error]
                raise

        self._db.create_function(name, arguments, told, deterministic=True)

    def run(self, query: str, *values: object) -> None:
        with self._told():
            self._db.execute(query, values)

    def many(self, query: str, rows: Iterable[tuple]) -> None:
        """The query for each row, in one transaction."""
        with self._told():
            self._db.execute("BEGIN")
            self._db.executemany(query, rows)
            self._db.execute("COMMIT")

    def first(self, query: str, *values: object) -> tuple | None:
        with self._told():
            return self._db.execute(query, values).fetchone()

    def number(self, query: str, *values: object) -> int:
        found = self.first(query, *values)
        return int(found[0] or 0) if found else 0

    def rows(self, query: str, *values: object) -> Iterator[tuple]:
        with self._told():
            cursor = self._db.execute(query, values)
        while True:
            with self._told():
                rows = cursor.fetchmany(_TAKE)
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

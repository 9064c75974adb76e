"""A user's condition on samples: one SQL expression, evaluated by DuckDB without access to files or the network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from facegan.console import shown
from facegan.errors import SettingsError
from facegan.shards.detections import SAMPLES

_LOCKED: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "lock_configuration": "true",
    "threads": "1",
}


class Where:
    """A condition on samples, checked when it is made: SettingsError if the text is not one.

    Samples have the columns of ``schema``: `SAMPLES`, and perhaps attributes. The text is parsed as one expression, so
    that it cannot end the query around it. It may not use other tables, nor functions whose results change.
    """

    def __init__(self, text: str, schema: pa.Schema = SAMPLES) -> None:
        self._names = schema.names
        self._number = "n" * (1 + max(map(len, schema.names)))  # a column's name that no other can have
        self.text, self._shown = text, text if len(text) < 200 else f"{text[:200]}…"
        self._connection = duckdb.connect(":memory:", config=_LOCKED)
        try:
            self._expression = duckdb.SQLExpression(text)
            nodes = list(_nodes(self._parsed()))
            self.columns = {name.lower() for node in nodes for name in node.get("column_names", ())}
            self._refuse_unstable(nodes)
            empty = self._relation(schema.empty_table())
            kind = str(empty.select(self._expression).types[0])
            list(empty.filter(self._expression).fetchall())
        except duckdb.Error as error:
            raise self._settings_error(error) from None
        except (RecursionError, UnicodeEncodeError, TypeError):  # TypeError: text that is not UTF-8
            raise SettingsError(f"--where {self._shown!r} is not an expression.") from None
        if kind != "BOOLEAN":
            raise SettingsError(f"--where {self._shown} is {kind}, but must be true or false. Example: score > 0.8")

    def fits(self, samples: pa.Table) -> np.ndarray:
        """Indices of the matching rows of ``samples``, ascending. SettingsError if one has none."""
        try:
            found = self._relation(samples).filter(self._expression).project(self._number).fetchall()
        except duckdb.Error as error:
            raise self._settings_error(error) from None
        return np.sort(np.array([number for (number,) in found], np.int64))

    def _relation(self, samples: pa.Table) -> duckdb.DuckDBPyRelation:
        return self._connection.from_arrow(samples.append_column(self._number, pa.array(np.arange(len(samples)))))

    def _parsed(self) -> Any:
        query = f"SELECT * FROM samples WHERE ({self.text}\n)"  # the line break ends a comment
        found = self._connection.execute("SELECT json_serialize_sql(?)", [query]).fetchone()
        statements = json.loads(found[0]).get("statements", []) if found else []
        if len(statements) != 1:
            raise duckdb.ParserException("not one expression")
        return statements[0]["node"]["where_clause"]

    def _refuse_unstable(self, nodes: list[dict[str, Any]]) -> None:
        query = "SELECT DISTINCT function_name FROM duckdb_functions() WHERE stability <> 'CONSISTENT'"
        unstable = {name for (name,) in self._connection.execute(query).fetchall()}
        called = unstable & {str(node.get("function_name")) for node in nodes}
        called |= {name for name in self.columns if name.startswith(("current_", "local"))}
        if called:
            raise SettingsError(
                f"--where {self._shown}: {min(called)} changes from run to run, but a dataset must not.\n"
                "For a random part of the samples use, for example, hash(key) % 10 = 0."
            )
        if self._number in self.columns or any(node.get("class") in ("SUBQUERY", "STAR") for node in nodes):
            raise SettingsError(f"--where {self._shown} must be one condition on columns, without SELECT or *.")

    def _settings_error(self, error: duckdb.Error) -> SettingsError:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        names = ", ".join(map(shown, self._names))
        return SettingsError(f"--where {self._shown}: {why.partition(': ')[2] or why}\nThe columns are {names}.")


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object in a parsed expression."""
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            yield node
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)

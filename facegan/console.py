"""What people see while work goes on: everything here writes to stderr; stdout is for results alone."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from typing import Any, Protocol


class Progress(Protocol):
    """A bar, or the lines that stand for it where there is no terminal."""

    def advance(self, count: int, note: str = "") -> None: ...


class Console:
    """Notes, warnings and progress on stderr. ``Console(quiet=True)`` prints warnings alone."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet

    def note(self, text: str) -> None:
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        print(f"warning: {text}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def progress(self, total: int, unit: str, done: int = 0) -> Iterator[Progress]:
        """Progress over ``total`` units, ``done`` of them before; the rate counts only what this run does."""
        if self.quiet:
            yield _Silent()
        elif sys.stderr.isatty():
            with _Bar(total, unit, done) as bar:
                yield bar
        else:
            lines = _Lines(total, unit, done)
            yield lines
            lines.last()


class _Silent:
    def advance(self, count: int, note: str = "") -> None:
        pass


class _Lines:
    """A line every ten seconds: for logs, CI and pipes."""

    every_seconds = 10.0
    worth_seconds = 2.0

    def __init__(self, total: int, unit: str, done: int) -> None:
        self.total, self.unit, self.done, self.before, self.note = total, unit, done, done, ""
        self.start = self.printed = time.monotonic()
        self.said = done

    def advance(self, count: int, note: str = "") -> None:
        self.done += count
        self.note = note or self.note
        if time.monotonic() - self.printed > self.every_seconds:
            self._print()

    def last(self) -> None:
        """The sum of it, unless it was over before anyone could have wondered."""
        if self.done > self.said and time.monotonic() - self.start > self.worth_seconds:
            self._print()

    def _print(self) -> None:
        self.printed, self.said = time.monotonic(), self.done
        rate = max(self.done - self.before, 0) / max(self.printed - self.start, 1e-9)
        left = (self.total - self.done) / rate if rate else 0.0
        parts = [f"{self.done:,} of {self.total:,} {self.unit}", f"{rate:,.0f}/s", f"{human_seconds(left)} left"]
        print(" · ".join(parts + ([self.note] if self.note else [])), file=sys.stderr, flush=True)


class _Bar:
    """rich's bar, with rate and time left."""

    def __init__(self, total: int, unit: str, done: int) -> None:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self.before, self.done, self.unit, self.start, self.note = done, done, unit, time.monotonic(), ""
        self.progress = RichProgress(
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=RichConsole(stderr=True),
        )
        self.task = self.progress.add_task(unit, total=total, completed=done, rate="", note="")

    def __enter__(self) -> _Bar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def advance(self, count: int, note: str = "") -> None:
        self.done += count
        self.note = note or self.note
        rate = max(self.done - self.before, 0) / max(time.monotonic() - self.start, 1e-9)
        self.progress.update(self.task, completed=self.done, rate=f"{rate:,.0f} {self.unit}/s", note=self.note)


def print_result(text: str) -> None:
    """The result of a command, on stdout."""
    print(text, flush=True)


def print_json(value: Any) -> None:
    """The result of a command as one JSON object, on stdout: UTF-8, also where names of files are none."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(value)  # bytes that are no text stand as \\udcXX, of which os.fsencode makes them again
    print(text, flush=True)


def print_table(columns: list[str], rows: list[list[str]], title: str = "") -> None:
    """A table on stdout; plain text where stdout is no terminal."""
    from rich.console import Console as RichConsole
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        *map(escape, columns),
        title=title or None,
        title_justify="left",
        box=None if not sys.stdout.isatty() else _box(),
    )
    for row in rows:
        table.add_row(*map(escape, row))
    # Scripts read whole values: only a terminal has a width to fit.
    RichConsole(width=None if sys.stdout.isatty() else 1000).print(table)


def print_bars(title: str, rows: list[tuple[str, int]], width: int = 40) -> None:
    """A histogram on stdout: a bar for each label, the longest ``width`` letters."""
    letter = "█" if "utf" in (sys.stdout.encoding or "").lower() else "#"
    most, margin = max(count for _, count in rows), max(len(label) for label, _ in rows)
    bars = [f"{label:>{margin}}  {letter * -(-count * width // most):{width}}  {count:,}" for label, count in rows]
    print("\n".join(["", title, *bars]), flush=True)


def _box() -> Any:
    from rich import box

    return box.SIMPLE_HEAD


def human_seconds(seconds: float) -> str:
    """``"8 s"``, ``"12 min"``, ``"3.4 h"``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

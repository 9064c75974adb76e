"""Everything that reaches the terminal: results on stdout; messages and progress on stderr.

File names, settings in files and texts of libraries may hold control characters; they are shown as ``\\x1b`` and so on.
A line break inside a message, a table cell or a result is data and is shown too, so several lines are passed as several
arguments. Only errors may hold line breaks; their continuation lines are indented, so that no text can pass for another
message.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Protocol

# C0 and C1 controls, characters that reorder or break lines, and lone surrogates (bytes that are not UTF-8).
_UNSAFE = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_IN_LINES = re.compile(f"[{_UNSAFE}]")
_IN_TEXTS = re.compile(f"(?!\n)[{_UNSAFE}]")
_IN_RESULTS = re.compile(f"(?![\udca0-\udcff])[{_UNSAFE}]")  # bytes from A0 up stay, so that scripts can use paths
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_EXPLANATION = 24  # columns with cells longer than this may wrap at spaces
_INDENT = "    "


def shown(text: object) -> str:
    """``text`` on one line; characters that a terminal obeys or a reader cannot see become escapes."""
    return _IN_LINES.sub(_escape, str(text))


def show_breaks(text: str, data: Iterable[object]) -> str:
    """Escape the line breaks that come from data in a message of several lines.

    Args:
        data: values that the message may repeat.
    """
    for value in sorted({value for value in data if isinstance(value, str) and "\n" in value}, key=len, reverse=True):
        text = text.replace(value, shown(value))
    return text


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00  # the byte that was not UTF-8
    return _SHORT.get(found[0]) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


class _Escaping(io.TextIOWrapper):
    """stderr, with escapes, for libraries too."""

    def write(self, text: str, /) -> int:
        super().write(_IN_TEXTS.sub(_escape, text))
        return len(text)


@contextlib.contextmanager
def guarded_stderr() -> Iterator[None]:
    """Escape everything that this process writes to ``sys.stderr``."""
    before = sys.stderr
    if not isinstance(before, io.TextIOWrapper):  # it is closed
        yield
        return
    guard = sys.stderr = _Escaping(before.buffer, before.encoding, "backslashreplace", line_buffering=True)
    try:
        yield
    finally:
        sys.stderr = before  # click may have wrapped the guard after a pipe was closed
        with contextlib.suppress(OSError, ValueError):  # ValueError: it was closed
            guard.detach()  # flushes; otherwise its destructor would close the underlying stream


class Progress(Protocol):
    """A progress bar, or lines where stderr is not a terminal."""

    def advance(self, count: int, note: str = "") -> None: ...


class Console:
    """Notes, warnings and progress on stderr. ``Console(quiet=True)`` prints only warnings."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet

    def note(self, *lines: str) -> None:
        if not self.quiet:
            _print_message("", lines)

    def warn(self, *lines: str) -> None:
        _print_message("warning: ", lines)

    @contextlib.contextmanager
    def progress(self, total: int, unit: str, done: int = 0) -> Iterator[Progress]:
        """Progress over ``total`` units, ``done`` of them by an earlier run, which the rate does not count."""
        if self.quiet or done >= total or _Bar.live:  # one bar at a time
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


class _Pace:
    """Count, rate and time left, estimated from this run."""

    def __init__(self, total: int, unit: str, done: int) -> None:
        self.total, self.unit, self.done, self.before, self.note = total, unit, done, done, ""
        self.start = self.now = time.monotonic()

    def add(self, count: int, note: str) -> None:
        self.done += count
        self.note = shown(note) or self.note
        self.now = time.monotonic()

    def facts(self, of: str) -> list[str]:
        """Count, rate, time left: the last two once something is done."""
        facts = [f"{self.done:,}{of}{self.total:,} {self.unit}"]
        rate = (self.done - self.before) / max(self.now - self.start, 1e-9)
        if rate > 0:
            left = max(self.total - self.done, 0) / rate
            shown_rate = f"{rate:,.0f}" if rate >= 20 else f"{rate:.1f}" if rate >= 1 else f"{rate:.2g}"
            facts += [f"{shown_rate}/s", f"{human_seconds(left)} left"]
        return facts


class _Lines:
    """A line every ten seconds: for logs, CI and pipes."""

    every_seconds = 10.0
    worth_seconds = 2.0

    def __init__(self, total: int, unit: str, done: int) -> None:
        self.pace = _Pace(total, unit, done)
        self.printed, self.said = self.pace.start, done

    def advance(self, count: int, note: str = "") -> None:
        self.pace.add(count, note)
        if time.monotonic() - self.printed > self.every_seconds:
            self._print()

    def last(self) -> None:
        """The final line, if the work took long enough to matter."""
        if self.pace.done > self.said and time.monotonic() - self.pace.start > self.worth_seconds:
            self._print()

    def _print(self) -> None:
        self.printed, self.said = time.monotonic(), self.pace.done
        _print_message("", [" · ".join(filter(None, [*self.pace.facts(" of "), self.pace.note]))])


class _Bar:
    """A bar, count, rate, time left and a note on one line. The bar shrinks first, then the note."""

    most, least = 40, 5
    live: ClassVar[Any] = None  # rich's display of the current bar

    def __init__(self, total: int, unit: str, done: int) -> None:
        self.pace = _Pace(total, unit, done)

    def __enter__(self) -> _Bar:
        from rich.console import Console as RichConsole
        from rich.live import Live

        # rich's own codes must not be escaped, so it writes below the guard.
        self.screen = RichConsole(file=sys.__stderr__ if isinstance(sys.stderr, _Escaping) else sys.stderr)
        _Bar.live = Live(
            get_renderable=self._line,
            console=self.screen,
            refresh_per_second=5,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        _Bar.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        live, _Bar.live = _Bar.live, None
        live.stop()

    def advance(self, count: int, note: str = "") -> None:
        self.pace.add(count, note)

    def _line(self) -> Any:
        from rich.cells import cell_len
        from rich.text import Text

        # The last column stays free: some terminals wrap after it.
        facts, room = " · ".join(self.pace.facts("/")), self.screen.width - 1
        note = _cut(f" · {self.pace.note}", room - cell_len(facts) - 1 - self.least) if self.pace.note else ""
        width = min(self.most, room - cell_len(facts) - cell_len(note) - 1)
        text = Text()
        if width >= self.least:
            full = int(width * min(self.pace.done / self.pace.total, 1))
            text.append("━" * full, "cyan").append("━" * (width - full), "dim").append(" ")
        return text.append(facts).append(note, "dim")


def _cut(note: str, room: int) -> str:
    """As many whole parts of a note as fit, then …."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(note) <= room:
        return note
    text = set_cell_size(note, max(room - 2, 0))
    return f"{text.rpartition(' · ')[0] or text} …" if room > 8 else ""


def _print_message(prefix: str, lines: Sequence[str]) -> None:
    indent = " " * len(prefix or "  ")
    text = "\n".join(f"{indent if number else prefix}{shown(line)}".rstrip() for number, line in enumerate(lines))
    if _Bar.live:
        from rich.text import Text

        _Bar.live.console.print(Text(text), soft_wrap=True)
    else:
        print(text, file=sys.stderr, flush=True)


def print_error(text: str) -> None:
    """An error. Its line breaks are ours, not data."""
    _print_message("error: ", text.split("\n"))


def print_interruption(text: str) -> None:
    """Print below the ``^C`` that a terminal shows."""
    _print_message("", ["", *text.split("\n")])


def print_trace(text: str) -> None:
    """A traceback, for ``--debug``."""
    _print_message("", ["", *text.rstrip().split("\n")])


def print_result(*lines: object) -> None:
    """Print a command's result on stdout."""
    _to_stdout("\n".join(_line(line) for line in lines))


def _line(value: object) -> str:
    # Scripts get bytes that are not UTF-8 unchanged; a terminal shows them as escapes.
    return shown(value) if sys.stdout.isatty() else _IN_RESULTS.sub(_escape, str(value))


def _to_stdout(text: str) -> None:
    print(text, flush=True)


def print_json(value: Any) -> None:
    """Print a command's result as one JSON object on stdout, in UTF-8 even if file names are not."""
    text = json.dumps(value, ensure_ascii=False)
    # In JSON these occur only inside strings; os.fsencode turns \\udcXX back into the bytes of a file name.
    _to_stdout(_IN_LINES.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def print_wrapped(*lines: str, hanging: int = 0) -> None:
    """Print text on stdout; on a terminal, wrap it at words and indent continuation lines by ``hanging``."""
    for line in map(_line, lines):
        width = _columns() - 1 if sys.stdout.isatty() else len(line) + 1
        start = " " * (len(line) - len(line.lstrip()))
        _to_stdout("\n".join(_wrap(line.strip(), width, start, start + " " * hanging)))


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """Print a table on stdout without cutting any name or value.

    If it is wider than the terminal, explanations wrap or the last cells of a row move below it, whichever takes fewer
    lines. In a pipe, rows are never wrapped.
    """
    table = [[_line(cell) for cell in row] for row in (columns, *rows)]
    if not sys.stdout.isatty():
        _to_stdout("\n".join(f" {line}" for line in _laid_out(table, _widths(table))))
        return
    room = _columns() - 1
    layouts = [_layout(table, inline, room) for inline in range(len(columns), 0, -1)]
    _to_stdout("\n".join(min(filter(None, layouts), key=len)))


def _columns() -> int:
    return max(shutil.get_terminal_size().columns, 20)


def _layout(table: list[list[str]], inline: int, room: int) -> list[str]:
    """The table's lines with ``inline`` columns side by side, heading first; empty if they do not fit."""
    beside, below = [row[:inline] for row in table], [row[inline:] for row in table]
    others = sum(_widths([row[:-1] for row in beside])) + 2 * (inline - 1)
    for row, further in zip(beside, below, strict=True):
        if inline > 1 and _longest_word(row[-1]) > room - others:
            further.insert(0, row[-1])
            row[-1] = ""
    widths = _fit(beside, room)
    if sum(widths) + 2 * (inline - 1) > room and inline > 1:
        return []
    lines = [*_laid_out(beside[:1], widths), "─" * min(sum(widths) + 2 * (inline - 1), room)]
    for row, further in zip(beside[1:], below[1:], strict=True):
        lines += _laid_out([row], widths)
        for name, cell in zip(table[0][-len(further) :] if further else [], further, strict=True):
            if cell not in ("", "–"):
                label = f"{name}: " if name and name != table[0][-1] else ""
                lines += _wrap(label + cell, room, _INDENT, _INDENT)
    return lines


def _fit(table: list[list[str]], room: int) -> list[int]:
    """Column widths; if the table is too wide, explanations are narrowed, the last one first."""
    widths = _widths(table)
    for number in reversed(range(len(widths))):
        too_wide = sum(widths) + 2 * (len(widths) - 1) - room
        column = [row[number] for row in table]
        if too_wide > 0 and widths[number] > _EXPLANATION and any(" " in cell for cell in column):
            widths[number] = max(widths[number] - too_wide, _EXPLANATION, *map(_longest_word, column))
    return widths


def _widths(table: list[list[str]]) -> list[int]:
    from rich.cells import cell_len

    return [max(map(cell_len, column)) for column in zip(*table, strict=True)]


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=0)


def _laid_out(table: list[list[str]], widths: list[int]) -> list[str]:
    from rich.cells import cell_len

    lines: list[str] = []
    for row in table:
        cells = [_wrap(cell, width) for cell, width in zip(row, widths, strict=True)]
        for parts in itertools.zip_longest(*cells, fillvalue=""):
            padded = (part + " " * (width - cell_len(part)) for part, width in zip(parts, widths, strict=True))
            lines.append("  ".join(padded).rstrip())
    return lines


def _wrap(text: str, width: int, first: str = "", further: str = "") -> list[str]:
    """Wrap at words; a word longer than a line stays whole."""
    if len(first + text) <= width:
        return [first + text]
    return textwrap.wrap(
        text,
        max(width, 1),
        initial_indent=first,
        subsequent_indent=further,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [first]


def print_bars(title: str, rows: list[tuple[str, int]], width: int = 40) -> None:
    """Print a histogram on stdout; the longest bar has ``width`` characters."""
    letter = "█" if "utf" in (sys.stdout.encoding or "").lower() else "#"
    most, margin = max(count for _, count in rows), max(len(label) for label, _ in rows)
    bars = [f"{label:>{margin}}  {letter * -(-count * width // most):{width}}  {count:,}" for label, count in rows]
    print_result("", title, *bars)


def human_seconds(seconds: float) -> str:
    """``"8 s"``, ``"12 min"``, ``"3.4 h"``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

"""Everything that reaches the terminal: results on stdout; messages and progress on stderr.

File names, settings in files and texts of libraries may hold control characters; they are shown as ``\\x1b`` and so on.
A line break inside a message, a table cell or a result is data and is shown too, so several lines are passed as several
arguments. Only errors may hold line breaks; their continuation lines are indented, so that no text can pass for another
message.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

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
    """Escape the line breaks that come from ``data``, values that a message of several lines may repeat."""
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


class Progress:
    """Count, rate and time left, estimated from this run. This one shows nothing."""

    def __init__(self, total: int, unit: str, done: int = 0) -> None:
        self.total, self.unit, self.done, self.before, self.note = total, unit, done, done, ""
        self.below = ""  # a second line, which only a terminal shows
        self.start = self.now = time.monotonic()

    def advance(self, count: int, note: str = "") -> None:
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
            yield Progress(total, unit, done)
        elif sys.stderr.isatty():
            with _Bar(total, unit, done) as bar:
                yield bar
        else:
            lines = _Lines(total, unit, done)
            yield lines
            if lines.done > lines.said and time.monotonic() - lines.start > lines.worth_seconds:
                lines.print()


class _Lines(Progress):
    """A line every ten seconds: for logs, CI and pipes. The last one if the work took long enough to matter."""

    every_seconds, worth_seconds = 10.0, 2.0

    def __init__(self, total: int, unit: str, done: int) -> None:
        super().__init__(total, unit, done)
        self.printed, self.said = self.start, done

    def advance(self, count: int, note: str = "") -> None:
        super().advance(count, note)
        if time.monotonic() - self.printed > self.every_seconds:
            self.print()

    def print(self) -> None:
        self.printed, self.said = time.monotonic(), self.done
        _print_message("", [" · ".join(part for part in (*self.facts(" of "), self.note) if part)])


class _Bar(Progress):
    """A bar, count, rate, time left and a note on one line. The bar shrinks first, then the note. Text below it."""

    most, least = 40, 5
    live: ClassVar[Any] = None  # rich's display of the current bar
    height: ClassVar[int] = 1  # lines that it has drawn

    def __enter__(self) -> _Bar:
        from rich.console import Console as RichConsole
        from rich.live import Live

        # rich's own codes must not be escaped, so it writes below the guard.
        self.screen = RichConsole(file=sys.__stderr__ if isinstance(sys.stderr, _Escaping) else sys.stderr)
        ours: Any = {"redirect_stdout": False, "redirect_stderr": False}
        _Bar.live = Live(get_renderable=self._line, console=self.screen, refresh_per_second=5, **ours)
        _Bar.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        live, _Bar.live = _Bar.live, None
        live.stop()
        _Bar.height = 1

    def _line(self) -> Any:
        from rich.cells import cell_len
        from rich.text import Text

        # The last column stays free: some terminals wrap after it.
        facts, room = " · ".join(self.facts("/")), self.screen.width - 1
        note = _cut(f" · {self.note}", room - cell_len(facts) - 1 - self.least) if self.note else ""
        width = min(self.most, room - cell_len(facts) - cell_len(note) - 1)
        text = Text()
        if width >= self.least:
            full = int(width * min(self.done / self.total, 1))
            text.append("━" * full, "cyan").append("━" * (width - full), "dim").append(" ")
        text.append(facts).append(note, "dim")
        below = _cut(shown(self.below), room)
        _Bar.height = 2 if below else 1
        return text.append(f"\n{below}", "dim") if below else text


def _cut(note: str, room: int) -> str:
    """As many whole parts of a note as fit, then …."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(note) <= room:
        return note
    text = set_cell_size(note, max(room - 2, 0))
    return f"{text.rpartition(' · ')[0] or text} …" if room > 8 else ""


def around_bar() -> tuple[str, str]:
    """What a message that bypasses rich needs before and after it: it replaces the bar, which is drawn again below."""
    return "\r\x1b[K" + "\x1b[A\x1b[K" * (_Bar.height - 1), "\n" * _Bar.height


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


def print_below(text: str) -> None:
    """A traceback, or a message below the ``^C`` that a terminal shows."""
    _print_message("", ["", *text.split("\n")])


def print_result(*lines: object) -> None:
    """Print a command's result on stdout."""
    print("\n".join(map(_line, lines)), flush=True)


def _line(value: object) -> str:
    # Scripts get bytes that are not UTF-8 unchanged; a terminal shows them as escapes.
    return shown(value) if sys.stdout.isatty() else _IN_RESULTS.sub(_escape, str(value))


def print_json(value: Any) -> None:
    """Print a command's result as one JSON object on stdout, in UTF-8 even if file names are not."""
    text = json.dumps(value, ensure_ascii=False)
    # In JSON these occur only inside strings; os.fsencode turns \\udcXX back into the bytes of a file name.
    print(_IN_LINES.sub(lambda found: f"\\u{ord(found[0]):04x}", text), flush=True)


def print_wrapped(*lines: str, hanging: int = 0) -> None:
    """Print text on stdout; on a terminal, wrap it at words and indent continuation lines by ``hanging``."""
    for line in map(_line, lines):
        width = _room() if sys.stdout.isatty() else len(line) + 1
        start = " " * (len(line) - len(line.lstrip()))
        print("\n".join(_wrap(line.strip(), width, start, start + " " * hanging)), flush=True)


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """Print a table on stdout without cutting any name or value; in a pipe, one line a row.

    In a terminal that is too narrow, the last column that fits wraps, and further cells move below their row: one
    alone has its name below the heading, several have theirs before each cell.
    """
    from rich.cells import cell_len

    table = [[_line(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    room = _room() if sys.stdout.isatty() else sum(widths) + 2 * len(widths)
    starts = [sum(widths[:number]) + 2 * number for number in range(len(widths))]
    fitting = [number for number, width in enumerate(widths) if starts[number] + min(width, _EXPLANATION) <= room]
    last = max(fitting, default=0)
    lines: list[str] = []
    for row in table:
        beside = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row[:last], widths, strict=False))
        first, *further = _wrap(row[last], room - starts[last])
        lines.append("  ".join([*beside, first]).rstrip())
        lines += (" " * starts[last] + line for line in further)
        names, below = table[0][last + 1 :], row[last + 1 :]
        if row is table[0]:
            below = below if len(below) == 1 else []
        for name, cell in zip(names, below, strict=False):
            if cell not in ("", "–"):
                label = f"{name}: " if name and len(names) > 1 else ""
                lines += _wrap(label + cell, room, _INDENT, _INDENT)
        if row is table[0] and sys.stdout.isatty():
            lines.append("─" * min(starts[-1] + widths[-1], room))
    print("\n".join(lines if sys.stdout.isatty() else (f" {line}" for line in lines)), flush=True)


def _room() -> int:
    return max(shutil.get_terminal_size().columns, 20) - 1


def _wrap(text: str, width: int, first: str = "", further: str = "") -> list[str]:
    """Wrap at words; a word longer than a line stays whole."""
    if len(first + text) <= width:
        return [first + text]
    import textwrap

    whole: Any = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(text, max(width, 1), initial_indent=first, subsequent_indent=further, **whole) or [first]


def print_bars(title: str, rows: list[tuple[str, int]], width: int = 40) -> None:
    """Print a histogram on stdout; the longest bar has ``width`` characters."""
    letter = "█" if "utf" in (sys.stdout.encoding or "").lower() else "#"
    most, margin = max(count for _, count in rows), max(len(label) for label, _ in rows)
    bars = [f"{label:>{margin}}  {letter * -(-count * width // most):{width}}  {count:,}" for label, count in rows]
    print_result("", title, *bars)


def counted(count: int, noun: str) -> str:
    """``"1 photograph"``, ``"2,000 photographs"``, ``"2 processes"``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "es" if noun.endswith("s") else "s")


def human_seconds(seconds: float) -> str:
    """``"8 s"``, ``"12 min"``, ``"3.4 h"``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

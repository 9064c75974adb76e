"""What reaches the terminal: text of files as text, tables whole, and a bar that cuts no number."""

from __future__ import annotations

import io
import json
import re
import sys
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facegan import console
from facegan.console import Console, around_bar, print_error, print_json, print_result, print_table, shown

NASTY = "\x1b]0;T\x07\x1b[31m\x9b2J\r\n\u202eerror: forged\u2028\udc9b\udcff\t"
TEXT = st.text(st.one_of(st.sampled_from(NASTY), st.characters()), max_size=12)
BIDI = {"\u061c", "\u200e", "\u200f", *map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def is_obeyed(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in BIDI


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def shown_lines(self) -> list[str]:
        return ESCAPES.sub("", self.getvalue()).replace("\r", "\n").rstrip("\n").split("\n")


def open_terminal(monkeypatch: pytest.MonkeyPatch, stream: str, width: int) -> Terminal:
    terminal = Terminal()
    monkeypatch.setattr(sys, stream, terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    return terminal


def test_escapes_name_the_byte_or_character() -> None:
    text, escapes = "\x1b \n \r \t \x9b \u202e \udc9b \udcff \ud800", r"\x1b \n \r \t \x9b \u202e \x9b \xff \ud800"
    assert shown(text) == escapes
    assert shown("Zoë 全角　👩\u200d🚀") == "Zoë 全角　👩\u200d🚀"


@settings(deadline=None, max_examples=50)
@given(TEXT)
def test_each_writer_escapes_its_text(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out := io.StringIO())
        patch.setattr(sys, "stderr", err := io.StringIO())
        Console().note(text)
        Console().warn(text)
        print_error(shown(text))
        print_result(text)
        print_table(["name", text], [[text, "value"]])
    written = [*err.getvalue().split("\n"), *out.getvalue().split("\n")]
    assert len(written) == 3 + 1 + 1 + 2 + 1
    assert not any(is_obeyed(c) and not "\udca0" <= c <= "\udcff" for c in "".join(written))
    assert not any(map(is_obeyed, shown(text)))
    assert shown(text) == text or any(map(is_obeyed, text))


@settings(max_examples=30)
@given(st.recursive(TEXT, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2)))
def test_json_stays_json_and_holds_no_controls(value: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out := io.StringIO())
        print_json(value)
        text = out.getvalue()
    assert json.loads(text) == value
    assert not any(map(is_obeyed, text.removesuffix("\n")))
    text.encode()


def bar(monkeypatch: pytest.MonkeyPatch, width: int, advances: list[tuple[float, int, str]], done: int = 0) -> str:
    """The last line of a bar over 16,000 images; ``advances`` have the seconds on the clock, a count and a note."""
    terminal, clock = open_terminal(monkeypatch, "stderr", width), [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    with Console().progress(16_000, "images", done) as progress:
        for now, count, note in advances:
            clock[0] = now
            progress.advance(count, note)
    return terminal.shown_lines()[-1]


NOTE = "D 0.544 · G 1.654 · D right 98%"


@pytest.mark.parametrize("width", [50, 80, 140])
def test_a_bar_keeps_count_rate_and_time_left(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    line = bar(monkeypatch, width, [(470.0, 3_296, NOTE)])
    assert len(line) < width
    assert "3,296/16,000 images · 7.0/s · 30 min left" in line
    assert ("━" * 40 in line) == (width == 140)
    assert (NOTE in line) == (width > 80)
    assert ("G 1.654 …" in line) == (width == 80)  # no half number


def test_rate_counts_this_run_only(monkeypatch: pytest.MonkeyPatch) -> None:
    line = bar(monkeypatch, 80, [(100.0, 500, "")], 14_500)
    assert "15,000/16,000 images · 5.0/s · 3 min left" in line


def test_messages_stand_above_the_bar_and_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch, "stderr", 40)
    name = "a-long-name-that-stays-whole" * 3
    with Console().progress(2, "images") as progress:
        progress.advance(1, "\x1b]0;T\x07")
        Console().warn(f"{name}\x1b[31m\nerror: forged")
    assert f"warning: {name}\\x1b[31m\\nerror: forged" in terminal.shown_lines()
    assert "]0;T" not in "".join(re.findall(r"\x1b\][^\x07]*", terminal.getvalue()))


def test_second_line_is_replaced_by_messages_that_bypass_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    open_terminal(monkeypatch, "stderr", 40)
    assert around_bar() == ("\r\x1b[K", "\n")
    with Console().progress(2, "images") as progress:
        progress.below = "runs/mine/samples/000000010.png · swd 2.5 at 10 images"
        console._Bar.live.refresh()
        assert around_bar() == ("\r\x1b[K\x1b[A\x1b[K", "\n\n")
    assert around_bar() == ("\r\x1b[K", "\n")


WORDS = "an explanation of several words that is as long as explanations are, and wraps where it has to"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_tables_in_a_terminal_cut_nothing(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    out = open_terminal(monkeypatch, "stdout", width)
    path = "/a/path/" + "that-is-longer-than-any-line/" * 4
    rows = [["inception_score", "12.34 ± 0.56", WORDS], ["fid", "9.1", path]]
    print_table(["metric", "value", "what it is"], rows)
    lines = out.getvalue().split("\n")
    assert all(len(line) < width or path in line for line in lines)
    assert all(any(cell in line for line in lines) for cell in ("inception_score", "12.34 ± 0.56", "fid", "9.1", path))
    assert WORDS in " ".join(out.getvalue().split())


@pytest.mark.parametrize(("runs", "said"), [(3, ["third\n", "\n    3\n"]), (4, ["third: 3\n", "fourth: 4\n"])])
def test_cells_below_their_row_have_their_column_s_name(
    monkeypatch: pytest.MonkeyPatch, runs: int, said: list[str]
) -> None:
    out = open_terminal(monkeypatch, "stdout", 40)
    print_table(
        ["", "first", "second", "third", "fourth"][: runs + 1], [["dataset", "a" * 12, "b" * 12, "3", "4"][: runs + 1]]
    )
    assert all(text in out.getvalue() for text in said)


def test_tables_in_a_pipe_have_a_line_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    print_table(["name", "what"], [["a", WORDS], ["全角", "two columns a letter"]])
    lines = out.getvalue().splitlines()
    assert [line.split("  ")[0].strip() for line in lines] == ["name", "a", "全角"]
    assert lines[1].endswith(WORDS)

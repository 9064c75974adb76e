"""Pieces of Markdown for cards."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any


def table(head: list[str], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)


def code(value: Any) -> str:
    """A value as code, in which Markdown finds nothing but the end: that is no part of it."""
    return f"`{plain(value)}`"


def text(value: Any) -> str:
    """A value as text: no markup, link or address in it is one."""
    line = plain(value).strip()
    line = re.sub(r"[\\*\[\]~&]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", line)
    line = re.sub(r"^(\d*)([-+#=]|[.)](?=\s|$))", r"\1\\\2", line)  # with which lists, headings and rules begin
    # GitHub makes links of bare addresses.
    return line.replace("://", "&#58;//").replace("www.", "www&#46;").replace("@", "&#64;")


def plain(value: Any) -> str:
    """A value on one line, for code and YAML: without what ends code, and without tags."""
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return "".join(c if c.isprintable() and c not in "`<>" else "?" for c in text)

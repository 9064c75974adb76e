"""On which line of a recipe a setting stands: what tomllib does not tell."""

from __future__ import annotations

from facegan.errors import DamagedFile
from facegan.files import parse_toml


def lines_of(text: str) -> dict[tuple[str, str], int]:
    """The line, from 1, on which each (section, setting) of a valid TOML text begins; its heading is (section, "").

    A value may go over several lines: a piece ends where what was read since the last one is TOML by itself.
    """
    found: dict[tuple[str, str], int] = {}
    section, piece, begins = "", "", 0
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if not piece and (not line.strip() or line.lstrip().startswith("#")):
            continue
        begins = begins if piece else number
        piece += line + "\n"
        try:
            told = parse_toml(piece, "")
        except DamagedFile:
            continue
        if piece.lstrip().startswith("["):
            section, below = next(iter(told.items()))
            found.setdefault((section, ""), begins)
            told = {}
            if isinstance(below, dict) and below:  # [train.adam]: what follows is none of [train]'s own
                found.setdefault((section, next(iter(below))), begins)
                section = f"{section}."
        for name, value in told.items():
            if section:
                found.setdefault((section, name), begins)
            elif isinstance(value, dict):  # train.images = 64, before any heading
                found.setdefault((name, ""), begins)
                found |= {(name, key): begins for key in value if (name, key) not in found}
            else:
                found.setdefault(("", name), begins)
        piece = ""
    return found

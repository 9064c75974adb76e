"""Text in pictures: a font that looks the same on every machine, and names from files made legible."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from facegan.shards.deep import shown


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib carries: Pillow's own font has hardly more than ASCII. (matplotlib itself, slow to
    import, is only located.)"""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise ImportError("matplotlib is not installed")
    path = Path(spec.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def legible(text: str) -> str:
    """On one line, with escapes for control characters and for what the font can't draw."""
    return "".join(c if _has_glyph(c) else c.encode("unicode_escape").decode() for c in shown(text))


@functools.cache
def _has_glyph(character: str) -> bool:
    return character.isspace() or _drawn(character) != _drawn("\uffff")


def _drawn(character: str) -> bytes:
    picture = Image.new("L", (24, 24))
    ImageDraw.Draw(picture).text((2, 2), character, 255, font(12))
    return picture.tobytes()


def fitted(text: str, width: float, size: int, *, keep_end: bool = False) -> str:
    """As much of ``text`` as fits into ``width`` pixels; of a file's name the end, where numbers and suffix are."""
    text = legible(text)
    if font(size).getlength(text) <= width:
        return text
    cuts = (f"…{text[i:]}" if keep_end else f"{text[: len(text) - i]}…" for i in range(1, len(text) + 1))
    return next((cut for cut in cuts if font(size).getlength(cut) <= width), "")

"""preview.png: faces on the left, rejected photographs with their reasons on the right."""

from __future__ import annotations

import base64
import contextlib
import functools
import importlib.util
import json
import math
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydantic import TypeAdapter

from facegan.console import shown
from facegan.errors import DamagedFile, DatasetError
from facegan.files import parsing
from facegan.prep.chunk import Thumbnail
from facegan.shards.images import decode_image
from facegan.shards.reader import Shard

# Rejected photographs, carried by preview.png itself: the next addition or repair draws them again.
#
# They lie in a chunk of our own before the picture's last one, which other programs pass over (W3C, "Portable Network
# Graphics", 5.3 and 5.4), so that nothing but the dataset's files has to be kept.

_REJECTS = TypeAdapter(list[tuple[int, Thumbnail]])
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KIND = b"fgRj"  # small first letters: other programs need not know it
_LAST = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


def with_rejects(png: bytes, rejects: Iterable[tuple[int, Thumbnail]]) -> bytes:
    """A PNG that carries rejected photographs, each with the place of its chunk; the same one where there are none."""
    told = [[number, asdict(reject)] for number, reject in rejects]
    if not told:
        return png
    data = _KIND + json.dumps(told).encode()
    chunk = struct.pack(">I", len(data) - len(_KIND)) + data + struct.pack(">I", zlib.crc32(data))
    return png.removesuffix(_LAST) + chunk + _LAST


def read_rejects(path: Path) -> list[tuple[int, Thumbnail]]:
    """What `with_rejects` was given; nothing where the file is missing, damaged, or of another program."""
    try:
        png, at = path.read_bytes(), len(_SIGNATURE)
        while at < len(png):
            (size,) = struct.unpack_from(">I", png, at)
            if png[at + 4 : at + 8] == _KIND:
                if struct.unpack_from(">I", png, at + 8 + size)[0] != zlib.crc32(png[at + 4 : at + 8 + size]):
                    break
                with parsing(path):
                    return _REJECTS.validate_json(png[at + 8 : at + 8 + size])
            at += 12 + size
    except (OSError, DamagedFile, struct.error):
        pass
    return []


# Text in pictures: a font that looks the same on every machine, and names from files made legible.


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


_COLUMNS = 8
_FACES = _COLUMNS * _COLUMNS
REJECTS_SHOWN = 15
_REJECT_COLUMNS = 3
_CELL_PX, _LABEL_PX, _GAP_PX, _MARGIN_PX, _HEAD_PX = 96, 34, 14, 16, 40
_PAPER, _INK, _FAINT = (255, 255, 255), (30, 30, 30), (120, 120, 120)


def draw_preview(
    shards: Sequence[tuple[Path, int]],
    rejects: Sequence[Thumbnail],
    rejected: Mapping[str, int],
    kept: int,
    whole: Callable[[Path], AbstractContextManager[Path]] = contextlib.nullcontext,
) -> np.ndarray:
    """The contact sheet as RGB uint8.

    Args:
        shards: every shard's path and number of samples, in order; the faces shown are spread evenly over them.
        rejects: the first rejected photographs.
        rejected: how many there are, by reason.
        kept: how many photographs gave samples.
        whole: gives a shard's file with all its bytes, for a while (`facegan.prep.storage.Home`).
    """
    faces = _spread_faces(shards, whole)
    cell = max(64, 2 * faces[0].shape[0] if faces and faces[0].shape[0] < 64 else 64)
    side = _COLUMNS * cell + (_COLUMNS - 1) * 2
    beside = _MARGIN_PX * 2 + _REJECT_COLUMNS * (_CELL_PX + _GAP_PX) if rejects else 0
    rows = math.ceil(len(rejects) / _REJECT_COLUMNS)
    height = _HEAD_PX + max(side, rows * (_CELL_PX + _LABEL_PX + _GAP_PX)) + _MARGIN_PX
    sheet = Image.new("RGB", (_MARGIN_PX * 2 + side + beside, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    samples = sum(count for _, count in shards)
    draw.text((_MARGIN_PX, 12), f"{kept:,} photographs kept, {samples:,} faces", _INK, font(15))
    for i, face in enumerate(faces):
        at = (_MARGIN_PX + i % _COLUMNS * (cell + 2), _HEAD_PX + i // _COLUMNS * (cell + 2))
        shrink = face.shape[0] > cell
        resized = cv2.resize(face, (cell, cell), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_NEAREST)
        sheet.paste(Image.fromarray(resized), at)
    if rejects:
        left = _MARGIN_PX * 3 + side
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in rejected.items() if count)
        draw.text((left, 13), fitted(f"rejected: {reasons}", beside - _MARGIN_PX * 2, 12), _INK, font(12))
        for i, reject in enumerate(rejects):
            x = left + i % _REJECT_COLUMNS * (_CELL_PX + _GAP_PX)
            y = _HEAD_PX + i // _REJECT_COLUMNS * (_CELL_PX + _LABEL_PX + _GAP_PX)
            _draw_reject(sheet, draw, reject, x, y)
    return np.asarray(sheet)


def _draw_reject(sheet: Image.Image, draw: ImageDraw.ImageDraw, reject: Thumbnail, x: int, y: int) -> None:
    pixels = _thumbnail(reject.png)
    if pixels is not None:
        picture = Image.fromarray(pixels)
        sheet.paste(picture, (x + (_CELL_PX - picture.width) // 2, y + (_CELL_PX - picture.height) // 2))
    else:
        draw.rectangle((x, y, x + _CELL_PX - 1, y + _CELL_PX - 1), outline=_FAINT)
    score = "" if reject.score is None else f" {reject.score:.2f}"
    width = _CELL_PX + _GAP_PX - 8
    draw.text((x, y + _CELL_PX + 2), fitted(reject.reason + score, width, 11), _INK, font(11))
    name = reject.path.rpartition("/")[2]
    draw.text((x, y + _CELL_PX + 17), fitted(name, width, 11, keep_end=True), _FAINT, font(11))


def _thumbnail(png: str) -> np.ndarray | None:
    """None where nothing could be decoded, now or then."""
    try:
        data = base64.b64decode(png)
    except ValueError:  # of a chunk or a preview that was altered
        return None
    pixels = decode_image(data) if data else None
    return pixels if pixels is not None and max(pixels.shape[:2]) <= _CELL_PX else None


def _spread_faces(
    shards: Sequence[tuple[Path, int]], whole: Callable[[Path], AbstractContextManager[Path]]
) -> list[np.ndarray]:
    total = sum(count for _, count in shards)
    wanted = [i * total // min(total, _FACES) for i in range(min(total, _FACES))]
    faces, first = [], 0
    for path, count in shards:
        inside = [i - first for i in wanted if first <= i < first + count]
        first += count
        if inside:
            with whole(path) as file, contextlib.closing(Shard(file)) as shard:
                images = [shard.read(shard.samples[i].image) for i in inside if i < len(shard)]
                found = [rgb for image in images if (rgb := decode_image(bytes(image))) is not None]
                del images  # views of the file, which can't be closed before they are gone
            if len(found) < len(inside):
                raise DatasetError(
                    f"{path} was altered since facegan prep wrote it: some of its images can't be read.\n"
                    "If it belongs to an unfinished dataset, delete it and start prep again; else add --repair."
                )
            faces += found
    return faces

"""preview.png: faces on the left, rejected photographs with their reasons on the right."""

from __future__ import annotations

import base64
import contextlib
import functools
import importlib.metadata
import itertools
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
from facegan.shards.format import DatasetInfo
from facegan.shards.images import decode_image
from facegan.shards.inspect import spread
from facegan.shards.reader import Shard

REJECTS_SHOWN = 15
_COLUMNS = 8
_FACES = _COLUMNS * _COLUMNS
_REJECT_COLUMNS = 3
_FACE_PX, _CELL_PX, _LABEL_PX, _GAP_PX, _MARGIN_PX, _HEAD_PX = 64, 96, 34, 14, 16, 40
OpenShard = Callable[[Path], AbstractContextManager[Path]]
Rejects = dict[str, list[tuple[int, Thumbnail]]]  # by reason, with the number of their chunk
_PAPER, _INK, _FAINT = (255, 255, 255), (30, 30, 30), (120, 120, 120)


def draw_preview(
    info: DatasetInfo,
    files: Mapping[str, Path],
    rejects: Sequence[Thumbnail] = (),
    open_shard: OpenShard = contextlib.nullcontext,
) -> np.ndarray:
    """The contact sheet as RGB uint8: faces spread evenly over a dataset, and rejected photographs.

    Args:
        files: path of every shard by its name.
        open_shard: see `facegan.prep.storage.OutputStore`.
    """
    faces = spread_faces(info, files, open_shard)
    side = _COLUMNS * (_FACE_PX + 2) - 2
    reject_width = _MARGIN_PX * 2 + _REJECT_COLUMNS * (_CELL_PX + _GAP_PX) if rejects else 0
    rows = math.ceil(len(rejects) / _REJECT_COLUMNS)
    height = _HEAD_PX + max(side, rows * (_CELL_PX + _LABEL_PX + _GAP_PX)) + _MARGIN_PX
    sheet = Image.new("RGB", (_MARGIN_PX * 2 + side + reject_width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    totals = info.totals
    draw.text((_MARGIN_PX, 12), f"{totals.kept:,} photographs kept, {totals.faces:,} faces", _INK, font(15))
    for i, face in enumerate(faces):
        at = (_MARGIN_PX + i % _COLUMNS * (_FACE_PX + 2), _HEAD_PX + i // _COLUMNS * (_FACE_PX + 2))
        interpolation = cv2.INTER_AREA if face.shape[0] > _FACE_PX else cv2.INTER_NEAREST
        sheet.paste(Image.fromarray(cv2.resize(face, (_FACE_PX, _FACE_PX), interpolation=interpolation)), at)
    if rejects:
        left = _MARGIN_PX * 3 + side
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in totals.rejected.items() if count)
        draw.text((left, 13), fitted(f"rejected: {reasons}", reject_width - _MARGIN_PX * 2, 12), _INK, font(12))
        for i, reject in enumerate(rejects):
            x = left + i % _REJECT_COLUMNS * (_CELL_PX + _GAP_PX)
            y = _HEAD_PX + i // _REJECT_COLUMNS * (_CELL_PX + _LABEL_PX + _GAP_PX)
            _draw_reject(sheet, reject, x, y)
    return np.asarray(sheet)


def preview_png(info: DatasetInfo, files: Mapping[str, Path], rejects: Rejects, open_shard: OpenShard) -> bytes:
    """preview.png; arguments as for `draw_preview`, but for all the rejects that it carries."""
    by_reason = [rejects[reason] for reason in sorted(rejects)]
    # The first of each reason, then the second of each, …
    in_turn = [numbered[1] for rank in itertools.zip_longest(*by_reason) for numbered in rank if numbered]
    sheet = draw_preview(info, files, in_turn[:REJECTS_SHOWN], open_shard)
    return with_rejects(picture_bytes(sheet), itertools.chain(*by_reason))


def _draw_reject(sheet: Image.Image, reject: Thumbnail, x: int, y: int) -> None:
    draw, pixels = ImageDraw.Draw(sheet), thumbnail_pixels(reject.png)
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


def thumbnail_pixels(png: str) -> np.ndarray | None:
    """None if the photograph could not be decoded, or the chunk or preview was altered."""
    try:
        data = base64.b64decode(png)
    except ValueError:
        return None
    pixels = decode_image(data) if data else None
    return pixels if pixels is not None and max(pixels.shape[:2]) <= _CELL_PX else None


def spread_faces(
    info: DatasetInfo, files: Mapping[str, Path], open_shard: OpenShard = contextlib.nullcontext
) -> list[np.ndarray]:
    """64 faces as RGB uint8, fewer of a small dataset; as `draw_preview`."""
    faces = []
    for entry, numbers in spread(info, _FACES, len(info.shards)):
        if numbers:
            path = files[entry.name]
            with open_shard(path) as file, contextlib.closing(Shard(file)) as shard:
                images = [bytes(shard.read(shard.samples[i].image)) for i in numbers if i < len(shard)]
            found = [rgb for image in images if (rgb := decode_image(image)) is not None]
            if len(found) < len(numbers):
                raise DatasetError(
                    f"{path} was altered since facegan prep wrote it: some of its images cannot be read.\n"
                    "Rebuild it with --repair; or delete it and run prep again, if the dataset is unfinished."
                )
            faces += found
    return faces


def picture_bytes(rgb: np.ndarray, image_format: str = "png") -> bytes:
    return cv2.imencode(f".{image_format}", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes()


# preview.png itself carries the rejected photographs: the next addition or repair draws them again. They are in a PNG
# chunk of our own before the last one, which other programs skip (W3C, "Portable Network Graphics", 5.3 and 5.4).

_REJECTS = TypeAdapter(list[tuple[int, Thumbnail]])
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNK_TYPE = b"fgRj"  # the first two letters are small: optional, and private
_LAST = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


def with_rejects(png: bytes, rejects: Iterable[tuple[int, Thumbnail]]) -> bytes:
    """A PNG that carries rejected photographs, each with the number of its dataset's chunk."""
    records = [[number, asdict(reject)] for number, reject in rejects]
    if not records:
        return png
    data = _CHUNK_TYPE + json.dumps(records).encode()
    chunk = struct.pack(">I", len(data) - len(_CHUNK_TYPE)) + data + struct.pack(">I", zlib.crc32(data))
    return png.removesuffix(_LAST) + chunk + _LAST


def read_rejects(path: Path) -> list[tuple[int, Thumbnail]]:
    """The rejects of `with_rejects`; none if the file is missing, damaged or another program's."""
    try:
        png, at = path.read_bytes(), len(_SIGNATURE)
        while at < len(png):
            (size,) = struct.unpack_from(">I", png, at)
            if png[at + 4 : at + 8] == _CHUNK_TYPE:
                if struct.unpack_from(">I", png, at + 8 + size)[0] != zlib.crc32(png[at + 4 : at + 8 + size]):
                    break
                with parsing(path):
                    return _REJECTS.validate_json(png[at + 8 : at + 8 + size])
            at += 12 + size
    except (OSError, DamagedFile, struct.error):
        pass
    return []


# Text in pictures.


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans from matplotlib's files, the same on every machine: Pillow's own font is hardly more than ASCII."""
    installed = importlib.metadata.distribution("matplotlib")  # located, not imported: that is slow
    path = installed.locate_file("matplotlib/mpl-data/fonts/ttf/DejaVuSans.ttf")
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def legible(text: str) -> str:
    """The text on one line, with escapes for control characters and for missing glyphs."""
    return "".join(
        c if c.isspace() or _rendered(c) != _rendered("\uffff") else c.encode("unicode_escape").decode()
        for c in shown(text)
    )


@functools.cache
def _rendered(character: str) -> bytes:
    picture = Image.new("L", (24, 24))
    ImageDraw.Draw(picture).text((2, 2), character, 255, font(12))
    return picture.tobytes()


def fitted(text: str, width: float, size: int, *, keep_end: bool = False) -> str:
    """The text shortened to ``width`` pixels; of a file's name keep the end, which has numbers and suffix."""
    text = legible(text)
    if font(size).getlength(text) <= width:
        return text
    cuts = (f"…{text[i:]}" if keep_end else f"{text[: len(text) - i]}…" for i in range(1, len(text) + 1))
    return next((cut for cut in cuts if font(size).getlength(cut) <= width), "")

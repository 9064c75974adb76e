"""Pictures of one photograph: a sample with box, keypoints, crop and face, or a reject with its score."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw
from pydantic import TypeAdapter, ValidationError

from facegan.config.resources import NO_ATTRIBUTES
from facegan.console import Console, shown
from facegan.errors import DamagedFile, DatasetError, SourceError
from facegan.faces.decode import Photo, Rejected
from facegan.faces.detect import KEYPOINTS
from facegan.files import make_folder, read_json, write_bytes
from facegan.prep.preview import fitted, font
from facegan.prep.sources import open_source
from facegan.prep.sources.base import DAMAGED, Entry, Source, source_errors
from facegan.prep.sources.folder import Folder
from facegan.prep.sources.parquet import Table
from facegan.remote import is_url
from facegan.shards.checksums import see_verify
from facegan.shards.format import STATE_FOLDER, readable_path
from facegan.shards.images import decode_image
from facegan.shards.inspect import StoredSample

ORIGIN_FILE = "source.json"  # the fields of `Origin`


class Origin(NamedTuple):
    """Where the photographs of a dataset were."""

    source: str  # path or URL
    root: str  # the folder in it that paths are relative to
    files: tuple[tuple[str, str], ...] = ()  # settings of prep that name a file, and its path


def read_original(out: Path, path: str, source: str | None = None) -> bytes | None:
    """The file of the photograph that dataset ``out`` calls ``path``; None if it is gone or was not recorded.

    ``source`` is where the photographs are now, if they have moved since prep; below, too.
    """
    return dict(read_originals(out, [path], source)).get(path)


def read_originals(out: Path, paths: Collection[str], source: str | None = None) -> Iterator[tuple[str, bytes]]:
    """Paths and files of the photographs that are still there, as `read_original` finds them, one after the other."""
    recorded = None if source else origin_of(out)
    origin, root = (recorded.source, recorded.root) if recorded else (source, None)
    if origin is None:
        return
    with contextlib.suppress(SourceError, OSError), source_errors(origin), tempfile.TemporaryDirectory() as folder:
        opened = open_source(origin)
        if not (entries := _find(opened, root, paths)):
            return
        # Unpacking a table pays for thousands of photographs, not for some.
        readable = opened if isinstance(opened, Table) else opened.unpacked(Path(folder))
        with contextlib.closing(readable.reader()) as reader:
            for path, entry in entries.items():
                with contextlib.suppress(SourceError, OSError, *DAMAGED):
                    yield path, reader.read(entry)


def origin_of(out: Path) -> Origin | None:
    """None if it was not recorded."""
    try:
        return TypeAdapter(Origin).validate_python(read_json(out / STATE_FOLDER / ORIGIN_FILE))
    except (OSError, DamagedFile, ValidationError):
        return None


def _find(source: Source, root: str | None, paths: Collection[str]) -> dict[str, Entry]:
    """The photographs at ``paths`` below ``root``; if that is None, those with the shortest names that end so."""
    found = dict[str, Entry]()
    for path in paths if isinstance(source, Folder) else ():
        name = (root or "") + path
        file = Path(source.where) / name  # found without listing the folder; links are followed, as by prep
        if ".." not in Path(name).parts and not Path(name).is_absolute() and file.is_file():
            found[path] = Entry(os.fsencode(name), file.stat().st_size)
    if left := {path: (root or "") + path for path in paths if path not in found}:
        names = {readable_path(entry.name): entry for entry in source.photos(Counter())}  # a later one counts
        for path, name in left.items():
            ends = [name] if root is not None else [other for other in names if f"/{other}".endswith(f"/{name}")]
            known = [names[other] for other in ends if other in names]
            found |= {path: min(known, key=lambda entry: len(entry.name))} if known else {}
    return found


def write_origin(out: Path, origin: Origin) -> None:
    """Records in ``out`` where its photographs and the files about them are."""
    is_absolute = is_url(origin.source) or origin.source.startswith("torchvision:")
    source = origin.source if is_absolute else str(Path(origin.source).absolute())
    files = [(name, path if path == NO_ATTRIBUTES else str(Path(path).absolute())) for name, path in origin.files]
    record = json.dumps({"source": source, "root": origin.root, "files": files})  # ASCII: a path may not be UTF-8
    write_bytes(make_folder(out / STATE_FOLDER) / ORIGIN_FILE, record.encode())


def copy_origin(outs: Iterable[Path], new: Path) -> None:
    """Records in a dataset selected from others where their photographs are, if all are in one source."""
    found = {origin and origin._replace(files=()) for origin in map(origin_of, outs)}
    origin = found.pop() if len(found) == 1 else None
    if origin:
        write_origin(new, origin)


_PHOTO_PX = 640  # long side of the photograph as it is drawn
_FACE_PX = 256
_MARGIN_PX, _LINE_PX = 16, 20
_PAPER, _INK = (255, 255, 255), (30, 30, 30)
_BOX, _QUAD = (66, 135, 245), (240, 60, 60)
_POINTS = ((255, 220, 0), (255, 160, 0), (0, 220, 120), (230, 90, 230), (0, 200, 230), (120, 240, 230))

_Line = tuple[str, tuple[int, int, int] | None]  # of the legend: text, colour


def draw_sample(out: Path, sample: StoredSample, source: str | None, console: Console) -> np.ndarray:
    """A photograph with a sample's box, keypoints and crop, and the face beside it; RGB uint8.

    If the photograph is gone or has changed, the console warns and only the face is drawn.
    """
    face = decode_image(sample.image)
    if face is None:
        raise DatasetError(f"The face {sample.key} cannot be decoded.\n{see_verify(out, deep=True)}")
    meta, drawn = sample.meta, None
    photo = _original(out, meta.path, meta.sha256, source)
    if isinstance(photo, str):
        console.warn(f"{photo}; only the face is drawn.")
    else:
        drawn = _drawn_photo(photo, meta.quad, meta.box, meta.keypoints)
    lines: list[_Line] = [
        (sample.key, None),
        (f"score {meta.score:g}, {face.shape[1]} x {face.shape[0]} pixels", None),
        (f"photograph of {meta.width} x {meta.height}", None),
        ("the crop, with a thick upper edge", _QUAD),
    ]
    if meta.box:
        lines.append(("the detector's box", _BOX))
    if meta.keypoints:
        lines += zip(KEYPOINTS, _POINTS, strict=True)
    return _sheet(drawn, face, lines)


def draw_rejected(out: Path, row: dict[str, Any], source: str | None, min_score: float | None) -> np.ndarray:
    """A rejected photograph (a row of photos.parquet) with the box of its best face, reason, score and threshold (None
    without a detector); RGB uint8. Raises DatasetError if it is gone, has changed, or cannot be decoded.
    """
    name, reason = shown(row["path"]), row["reason"]
    if reason == "crashed":
        raise DatasetError(f"{name} was rejected as crashed. It is not drawn: decoding it may crash this process, too.")
    photo = _original(out, row["path"], row["sha256"], source)
    if isinstance(photo, str):
        raise DatasetError(f"{photo}. It was rejected as {reason}.")
    try:
        drawn = _drawn_photo(photo, [], row["box"], [])
    except (Rejected, cv2.error):
        raise DatasetError(f"{name} cannot be decoded. It was rejected as {reason}.") from None
    lines: list[_Line] = [(row["path"], None), (f"rejected: {reason}", None)]
    if row["scores"]:
        lines.append((f"best score {max(row['scores']):.3f}", None))
    if min_score is not None:
        lines.append((f"threshold (--min-score) {min_score:g}", None))
    lines.append((f"photograph of {photo.width} x {photo.height}", None))
    if row["box"]:
        lines.append(("the box of the best score", _BOX))
    return _sheet(drawn, None, lines)


def _sheet(picture: Image.Image | None, face: np.ndarray | None, lines: list[_Line]) -> np.ndarray:
    """The photograph on the left; on the right the enlarged face, and below it the legend."""
    left = 2 * _MARGIN_PX + picture.width if picture else _MARGIN_PX
    top = 2 * _MARGIN_PX + _FACE_PX if face is not None else _MARGIN_PX
    height = max(picture.height if picture else 0, top - _MARGIN_PX + _LINE_PX * len(lines)) + 2 * _MARGIN_PX
    sheet = Image.new("RGB", (left + _FACE_PX + 2 * _MARGIN_PX, height), _PAPER)
    if picture:
        sheet.paste(picture, (_MARGIN_PX, _MARGIN_PX))
    if face is not None:
        enlarged = cv2.resize(face, (_FACE_PX, _FACE_PX), interpolation=cv2.INTER_NEAREST)
        sheet.paste(Image.fromarray(enlarged), (left, _MARGIN_PX))
    draw = ImageDraw.Draw(sheet)
    for i, (text, colour) in enumerate(lines):
        y, x = top + i * _LINE_PX, left + (16 if colour else 0)
        if colour:
            draw.ellipse((left, y + 4, left + 9, y + 13), fill=colour, outline=_INK)
        draw.text((x, y), fitted(text, sheet.width - x - 4, 13, keep_end=i == 0), _INK, font(13))
    return np.asarray(sheet)


def _original(out: Path, path: str, sha256: str, source: str | None) -> Photo | str:
    """The unchanged photograph, or why there is none."""
    data, name = read_original(out, path, source), shown(path)
    if data is None:
        where = f"not in {source}" if source else "not where prep found it. --source SRC names its new folder"
        return f"The photograph {name} is {where}"
    found = hashlib.sha256(data).hexdigest()
    if sha256 and found != sha256:
        return f"The photograph {name} has changed (its SHA-256 was {sha256[:12]}…, now {found[:12]}…)"
    try:
        return Photo(data)
    except Rejected as rejected:
        return f"The photograph {name} cannot be decoded ({rejected.reason})"


def _drawn_photo(
    photo: Photo, quad: Sequence[Sequence[float]], box: Sequence[float], keypoints: Sequence[Sequence[float]]
) -> Image.Image:
    long_side = max(photo.width, photo.height)
    shrink = next((shrink for shrink in (8, 4, 2) if long_side / shrink >= _PHOTO_PX), 1)
    scale = _PHOTO_PX / long_side
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    picture = Image.fromarray(photo.pixels(shrink)).resize(size, Image.Resampling.BICUBIC)
    ends = (box[0], box[1], box[0] + box[2], box[1] + box[3]) if box else (0, 0, photo.width, photo.height)
    corners = np.array(quad or (ends[:2], ends[2:])) * scale
    # Parts of the crop outside the photograph are shown as well, up to the photograph's own size.
    low = np.maximum(np.minimum(np.floor(corners.min(axis=0)) - 2, 0), [-size[0], -size[1]]).astype(int)
    high = np.minimum(np.maximum(np.ceil(corners.max(axis=0)) + 2, size), [2 * size[0], 2 * size[1]]).astype(int)
    canvas = Image.new("RGB", (int(high[0] - low[0]), int(high[1] - low[1])), (225, 225, 225))
    canvas.paste(picture, (int(-low[0]), int(-low[1])))
    draw = ImageDraw.Draw(canvas)

    def at(point: Sequence[float]) -> tuple[float, float]:
        return point[0] * scale - low[0] - 0.5, point[1] * scale - low[1] - 0.5  # Pillow counts from pixel centres

    if quad:
        outline = [at(point) for point in quad]
        draw.line([*outline, outline[0]], _QUAD, 2)
        draw.line([outline[0], outline[3]], _QUAD, 5)  # the face's upper edge
    if box:
        draw.rectangle((*at(ends[:2]), *at(ends[2:])), outline=_BOX, width=2)
    for point, colour in zip(keypoints, _POINTS, strict=False):
        x, y = at(point)
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour, outline=_INK)
    return canvas

"""One sample as a picture: its photograph with box, keypoints and quadrilateral, and the face beside it."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from facegan.console import Console
from facegan.errors import DatasetError
from facegan.faces.detect import KEYPOINTS
from facegan.faces.photo import Photo, Rejected
from facegan.prep.pictures.original import read_original
from facegan.shards.images import decode_image
from facegan.shards.samples import Found
from facegan.shards.schema import SampleMeta

_PHOTO_PX = 640  # long side of the photograph as it is drawn
_FACE_PX = 256
_MARGIN_PX, _LINE_PX = 16, 20
_PAPER, _INK = (255, 255, 255), (30, 30, 30)
_BOX, _QUAD = (66, 135, 245), (240, 60, 60)
_POINTS = ((255, 220, 0), (255, 160, 0), (0, 220, 120), (230, 90, 230), (0, 200, 230), (120, 240, 230))

_Colour = tuple[int, int, int]
_Line = tuple[str, _Colour | None]


def draw_sample(out: Path, sample: Found, source: str | None, console: Console) -> np.ndarray:
    """RGB uint8. Where the photograph is gone, or is another one now, the console says so and the face stands alone.

    Args:
        source: where the photographs lie now, if not where prep found them.
    """
    face = decode_image(sample.image)
    if face is None:
        raise DatasetError(f"The face {sample.key} can't be decoded. See what is wrong: facegan verify {out} --deep")
    photo = _original(out, sample.meta, source, console)
    shown = _drawn_photo(photo, sample.meta) if photo else None
    left = 2 * _MARGIN_PX + shown.width if shown else _MARGIN_PX
    lines = _lines(sample, face)
    height = max(shown.height if shown else 0, _FACE_PX + _MARGIN_PX + _LINE_PX * len(lines)) + 2 * _MARGIN_PX
    sheet = Image.new("RGB", (left + _FACE_PX + 2 * _MARGIN_PX, height), _PAPER)
    if shown:
        sheet.paste(shown, (_MARGIN_PX, _MARGIN_PX))
    enlarged = cv2.resize(face, (_FACE_PX, _FACE_PX), interpolation=cv2.INTER_NEAREST)
    sheet.paste(Image.fromarray(enlarged), (left, _MARGIN_PX))
    draw = ImageDraw.Draw(sheet)
    for i, (text, colour) in enumerate(lines):
        y = 2 * _MARGIN_PX + _FACE_PX + i * _LINE_PX
        if colour:
            draw.ellipse((left, y + 4, left + 9, y + 13), fill=colour, outline=_INK)
        draw.text((left + (16 if colour else 0), y), text, _INK, ImageFont.load_default(14))
    return np.asarray(sheet)


def _original(out: Path, meta: SampleMeta, source: str | None, console: Console) -> Photo | None:
    data = read_original(out, meta.path, source)
    if data is None:
        where = f"not in {source}" if source else "gone, or nobody knows where it lay (--source SRC tells)"
        console.warn(f"The photograph {meta.path} is {where}; only the face is drawn.")
        return None
    found = hashlib.sha256(data).hexdigest()
    if found != meta.sha256:
        console.warn(
            f"The photograph {meta.path} is another one now (SHA-256 {found[:12]}…, and it was {meta.sha256[:12]}…); "
            "only the face is drawn."
        )
        return None
    try:
        return Photo(data)
    except Rejected as rejected:
        console.warn(f"The photograph {meta.path} can't be decoded ({rejected.reason}); only the face is drawn.")
        return None


def _drawn_photo(photo: Photo, meta: SampleMeta) -> Image.Image:
    long_side = max(photo.width, photo.height)
    shrink = next((shrink for shrink in (8, 4, 2) if long_side / shrink >= _PHOTO_PX), 1)
    scale = _PHOTO_PX / long_side
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    picture = Image.fromarray(photo.pixels(shrink)).resize(size, Image.Resampling.BICUBIC)
    corners = np.array(meta.quad) * scale
    # What of the quadrilateral lies outside the photograph is shown as well, as far as there is any sense in it.
    low = np.maximum(np.minimum(np.floor(corners.min(axis=0)) - 2, 0), [-size[0], -size[1]]).astype(int)
    high = np.minimum(np.maximum(np.ceil(corners.max(axis=0)) + 2, size), [2 * size[0], 2 * size[1]]).astype(int)
    canvas = Image.new("RGB", (int(high[0] - low[0]), int(high[1] - low[1])), (225, 225, 225))
    canvas.paste(picture, (int(-low[0]), int(-low[1])))
    draw = ImageDraw.Draw(canvas)

    def at(point: list[float]) -> tuple[float, float]:
        return point[0] * scale - low[0] - 0.5, point[1] * scale - low[1] - 0.5  # Pillow counts from pixel centres

    quad = [at(point) for point in meta.quad]
    draw.line([*quad, quad[0]], _QUAD, 2)
    draw.line([quad[0], quad[3]], _QUAD, 5)  # the face's upper edge
    if meta.box:
        x, y, width, height = meta.box
        draw.rectangle((*at([x, y]), *at([x + width, y + height])), outline=_BOX, width=2)
    for point, colour in zip(meta.keypoints, _POINTS, strict=False):
        x, y = at(point)
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour, outline=_INK)
    return canvas


def _lines(sample: Found, face: np.ndarray) -> list[_Line]:
    """What stands below the face: text, and the colour in which it is drawn on the photograph."""
    meta = sample.meta
    key = sample.key if len(sample.key) <= 34 else f"{sample.key[:33]}…"
    lines: list[_Line] = [(key, None)]
    lines.append((f"score {meta.score:g}, {face.shape[1]} x {face.shape[0]} pixels", None))
    lines.append((f"photograph of {meta.width} x {meta.height}", None))
    lines.append(("the crop, its upper edge thick", _QUAD))
    if meta.box:
        lines.append(("the detector's box", _BOX))
    return lines + (list(zip(KEYPOINTS, _POINTS, strict=True)) if meta.keypoints else [])


def picture_bytes(rgb: np.ndarray, image_format: str) -> bytes:
    """A picture file of RGB pixels: ``png`` or ``jpeg``."""
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, image_format)
    return file.getvalue()

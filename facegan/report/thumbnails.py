"""Small pictures of photographs and faces for a dataset's page: from its source while that is there, and its shards."""

from __future__ import annotations

import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from facegan.config import PrepConfig
from facegan.faces import crop as cropping
from facegan.faces.decode import Photo, Rejected
from facegan.prep.cut import detection_shrink
from facegan.prep.inspect import origin_of, read_originals
from facegan.prep.preview import read_rejects, thumbnail_pixels
from facegan.remote import is_url
from facegan.report.pictures import Picture, fitting
from facegan.report.thresholds import upright_face
from facegan.shards.format import PREVIEW_FILE
from facegan.shards.images import decode_image
from facegan.shards.reader import Shard

_PHOTO_PX, _FACE_PX = 112, 64  # long side
_MOST_BYTES, _QUALITIES = 5_500, (80, 65, 45)  # of a picture's text
_BOX = (255, 214, 10)

Row = dict[str, Any]  # of photos.parquet; of a face with its row of detections.parquet, and its number as ``face``


def photo_pictures(
    folder: Path, photos: Sequence[Row], faces: Sequence[Row], config: PrepConfig | None
) -> tuple[dict[str, Picture], dict[int, Picture]]:
    """Whole photographs by path, with the box of the best face; and by number crops of ``faces``.

    Photographs that are gone, at a URL, changed or not to be decoded are left out.
    """
    by_path = {photo["path"]: photo for photo in (*photos, *faces)}
    to_crop = defaultdict[str, list[Row]](list)
    for face in faces:
        to_crop[face["path"]].append(face)
    whole = {photo["path"] for photo in photos}
    pictures, crops = dict[str, Picture](), dict[int, Picture]()
    origin = origin_of(folder)
    paths = [path for path, photo in by_path.items() if photo["reason"] not in ("crashed", "unreachable")]
    for path, data in read_originals(folder, paths) if origin and not is_url(origin.source) else ():
        with contextlib.suppress(Rejected, cv2.error):
            if hashlib.sha256(data).hexdigest() != by_path[path]["sha256"]:
                continue
            photo = Photo(data)
            if path in whole:
                pictures[path] = _picture(_small(photo, by_path[path]["box"]))
            for face in to_crop[path]:
                if config and (pixels := _cropped(photo, face, config)) is not None:
                    crops[face["face"]] = _picture(pixels)
    return pictures, crops


def preview_pictures(folder: Path) -> dict[str, Picture]:
    """The few rejected photographs by path that the preview has."""
    pictures = dict[str, Picture]()
    for _, reject in read_rejects(folder / PREVIEW_FILE):
        if (pixels := thumbnail_pixels(reject.png)) is not None:
            pictures[reject.path] = _picture(pixels)
    return pictures


def sample_pictures(folder: Path, faces: Sequence[Row]) -> dict[int, Picture]:
    """Those of the faces that became samples, by number."""
    wanted, pictures = defaultdict[str, dict[str, int]](dict), dict[int, Picture]()
    for face in (face for face in faces if face["key"]):
        wanted[face["shard"]][face["key"]] = face["face"]
    for name, rows in wanted.items():
        with contextlib.closing(Shard(folder / name)) as shard:
            images = {sample.key: bytes(shard.read(sample.image)) for sample in shard.samples if sample.key in rows}
        for key, image in images.items():
            if (pixels := decode_image(image)) is not None:
                pictures[rows[key]] = _picture(pixels)
    return pictures


def _small(photo: Photo, box: Sequence[float]) -> np.ndarray:
    long_side = max(photo.width, photo.height)
    pixels = photo.pixels(next((shrink for shrink in (8, 4, 2) if long_side / shrink >= _PHOTO_PX), 1))
    scale = min(_PHOTO_PX / long_side, 1)
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    if box:
        (left, top), (right, bottom) = (np.multiply(box[:2], scale), np.multiply(np.add(box[:2], box[2:]), scale))
        cv2.rectangle(small, (round(left), round(top)), (round(right), round(bottom)), _BOX)
    return small


def _cropped(photo: Photo, face: Row, config: PrepConfig) -> np.ndarray | None:
    """A face as prep would cut it out; None if the crop does not fit."""
    size, rotation = (photo.width, photo.height), face["rotation"]
    if config.crop_is_fixed:
        rectangle = cropping.fixed_rectangle(config.crop, *size)
        return None if rectangle is None else cropping.crop_rectangle(photo.pixels(), rectangle, _FACE_PX)
    quad = cropping.face_quad(upright_face(face, size), config.crop, config.scale, rotation, size)
    if not 1 <= cropping.quad_side(quad) <= 4 * max(size):
        return None
    shrink = cropping.crop_shrink(quad, _FACE_PX, detection_shrink(photo))
    return cropping.crop(photo.pixels(shrink), quad, _FACE_PX, shrink)


def _picture(pixels: np.ndarray) -> Picture:
    scale = _PHOTO_PX / max(pixels.shape[:2])
    if scale < 1:
        pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return fitting(pixels.astype(np.uint8), _MOST_BYTES, _QUALITIES)

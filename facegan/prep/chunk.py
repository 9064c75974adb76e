"""The unit of work: a chunk of photographs → a shard and a row for every photograph. A pure function of its inputs."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from facegan.config import PrepConfig
from facegan.errors import ModelError
from facegan.faces import crop as cropping
from facegan.faces.crop import (
    best_rotation,
    crop_rectangle,
    fixed_rectangle,
    grey,
    rectangle_quad,
    rotated_face,
    rotated_quad,
    rotated_size,
    sharpness,
)
from facegan.faces.decode import Photo, Rejected
from facegan.faces.detect import Detector, Face, look_again, nearest_to_centre
from facegan.prep.request import attribute_values
from facegan.prep.sources.base import DAMAGED, MAX_BYTES, Entry, Reader
from facegan.remote import RemoteUnavailable, TooLarge
from facegan.shards.format import SampleRecord, readable_path, sample_key
from facegan.shards.images import encode_image
from facegan.shards.writer import ShardStats, ShardWriter

_SMALL_SIDE = 1024  # px; from this long side on, faces are detected on a shrunk decode
_SHOWN_REJECTS = 3  # thumbnails per reason that a chunk keeps for the preview
_THUMBNAIL_PX = 96


class Item(NamedTuple):
    """A photograph of a chunk.

    Attributes:
        path: in the dataset.
        preset_reason: it is rejected for this reason (``duplicate``, ``crashed``), decided before the chunk is made.
        attributes: as bits; the chunk has their names.
    """

    path: bytes
    entry: Entry
    preset_reason: str = ""
    attributes: int = 0


@dataclass(frozen=True)
class Chunk:
    """Photographs that go into one shard."""

    number: int
    items: tuple[Item, ...]
    attributes: tuple[str, ...] = ()


@dataclass
class PhotoRecord:
    """One photograph's row of photos.parquet."""

    path: str
    bytes: int
    sha256: str = ""
    width: int = 0
    height: int = 0
    outcome: str = "rejected"
    reason: str = ""
    faces: int = 0
    scores: list[float] = field(default_factory=list)
    box: list[float] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Thumbnail:
    """A rejected photograph as the preview shows it.

    Attributes:
        png: base64; empty if the photograph could not be decoded.
        score: of its best face; None if no face was found.
    """

    path: str
    reason: str
    png: str
    score: float | None = None


@dataclass(frozen=True)
class ChunkResult:
    """A chunk that was made.

    Attributes:
        shard: None if nothing was kept.
        crashes: unexpected errors, one per photograph.
        no_decoder: photographs that are ``unreadable`` because no installed library decodes their format.
        unreachable: the error of the first photograph that could not be fetched.
    """

    rows: list[PhotoRecord]
    shard: ShardStats | None
    rejects: list[Thumbnail]
    crashes: list[str]
    no_decoder: int = 0
    unreachable: str = ""


@dataclass(frozen=True)
class FaceCrop:
    """A face that was cut out.

    Attributes:
        face: None without a detector.
        quad: starts at the crop's top left corner, however the photograph was rotated.
        pixels: uint8 RGB, (size, size, 3).
        rotation: degrees clockwise by which the upright photograph (EXIF undone) was rotated to find the face. Face and
            quad are in pixels of the photograph before that.
    """

    face: Face | None
    quad: cropping.Quad
    pixels: np.ndarray
    rotation: int = 0


def process_chunk(
    chunk: Chunk, config: PrepConfig, reader: Reader, detector: Detector, path: Path, temporary: Path
) -> ChunkResult:
    """Write the chunk's shard to ``path`` (by way of ``temporary``), unflushed.

    Raises:
        ModelError: a model cannot be loaded, or a detector breaks its protocol.
    """
    rows: list[PhotoRecord] = []
    rejects: list[Thumbnail] = []
    crashes: list[str] = []
    no_decoder = 0
    unreachable = ""
    with ShardWriter(path, temporary) as shard:
        for raw_path, entry, preset_reason, bits in chunk.items:
            row = PhotoRecord(readable_path(raw_path), entry.size)
            rows.append(row)
            photo, samples = None, []
            try:
                if preset_reason == "crashed":  # do not read it again
                    raise Rejected(preset_reason)
                data = _read(reader, entry)
                row.bytes = len(data)
                row.sha256 = hashlib.sha256(data).hexdigest()
                photo = Photo(data)
                row.width, row.height = photo.width, photo.height
                if preset_reason:
                    raise Rejected(preset_reason)
                cuts = _cut_faces(photo, config, detector, row)
                more = attribute_values(chunk.attributes, bits)
                samples = [(_encoded(cut.pixels, config), _meta(row, cut, entry.label, more)) for cut in cuts]
            except Rejected as rejected:
                row.reason = rejected.reason
                no_decoder += rejected.no_decoder
                if row.reason == "unreachable":
                    unreachable = unreachable or f"{row.path}: {rejected.__cause__}"
                if sum(reject.reason == row.reason for reject in rejects) < _SHOWN_REJECTS:
                    rejects.append(Thumbnail(row.path, row.reason, _thumbnail(photo), max(row.scores, default=None)))
            except ModelError:
                raise
            except Exception as error:  # a decoder's surprise costs one photograph, never the run
                row.reason = "crashed"
                crashes.append(f"{row.path}: {type(error).__name__}: {error}")
            row.outcome = "kept" if samples else "rejected"
            row.keys = [sample_key(raw_path, i) for i in range(len(samples))]
            for key, (image, meta) in zip(row.keys, samples, strict=True):
                shard.add(key, config.format, image, meta)
        return ChunkResult(rows, shard.commit(flushed=False), rejects, crashes, no_decoder, unreachable)


def entries_read(chunk: Chunk) -> list[Entry]:
    """The entries that `process_chunk` reads, in its order."""
    return [item.entry for item in chunk.items if item.preset_reason != "crashed" and item.entry.size <= MAX_BYTES]


def _read(reader: Reader, entry: Entry) -> bytes:
    if entry.size > MAX_BYTES:
        raise Rejected("too_large")
    try:
        data = reader.read(entry)
    except (RemoteUnavailable, OSError) as error:
        raise Rejected("unreachable") from error
    except TooLarge as error:
        raise Rejected("too_large") from error
    except DAMAGED as error:
        raise Rejected("unreadable") from error
    if len(data) > MAX_BYTES:
        raise Rejected("too_large")
    return data


def _cut_faces(photo: Photo, config: PrepConfig, detector: Detector, row: PhotoRecord) -> list[FaceCrop]:
    """The faces that become samples, best first; one fixed crop without a detector.

    Raises:
        Rejected: no face can be cut out; the reason is that of the best face.
    """
    if config.detector == "none":
        return [_cut_fixed(photo, None, config)]
    shrink = _detection_shrink(photo)
    pixels = photo.pixels(shrink)
    found, rotation = detector.detect(pixels, config.min_score), 0
    if config.rotate == "auto":
        found, rotation = best_rotation(pixels, found, detector, config.min_score)
    if not found:
        raise _not_found(photo, pixels, config, detector, row)
    faces = [face.scaled(shrink) for face in found]
    row.faces = len(faces)
    _note_scores(row, faces)
    if rotation:
        faces = [rotated_face(face, rotation, photo.width, photo.height) for face in faces]
    cuts, reasons = [], []
    for face in _chosen(faces, rotated_size(rotation, photo.width, photo.height), config):
        try:
            cuts.append(_cut(photo, face, rotation, config, shrink))
        except Rejected as rejected:
            reasons.append(rejected.reason)
    if not cuts:
        raise Rejected(reasons[0])
    return cuts


def _not_found(photo: Photo, pixels: np.ndarray, config: PrepConfig, detector: Detector, row: PhotoRecord) -> Rejected:
    """Why no face was found. ``low_score`` promises a sample at a lower --min-score, so the face must pass the crop."""
    shrink, again = _detection_shrink(photo), look_again(detector, pixels)
    if again.best is None:
        return Rejected("no_face")
    face = again.best.scaled(shrink)
    _note_scores(row, [face])
    if not again.is_face:
        return Rejected("no_face")
    try:
        _cut(photo, face, 0, config, shrink)
    except Rejected as rejected:
        return rejected
    return Rejected("low_score")


def _note_scores(row: PhotoRecord, faces: list[Face]) -> None:
    row.scores = [face.score for face in faces]
    row.box = list(max(faces, key=lambda face: face.score).box)


def _detection_shrink(photo: Photo) -> int:
    long_side = max(photo.width, photo.height)
    return next((shrink for shrink in (1, 2, 4) if long_side / shrink < _SMALL_SIDE), 8)


def _chosen(faces: list[Face], size: tuple[int, int], config: PrepConfig) -> list[Face]:
    if config.faces == "only" and len(faces) > 1:
        raise Rejected("several_faces")
    if config.faces == "all":
        return sorted(faces, key=lambda face: (-face.score, face.box))
    # An upside-down face is often a false detection next to an upright one, so upright ones come first.
    return [nearest_to_centre([f for f in faces if f.anatomical] or faces, *size)]


def _cut(photo: Photo, face: Face, rotation: int, config: PrepConfig, decoded: int) -> FaceCrop:
    """Cut out a face, given in pixels of the photograph as rotated."""
    if not face.anatomical:
        raise Rejected("bad_keypoints")
    if config.crop_is_fixed:
        return _cut_fixed(photo, face, config)
    make_quad = cropping.aligned_quad if config.crop == "aligned" else cropping.box_quad
    quad = make_quad(face, config.margin)
    if rotation:  # back into the photograph before its rotation
        back, size = 360 - rotation, rotated_size(rotation, photo.width, photo.height)
        face, quad = rotated_face(face, back, *size), rotated_quad(quad, back, *size)
    if cropping.outside_share(quad, photo.width, photo.height) > config.max_outside:
        raise Rejected("off_edge")
    if config.min_face and cropping.quad_side(quad) < config.min_face:
        raise Rejected("too_small")
    shrink = cropping.crop_shrink(quad, config.size, decoded)
    pixels = cropping.crop(photo.pixels(shrink), quad, config.size, shrink)
    _require_sharp(pixels, config)
    return FaceCrop(face, quad, pixels, rotation)


def _cut_fixed(photo: Photo, face: Face | None, config: PrepConfig) -> FaceCrop:
    rectangle = fixed_rectangle(config.crop, photo.width, photo.height)
    if rectangle is None or (config.min_face and min(photo.width, photo.height) < config.min_face):
        raise Rejected("too_small")
    pixels = crop_rectangle(photo.pixels(), rectangle, config.size)
    _require_sharp(pixels, config)
    return FaceCrop(face, rectangle_quad(rectangle), pixels)


def _require_sharp(pixels: np.ndarray, config: PrepConfig) -> None:
    if config.min_sharpness and sharpness(pixels) < config.min_sharpness:
        raise Rejected("blurry")


def _encoded(pixels: np.ndarray, config: PrepConfig) -> bytes:
    return encode_image(grey(pixels) if config.channels == 1 else pixels, config.format)


def _meta(row: PhotoRecord, cut: FaceCrop, label: int, attributes: dict[str, int]) -> bytes:
    face = cut.face
    return SampleRecord(
        path=row.path,
        sha256=row.sha256,
        width=row.width,
        height=row.height,
        quad=cut.quad.tolist(),
        box=face.box if face else (),
        keypoints=face.keypoints if face else (),
        score=face.score if face else 0.0,
        turned=cut.rotation,
        label=label,
        attributes=attributes,
    ).to_json()


def _thumbnail(photo: Photo | None) -> str:
    if photo is None:
        return ""
    try:
        pixels = photo.pixels(_detection_shrink(photo))
    except (Rejected, cv2.error):
        return ""
    scale = _THUMBNAIL_PX / max(pixels.shape[:2])
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return base64.b64encode(cv2.imencode(".png", cv2.cvtColor(small, cv2.COLOR_RGB2BGR))[1].tobytes()).decode()

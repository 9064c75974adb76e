"""The unit of work: a chunk of photographs → a shard and a row for every photograph. A pure function of its inputs."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from facegan.config import PrepConfig
from facegan.errors import ModelError
from facegan.faces import crop as cropping
from facegan.faces.crop import best_rotation, rotated_face, rotated_size
from facegan.faces.decode import Photo, Rejected
from facegan.faces.detect import Detector, Face, SecondLook, look_again, nearest_to_centre
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
    """A photograph of a chunk."""

    path: bytes  # in the dataset
    entry: Entry
    preset_reason: str = ""  # why it is rejected, decided before the chunk is made: ``duplicate`` or ``crashed``
    attributes: int = 0  # as bits; the chunk has their names


@dataclass(frozen=True)
class Chunk:
    """Photographs that go into one shard."""

    number: int
    items: tuple[Item, ...]
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Survey:
    """Photographs to be looked at: which of these settings would keep them?"""

    items: tuple[Item, ...]
    configs: tuple[PrepConfig, ...]


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
    """A rejected photograph as the preview shows it."""

    path: str
    reason: str
    png: str  # base64; empty if the photograph could not be decoded
    score: float | None = None  # of its best face


@dataclass
class ChunkResult:
    """A chunk that was made."""

    rows: list[PhotoRecord] = field(default_factory=list)
    shard: ShardStats | None = None  # None if nothing was kept
    rejects: list[Thumbnail] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)  # unexpected errors, one per photograph
    no_decoder: int = 0  # photographs that are ``unreadable`` because no installed library decodes their format
    unreachable: str = ""  # the error of the first photograph that could not be fetched


@dataclass(frozen=True)
class FaceCrop:
    """A face that was cut out."""

    face: Face | None  # None without a detector
    quad: cropping.Quad  # starts at the crop's top left corner, however the photograph was rotated
    pixels: np.ndarray  # uint8 RGB, (size, size, 3); grey, (size, size, 1), if the dataset is
    # Degrees clockwise by which the upright photograph was rotated to find the face; face and quad precede that.
    rotation: int = 0


def process_chunk(
    chunk: Chunk, config: PrepConfig, reader: Reader, detector: Detector, path: Path, temporary: Path
) -> ChunkResult:
    """Write the chunk's shard to ``path`` (by way of ``temporary``), unflushed. `ModelError` passes."""
    result = ChunkResult()
    with ShardWriter(path, temporary) as shard:
        for item in chunk.items:
            row = PhotoRecord(readable_path(item.path), item.entry.size)
            result.rows.append(row)
            photo, samples = None, []
            try:
                if item.preset_reason == "crashed":  # do not read it again
                    raise Rejected(item.preset_reason)
                data = _read(reader, item.entry)
                row.bytes = len(data)
                row.sha256 = hashlib.sha256(data).hexdigest()
                photo = Photo(data)
                row.width, row.height = photo.width, photo.height
                if item.preset_reason:
                    raise Rejected(item.preset_reason)
                attributes = attribute_values(chunk.attributes, item.attributes)
                for cut in _cut_faces(photo, config, detector, row):
                    samples.append((encode_image(cut.pixels, config.format), _meta(row, cut, item, attributes)))
            except Rejected as rejected:
                row.reason = rejected.reason
                result.no_decoder += rejected.no_decoder
                if row.reason == "unreachable":
                    result.unreachable = result.unreachable or f"{row.path}: {rejected.__cause__}"
                if sum(reject.reason == row.reason for reject in result.rejects) < _SHOWN_REJECTS:
                    score = max(row.scores, default=None)
                    result.rejects.append(Thumbnail(row.path, row.reason, _thumbnail(photo), score))
            except ModelError:
                raise
            except Exception as error:  # a decoder's surprise costs one photograph, never the run
                samples, row.reason = [], "crashed"
                result.crashes.append(f"{row.path}: {type(error).__name__}: {error}")
            row.outcome = "kept" if samples else "rejected"
            for number, (image, meta) in enumerate(samples):
                row.keys.append(sample_key(item.path, number))
                shard.add(row.keys[-1], config.format, image, meta)
        result.shard = shard.commit(flushed=False)
    return result


def survey_photo(item: Item, configs: tuple[PrepConfig, ...], reader: Reader, detector: Detector) -> tuple[str, ...]:
    """Why each of the settings would reject a photograph; "" where it would be kept. Detects once for each score."""
    once = _DetectsOnce(detector)
    try:
        photo = Photo(_read(reader, item.entry))
    except Exception as error:
        return (_reason(error),) * len(configs)

    def reason(config: PrepConfig) -> str:
        try:
            _cut_faces(photo, config, once, PhotoRecord("", 0))
        except Exception as error:
            return _reason(error)
        return ""

    return tuple(map(reason, configs))


def _reason(error: Exception) -> str:
    """As `process_chunk` has it: a decoder's surprise costs one photograph, never the run."""
    if isinstance(error, ModelError):
        raise error
    return error.reason if isinstance(error, Rejected) else "crashed"


class _DetectsOnce:
    """A detector that remembers its answers for one photograph."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._found: dict[tuple[int, float | None], tuple[np.ndarray, Any]] = {}  # pixels are held: their id is the key

    def detect(self, rgb: np.ndarray, min_score: float) -> list[Face]:
        return self._once(rgb, min_score, lambda: self._detector.detect(rgb, min_score))

    def look_again(self, rgb: np.ndarray) -> SecondLook:
        return self._once(rgb, None, lambda: look_again(self._detector, rgb))

    def _once(self, rgb: np.ndarray, min_score: float | None, look: Callable[[], Any]) -> Any:
        key = (id(rgb), min_score)
        if key not in self._found:
            self._found[key] = rgb, look()
        return self._found[key][1]

    def close(self) -> None:
        pass


def entries_read(chunk: Chunk) -> list[Entry]:
    """The entries that `process_chunk` reads, in its order."""
    return [item.entry for item in chunk.items if item.preset_reason != "crashed" and item.entry.size <= MAX_BYTES]


def _read(reader: Reader, entry: Entry) -> bytes:
    try:
        if entry.size <= MAX_BYTES and len(data := reader.read(entry)) <= MAX_BYTES:
            return data
    except (RemoteUnavailable, OSError) as error:
        raise Rejected("unreachable") from error
    except TooLarge:
        pass
    except DAMAGED as error:
        raise Rejected("unreadable") from error
    raise Rejected("too_large")


def _cut_faces(photo: Photo, config: PrepConfig, detector: Detector, row: PhotoRecord) -> list[FaceCrop]:
    """The faces that become samples, best first; one fixed crop without a detector. Rejected as its best face is."""
    if config.detector == "none":
        return [_cut_fixed(photo, None, config)]
    shrink = _detection_shrink(photo)
    pixels = photo.pixels(shrink)
    found, rotation = detector.detect(pixels, config.min_score), 0
    if config.rotate == "auto":
        found, rotation = best_rotation(pixels, found, detector, config.min_score)
    if not found:
        raise _not_found(photo, shrink, config, detector, row)
    faces = [face.scaled(shrink) for face in found]
    row.faces = len(faces)
    _note_scores(row, faces)
    if rotation:
        faces = [rotated_face(face, rotation, photo.width, photo.height) for face in faces]
    if config.faces == "only" and len(faces) > 1:
        raise Rejected("several_faces")
    chosen = sorted(faces, key=lambda face: (-face.score, face.box))
    if config.faces != "all":
        # An upside-down face is often a false detection next to an upright one, so upright ones come first.
        upright = [face for face in faces if face.anatomical]
        chosen = [nearest_to_centre(upright or faces, *rotated_size(rotation, photo.width, photo.height))]
    cuts, rejections = [], []
    for face in chosen:
        try:
            cuts.append(_cut(photo, face, rotation, config, shrink))
        except Rejected as rejected:
            rejections.append(rejected)
    if not cuts:
        raise rejections[0]
    return cuts


def _not_found(photo: Photo, shrink: int, config: PrepConfig, detector: Detector, row: PhotoRecord) -> Rejected:
    """Why no face was found. ``low_score`` promises a sample at a lower --min-score, so the face must pass the crop."""
    again = look_again(detector, photo.pixels(shrink))
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


def _cut(photo: Photo, face: Face, rotation: int, config: PrepConfig, decoded: int) -> FaceCrop:
    """Cut out a face, given in pixels of the photograph as rotated."""
    if not face.anatomical:
        raise Rejected("bad_keypoints")
    if config.crop_is_fixed:
        return _cut_fixed(photo, face, config)
    make_quad = cropping.aligned_quad if config.crop == "aligned" else cropping.box_quad
    quad = make_quad(face, config.scale)
    if rotation:  # back into the photograph before its rotation
        back, size = 360 - rotation, rotated_size(rotation, photo.width, photo.height)
        face, quad = rotated_face(face, back, *size), cropping.rotated_quad(quad, back, *size)
    if cropping.outside_share(quad, photo.width, photo.height) > config.max_outside:
        raise Rejected("off_edge")
    if config.min_face and cropping.quad_side(quad) < config.min_face:
        raise Rejected("too_small")
    shrink = cropping.crop_shrink(quad, config.size, decoded)
    pixels = cropping.crop(photo.pixels(shrink), quad, config.size, shrink)
    return FaceCrop(face, quad, _checked(pixels, config), rotation)


def _cut_fixed(photo: Photo, face: Face | None, config: PrepConfig) -> FaceCrop:
    rectangle = cropping.fixed_rectangle(config.crop, photo.width, photo.height)
    if rectangle is None or (config.min_face and min(photo.width, photo.height) < config.min_face):
        raise Rejected("too_small")
    pixels = cropping.crop_rectangle(photo.pixels(), rectangle, config.size)
    return FaceCrop(face, cropping.rectangle_quad(rectangle), _checked(pixels, config))


def _checked(pixels: np.ndarray, config: PrepConfig) -> np.ndarray:
    """The crop in the dataset's channels; raises `Rejected` if it is blurred."""
    if config.min_sharpness and cropping.sharpness(pixels) < config.min_sharpness:
        raise Rejected("blurry")
    return cropping.grey(pixels) if config.channels == 1 else pixels


def _meta(row: PhotoRecord, cut: FaceCrop, item: Item, attributes: dict[str, int]) -> bytes:
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
        label=item.entry.label,
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

"""The unit of work: a chunk of photographs → a shard and a row for every photograph. A pure function of its inputs."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from facegan.config import PrepConfig
from facegan.errors import ModelError
from facegan.faces.decode import Photo, Rejected
from facegan.faces.detect import Detector
from facegan.faces.find import looks_everywhere
from facegan.faces.measure import AlignedCrop
from facegan.prep.cut import Detection, FaceCrop, KnownFaces, PhotoFaces, PhotoRecord, detection_shrink
from facegan.prep.sources.base import DAMAGED, MAX_BYTES, Entry, Reader
from facegan.remote import RemoteUnavailable, TooLarge
from facegan.shards.format import Attributes, SampleRecord, readable_path, sample_key
from facegan.shards.images import decode_image, encode_image
from facegan.shards.writer import ShardStats, ShardWriter

_MEASURED_AT_ONCE = 64  # faces, of 12 KB each
SHOWN_REJECTS = 3  # thumbnails per reason that a chunk keeps for the preview
_THUMBNAIL_PX = 96


class Item(NamedTuple):
    """A photograph of a chunk."""

    path: bytes  # in the dataset
    entry: Entry
    preset_reason: str = ""  # decided before: ``duplicate`` or ``crashed``; in a repair, ``near_duplicate``
    attributes: tuple[int | float, ...] = ()  # the chunk has their names
    known: KnownFaces | None = None
    duplicate_of: str = ""  # path of the photograph that it repeats
    identity: str = ""  # the person

    def known_faces(self, sha256: str) -> KnownFaces | None:
        """None if they are those of another file that had this path."""
        return self.known if self.known and self.known.sha256 == sha256 else None


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


def process_chunk(
    chunk: Chunk, config: PrepConfig, reader: Reader, detector: Detector, path: Path, temporary: Path
) -> ChunkResult:
    """Write the chunk's shard to ``path`` (by way of ``temporary``), unflushed. `ModelError` passes."""
    result, to_complete = ChunkResult(), list[Detection]()
    with ShardWriter(path, temporary) as shard:
        for item in chunk.items:
            if len(to_complete) >= _MEASURED_AT_ONCE:
                _complete(to_complete)
            row = PhotoRecord(readable_path(item.path), item.entry.size)
            row.duplicate_of, row.identity = item.duplicate_of, item.identity
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
                if item.preset_reason == "duplicate":
                    raise Rejected(item.preset_reason)
                attributes = dict(zip(chunk.attributes, item.attributes, strict=True))
                faces = PhotoFaces(photo, config, detector, item.known_faces(row.sha256))
                detections = list(faces.detections(config))
                row.detections = [found for found, _ in detections]
                to_complete += detections
                for cut in faces.cut(config, row):
                    samples.append((cut, encode_image(cut.pixels, config.format), _meta(row, cut, item, attributes)))
                if item.preset_reason:  # its row has what was found
                    raise Rejected(item.preset_reason)
            except Rejected as rejected:
                row.reason = rejected.reason
                result.no_decoder += rejected.no_decoder
                if row.reason == "unreachable":
                    result.unreachable = result.unreachable or f"{row.path}: {rejected.__cause__}"
                if sum(reject.reason == row.reason for reject in result.rejects) < SHOWN_REJECTS:
                    score = max(row.scores, default=None)
                    picture = face_thumbnail(samples[0][1]) if samples else thumbnail(photo)
                    result.rejects.append(Thumbnail(row.path, row.reason, picture, score))
                samples = []
            except ModelError:
                raise
            except Exception as error:  # a decoder's surprise costs one photograph, never the run
                samples, row.reason = [], "crashed"
                result.crashes.append(f"{row.path}: {type(error).__name__}: {error}")
            row.outcome = "kept" if samples else "rejected"
            for number, (cut, image, meta) in enumerate(samples):
                row.keys.append(sample_key(item.path, number))
                if cut.face:
                    row.set_key(cut.face, row.keys[-1])
                shard.add(row.keys[-1], config.format, image, meta)
        result.shard = shard.commit(flushed=False)
    _complete(to_complete)
    return result


def _complete(detections: list[Detection]) -> None:
    """Adds the measures to rows. To take many at a time halves their cost: each needs functions of OpenCV that
    MediaPipe drives out of the CPU's caches."""
    for row, measured in detections:
        row.update(vars(measured.measure() if isinstance(measured, AlignedCrop) else measured))
    detections.clear()


def survey_photo(item: Item, configs: tuple[PrepConfig, ...], reader: Reader, detector: Detector) -> tuple[str, ...]:
    """Why each of the settings would reject a photograph; "" where it would be kept. Looks for faces once if it can."""
    try:
        data = _read(reader, item.entry)
        photo, known = Photo(data), item.known_faces(hashlib.sha256(data).hexdigest())
    except Exception as error:
        return (_reason(error),) * len(configs)
    found: dict[tuple[Any, ...], PhotoFaces] = {}

    def reason(config: PrepConfig) -> str:
        key = config.rotate, looks_everywhere(config), config.min_score if ":" in config.detector else None
        try:
            if key not in found:
                found[key] = PhotoFaces(photo, config, detector, known)
            found[key].cut(config, PhotoRecord("", 0))
        except Exception as error:
            return _reason(error)
        return ""

    return tuple(map(reason, configs))


def _reason(error: Exception) -> str:
    """As `process_chunk` has it: a decoder's surprise costs one photograph, never the run."""
    if isinstance(error, ModelError):
        raise error
    return error.reason if isinstance(error, Rejected) else "crashed"


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


def _meta(row: PhotoRecord, cut: FaceCrop, item: Item, attributes: Attributes) -> bytes:
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


def thumbnail(photo: Photo | None) -> str:
    """As a `Thumbnail` has it."""
    if photo is None:
        return ""
    try:
        pixels = photo.pixels(detection_shrink(photo))
    except (Rejected, cv2.error):
        return ""
    return _small_png(pixels)


def face_thumbnail(image: bytes) -> str:
    """Of a near-duplicate its face, as a sample's image has it."""
    pixels = decode_image(image)
    return "" if pixels is None else _small_png(pixels)


def _small_png(pixels: np.ndarray) -> str:
    scale = _THUMBNAIL_PX / max(pixels.shape[:2])
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return base64.b64encode(cv2.imencode(".png", cv2.cvtColor(small, cv2.COLOR_RGB2BGR))[1].tobytes()).decode()

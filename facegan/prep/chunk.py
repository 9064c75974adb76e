"""The unit of work: a chunk of photographs → a shard and a row for every photograph. A pure function of its inputs."""

from __future__ import annotations

import base64
import hashlib
import lzma
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from facegan.config import PrepConfig
from facegan.faces import crop as cropping
from facegan.faces.detect import LOOK_AGAIN_SCORE, Detector, Face, nearest_to_centre
from facegan.faces.photo import Photo, Rejected
from facegan.prep.sources import MAX_BYTES, Entry, Reader
from facegan.shards.images import encode_image
from facegan.shards.layout import readable_path, sample_json, sample_key
from facegan.shards.write import ShardSum, ShardWriter

_SMALL_SIDE = 1024  # photos with a long side from here on are detected on a shrunk decode
_SHOWN_REJECTS = 3  # thumbnails of each reason that a chunk keeps for the preview
_THUMBNAIL_PX = 96
# What reading raises for a file that is damaged, or a zip's member that is encrypted or packed in an unknown way.
_UNREADABLE = (OSError, EOFError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class Chunk:
    """Photographs that go into one shard: where each lies in the source, and its path in the dataset."""

    number: int
    entries: tuple[tuple[bytes, Entry], ...]


@dataclass
class Row:
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
    keys: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Thumbnail:
    """A rejected photograph as the preview shows it: ``png`` is base64, empty where nothing could be decoded."""

    path: str
    reason: str
    png: str


@dataclass(frozen=True)
class ChunkResult:
    """What became of a chunk. ``shard`` is None where nothing was kept; ``crashes`` tells of faults of our own.

    ``no_decoder`` counts photographs that are ``unreadable`` because no installed library decodes their format.
    """

    rows: list[Row]
    shard: ShardSum | None
    rejects: list[Thumbnail]
    crashes: list[str]
    no_decoder: int


@dataclass(frozen=True)
class Cut:
    """One face cut out: what a sample is made of."""

    face: Face
    quad: cropping.Quad
    pixels: np.ndarray


def process_chunk(
    chunk: Chunk, config: PrepConfig, reader: Reader, detector: Detector, path: Path, temporary: Path
) -> ChunkResult:
    """Writes the chunk's shard to ``path`` (by way of ``temporary``) and tells what became of every photograph."""
    rows: list[Row] = []
    rejects: list[Thumbnail] = []
    crashes: list[str] = []
    no_decoder = 0
    with ShardWriter(path, temporary) as shard:
        for raw_path, entry in chunk.entries:
            row = Row(readable_path(raw_path), entry.size)
            rows.append(row)
            photo, samples = None, []
            try:
                data = _read(reader, entry)
                row.sha256 = hashlib.sha256(data).hexdigest()
                photo = Photo(data)
                row.width, row.height = photo.width, photo.height
                cuts = _cut_faces(photo, config, detector, row)
                samples = [(encode_image(cut.pixels, config.format), _meta(row, cut)) for cut in cuts]
            except Rejected as rejected:
                row.reason = rejected.reason
                no_decoder += rejected.no_decoder
                if sum(reject.reason == row.reason for reject in rejects) < _SHOWN_REJECTS:
                    rejects.append(Thumbnail(row.path, row.reason, _thumbnail(photo)))
            except Exception as error:  # a decoder's surprise costs one photograph, never the run; it is told of
                row.reason = "crashed"
                crashes.append(f"{row.path}: {type(error).__name__}: {error}")
            row.outcome = "kept" if samples else "rejected"
            row.keys = [sample_key(raw_path, i) for i in range(len(samples))]
            for key, (image, meta) in zip(row.keys, samples, strict=True):
                shard.add(key, config.format, image, meta)
        return ChunkResult(rows, shard.commit(), rejects, crashes, no_decoder)


def _read(reader: Reader, entry: Entry) -> bytes:
    if entry.size > MAX_BYTES:
        raise Rejected("too_large")
    try:
        data = reader.read(entry)
    except _UNREADABLE as error:
        raise Rejected("unreadable") from error
    if len(data) > MAX_BYTES:
        raise Rejected("too_large")
    return data


def _cut_faces(photo: Photo, config: PrepConfig, detector: Detector, row: Row) -> list[Cut]:
    """The faces that become samples, best first.

    Raises:
        Rejected: there is none; the reason is that of the first face considered.
    """
    shrink = _detection_shrink(photo)
    pixels = photo.pixels(shrink)
    faces = [face.scaled(shrink) for face in detector.detect(pixels, config.min_score)]
    if not faces:
        faint = config.min_score > LOOK_AGAIN_SCORE and detector.detect(pixels, LOOK_AGAIN_SCORE)
        raise Rejected("low_score" if faint else "no_face")
    row.faces = len(faces)
    row.scores = [face.score for face in faces]
    cuts, reasons = [], []
    for face in _chosen(faces, photo, config):
        try:
            cuts.append(_cut(photo, face, config, shrink))
        except Rejected as rejected:
            reasons.append(rejected.reason)
    if not cuts:
        raise Rejected(reasons[0])
    return cuts


def _detection_shrink(photo: Photo) -> int:
    long_side = max(photo.width, photo.height)
    return next((shrink for shrink in (1, 2, 4) if long_side / shrink < _SMALL_SIDE), 8)


def _chosen(faces: list[Face], photo: Photo, config: PrepConfig) -> list[Face]:
    if config.faces == "only" and len(faces) > 1:
        raise Rejected("several_faces")
    if config.faces == "all":
        return sorted(faces, key=lambda face: (-face.score, face.box))
    # A face on its head is often a ghost of the upright one beside it, so the upright ones come first.
    return [nearest_to_centre([f for f in faces if f.anatomical] or faces, photo.width, photo.height)]


def _cut(photo: Photo, face: Face, config: PrepConfig, decoded: int) -> Cut:
    if not face.anatomical:
        raise Rejected("bad_keypoints")
    make_quad = cropping.aligned_quad if config.crop == "aligned" else cropping.box_quad
    quad = make_quad(face, config.margin)
    if cropping.outside_share(quad, photo.width, photo.height) > config.max_outside:
        raise Rejected("off_edge")
    shrink = cropping.crop_shrink(quad, config.size, decoded)
    return Cut(face, quad, cropping.crop(photo.pixels(shrink), quad, config.size, shrink))


def _meta(row: Row, cut: Cut) -> bytes:
    return sample_json(
        path=row.path,
        sha256=row.sha256,
        width=row.width,
        height=row.height,
        box=list(cut.face.box),
        keypoints=[list(point) for point in cut.face.keypoints],
        score=cut.face.score,
        quad=cut.quad.tolist(),
    )


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

"""A photograph → the faces that become samples, or the reason why it has none; and all faces found in it, measured."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from facegan.config import PrepConfig
from facegan.faces import crop as cropping
from facegan.faces.crop import rotated_face, rotated_size
from facegan.faces.decode import Photo, Rejected
from facegan.faces.detect import Detector, Face, nearest_to_centre
from facegan.faces.find import LEAST_SCORE, Found, find
from facegan.faces.measure import SIZE, AlignedCrop, Measures

_SMALL_SIDE = 1024  # px; from this long side on, faces are detected on a shrunk decode
_MEASURED_OUTSIDE = 0.75  # share of a crop outside the photograph up to which its pixels are measured


class KnownFaces(NamedTuple):
    """What an earlier run found in a photograph, by which settings."""

    sha256: str
    found: Found
    measures: dict[Face, Measures]
    config: PrepConfig


Detection = tuple[dict[str, Any], Measures | AlignedCrop]  # a row of detections.parquet, without and to get measures


@dataclass
class PhotoRecord:
    """One photograph's row of photos.parquet, and its rows of detections.parquet."""

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
    duplicate_of: str = ""
    identity: str = ""
    detections: list[dict[str, Any]] = field(default_factory=list)

    def set_key(self, face: Face, key: str) -> None:
        """Name the sample that was cut from a face."""
        for row in self.detections:
            if (row["box"], row["score"]) == (face.box, face.score):
                row["key"] = key
                return


@dataclass(frozen=True)
class FaceCrop:
    """A face that was cut out."""

    face: Face | None  # in pixels of the photograph; None without a detector
    quad: cropping.Quad  # starts at the crop's top left corner, however the photograph was rotated
    pixels: np.ndarray  # uint8 RGB, (size, size, 3); grey, (size, size, 1), if the dataset is
    rotation: int = 0  # degrees clockwise by which the upright photograph was rotated to find the face


def detection_shrink(photo: Photo) -> int:
    long_side = max(photo.width, photo.height)
    return next((shrink for shrink in (1, 2, 4) if long_side / shrink < _SMALL_SIDE), 8)


class PhotoFaces:
    """The faces of a photograph, found here or known from an earlier run. They are measured when that is asked for.

    Raises `Rejected` if the photograph cannot be decoded.
    """

    def __init__(self, photo: Photo, config: PrepConfig, detector: Detector, known: KnownFaces | None = None) -> None:
        self._photo, self._shrink = photo, detection_shrink(photo)
        self._size = photo.width, photo.height
        self._measures: dict[Face, Measures] = {}
        self._crops: dict[Face, AlignedCrop] = {}
        self.found = Found()
        if config.detector == "none":
            return
        again = known and known.found.again(known.config, config, *self._size)
        if known and again:
            self.found, self._measures = again, dict(known.measures)
        else:
            self.found = find(photo.pixels(self._shrink), self._shrink, self._size, detector, config)

    def cut(self, config: PrepConfig, row: PhotoRecord) -> list[FaceCrop]:
        """The faces that become samples, best first; one fixed crop without a detector. The row notes what was found.

        The page of a dataset decides in the same way: facegan/report/page/thresholds.js.

        Raises `Rejected` as the best face is, if all are.
        """
        if config.detector == "none":
            return [self._cut_fixed(None, config)]
        faces = {self._rotated(face): face for face in self.found.at(config)}
        if not faces:
            raise self._not_found(config, row)
        row.faces = len(faces)
        _note_scores(row, list(faces.values()))
        if config.faces == "only" and len(faces) > 1:
            raise Rejected("several_faces")
        chosen = sorted(faces, key=lambda face: (-face.score, face.box))
        if config.faces != "all":
            # An upside-down face is often a false detection next to an upright one, so upright ones come first.
            upright = [face for face in faces if face.anatomical]
            chosen = [nearest_to_centre(upright or list(faces), *rotated_size(self.found.rotation, *self._size))]
        cuts, rejections = [], []
        for face in chosen:
            try:
                cuts.append(self._cut(faces[face], config))
            except Rejected as rejected:
                rejections.append(rejected)
        if not cuts:
            raise rejections[0]
        return cuts

    def detections(self, config: PrepConfig) -> Iterator[Detection]:
        """The rows of detections.parquet, still without the keys of samples."""
        found = self.found
        faint = [face for face in found.faint if face.score >= LEAST_SCORE]
        for number, face in enumerate((*found.faces, *faint)):
            row = {
                "index": number,
                "key": "",
                "detector": config.detector,
                "rotation": found.rotation,
                "faint": number >= len(found.faces),
                "is_face": found.is_face or bool(found.faces),
                "box": face.box,
                "keypoints": list(itertools.chain(*face.keypoints)),
                "score": face.score,
            }
            yield row, self._measures.get(face) or self._aligned_crop(face)

    def _not_found(self, config: PrepConfig, row: PhotoRecord) -> Rejected:
        """Why no face is good enough. ``low_score`` promises a sample at a lower --min-score, so the face must pass."""
        best = self.found.best
        if best is None:
            return Rejected("no_face")
        _note_scores(row, [best])
        if not self.found.faces and not self.found.is_face:
            return Rejected("no_face")
        try:
            self._cut(best, config)
        except Rejected as rejected:
            return rejected
        return Rejected("low_score")

    def _cut(self, face: Face, config: PrepConfig) -> FaceCrop:
        rotated = self._rotated(face)
        if not rotated.anatomical:
            raise Rejected("bad_keypoints")
        if config.crop_is_fixed:
            return self._cut_fixed(face, config)
        is_measured = (config.crop, config.scale, config.size) == ("aligned", 1, SIZE)
        made = self._crops.get(face) if is_measured else None
        quad = made.quad if made else self._quad(rotated, config.crop, config.scale)
        if cropping.outside_share(quad, *self._size) > config.max_outside:
            raise Rejected("off_edge")
        if config.min_face and cropping.quad_side(quad) < config.min_face:
            raise Rejected("too_small")
        self._check_thresholds(face, config)
        pixels = made.pixels if made and made.pixels is not None else self._pixels(quad, config.size)
        return FaceCrop(face, quad, _in_channels(pixels, config), self.found.rotation)

    def _cut_fixed(self, face: Face | None, config: PrepConfig) -> FaceCrop:
        width, height = self._size
        rectangle = cropping.fixed_rectangle(config.crop, width, height)
        if rectangle is None or (config.min_face and min(width, height) < config.min_face):
            raise Rejected("too_small")
        if face:
            self._check_thresholds(face, config)
        pixels = cropping.crop_rectangle(self._photo.pixels(), rectangle, config.size)
        if face is None and config.min_sharpness and cropping.sharpness(pixels) < config.min_sharpness:
            raise Rejected("blurry")
        return FaceCrop(face, cropping.rectangle_quad(rectangle), _in_channels(pixels, config))

    def _check_thresholds(self, face: Face, config: PrepConfig) -> None:
        """On the measures of a face, which do not depend on the crop."""
        if config.min_sharpness and self._measured(face).sharpness < config.min_sharpness:
            raise Rejected("blurry")
        if config.min_brightness and self._measured(face).brightness < config.min_brightness:
            raise Rejected("dark")
        if config.max_yaw < 90 and abs(self._measured(face).yaw) > config.max_yaw:
            raise Rejected("turned_away")

    def _measured(self, face: Face) -> Measures:
        if face not in self._measures:
            self._measures[face] = self._aligned_crop(face).measure()
        return self._measures[face]

    def _aligned_crop(self, face: Face) -> AlignedCrop:
        if face not in self._crops:
            rotated = self._rotated(face)
            quad = self._quad(rotated, "aligned", 1)
            outside = cropping.outside_share(quad, *self._size)
            outside_box = cropping.outside_share(cropping.box_quad(face), *self._size)
            has_pixels = cropping.quad_side(quad) >= 1 and outside <= _MEASURED_OUTSIDE
            pixels = self._pixels(quad, SIZE) if has_pixels else None
            self._crops[face] = AlignedCrop(rotated, quad, (outside, outside_box), pixels)
        return self._crops[face]

    def _pixels(self, quad: cropping.Quad, size: int) -> np.ndarray:
        shrink = cropping.crop_shrink(quad, size, self._shrink)
        return cropping.crop(self._photo.pixels(shrink), quad, size, shrink)

    def _rotated(self, face: Face) -> Face:
        """In pixels of the photograph as rotated."""
        return rotated_face(face, self.found.rotation, *self._size) if self.found.rotation else face

    def _quad(self, rotated: Face, crop: str, margin: float) -> cropping.Quad:
        return cropping.face_quad(rotated, crop, margin, self.found.rotation, self._size)


def _note_scores(row: PhotoRecord, faces: list[Face]) -> None:
    row.scores = [face.score for face in faces]
    row.box = list(max(faces, key=lambda face: face.score).box)


def _in_channels(pixels: np.ndarray, config: PrepConfig) -> np.ndarray:
    return cropping.grey(pixels) if config.channels == 1 else pixels

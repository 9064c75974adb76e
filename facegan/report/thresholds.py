"""What other thresholds would keep: every face of a dataset in a few bytes, which the dataset's page compares.

`facegan.prep.cut.PhotoFaces` decides; page/thresholds.js does the same with these numbers. A slider takes steps, so of
a face's value the number of steps at which it passes is enough: one byte, and exact.

P photographs, F faces, T thresholds.
"""

from __future__ import annotations

import base64
import gzip
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from facegan.config import PrepConfig
from facegan.config.base import option_of
from facegan.faces.crop import face_quad, fixed_rectangle, outside_share, quad_side, rotated_face, rotated_size
from facegan.faces.detect import SURE_SCORE, Face, central_score
from facegan.faces.find import LEAST_SCORE

BAD_KEYPOINTS, FAINT, BEST, NOBODY = 1, 2, 4, 8  # flags of a face; the last: people would not see it
_DECIDED = ("", "no_face", "low_score", "bad_keypoints", "several_faces")  # and the reasons of thresholds
_MOST_BYTES = 3_500_000  # of the packed table; the page has 8 MB
_SCALE_STEPS, _BATCH = 100, 10_000
_TICKS = 6
_NEAREST, _SPREAD = 8, 30  # faces shown around a threshold on each side, and where it might be moved to


_FACE = np.dtype([
    *((name, float) for name in ("score", "outside", "side", "sharpness", "brightness", "yaw", "central")),
    ("flags", np.uint8), ("is_face", bool), ("row", np.int64), ("photo", np.int64),
    *((name, float) for name in "xywh"),
])  # fmt: skip


class _Kind(NamedTuple):
    """A threshold of prep. ``step``: None for steps that are finer where values are small."""

    setting: str
    measure: str
    title: str
    reason: str
    step: float | None
    high: float


_KINDS = (  # the score, and the others in the order in which prep compares them
    _Kind("min_score", "score", "Detection score", "low_score", 0.01, 1),
    _Kind("max_outside", "outside", "Share of the crop outside", "off_edge", 0.01, 1),
    _Kind("min_face", "side", "Side of the crop, pixels", "too_small", None, 0),
    _Kind("min_sharpness", "sharpness", "Sharpness", "blurry", None, 0),
    _Kind("min_brightness", "brightness", "Brightness, 0 to 255", "dark", 2, 254),
    _Kind("max_yaw", "yaw", "Looking aside, degrees", "turned_away", 1, 90),
)


THRESHOLDS = tuple(kind.setting for kind in _KINDS)


@dataclass(frozen=True)
class Threshold:
    """One slider."""

    option: str
    measure: str
    title: str
    reason: str
    is_minimum: bool
    steps: list[float]  # that it can take, ascending; the dataset's own is among them
    start: int  # number of the dataset's own
    default: float  # prep's, which a command need not name
    note: str  # why it does not go further
    ticks: list[tuple[float, float]]  # of the axis: position in steps, and value


@dataclass(frozen=True)
class FaceTable:
    """The faces of all photographs whose outcome thresholds decide, in the order in which prep prefers them."""

    thresholds: list[Threshold]
    faces: np.ndarray  # uint16 (P,): of each photograph that has any
    flags: np.ndarray  # uint8 (F,)
    steps: np.ndarray  # uint8 (T, F): of a minimum the number of steps passed, of a maximum the first passed
    values: np.ndarray  # float64 (T, F)
    rows: np.ndarray  # int64 (F,): in detections.parquet
    photos: np.ndarray  # int64 (F,): in photos.parquet
    without: int  # decided photographs without any face
    fixed: dict[str, int]  # photographs by reasons that no threshold changes
    choice: str  # --faces
    pools: list[list[int]]  # faces to show for each threshold, by ascending value

    def to_json(self) -> dict[str, Any]:
        return {
            "thresholds": [vars(threshold) for threshold in self.thresholds],
            "choice": self.choice,
            "photos": len(self.faces),
            "faces": len(self.flags),
            "without": self.without,
            "fixed": self.fixed,
            "packed": self.packed(),
        }

    def packed(self) -> str:
        """Base64 of gzip of ``faces`` (little-endian), ``flags`` and ``steps``."""
        raw = self.faces.astype("<u2").tobytes() + self.flags.tobytes() + self.steps.tobytes()
        return base64.b64encode(gzip.compress(raw, 6, mtime=0)).decode()


def face_table(detections: pa.Table, photos: pa.Table, config: PrepConfig) -> FaceTable | str:
    """The faces of a dataset, from rows of its two tables; or why thresholds of it cannot be tried."""
    if ":" in config.detector:
        return "Detections of your own detector are not used again, so other thresholds cannot be tried here."
    if config.min_score < LEAST_SCORE:
        return f"--min-score {config.min_score:g} is lower than the scores that are recorded, from {LEAST_SCORE:g}."
    decided, reasons = {*_DECIDED, *(kind.reason for kind in _KINDS)}, photos["reason"].to_pylist()
    number = {path: row for row, path in enumerate(photos["path"].to_pylist()) if reasons[row] in decided}
    sizes = list(zip(photos["width"].to_pylist(), photos["height"].to_pylist(), strict=True))
    found = _in_order(np.array(list(_measured(detections, config, number, sizes)), _FACE), config)
    kinds = [kind for kind in _KINDS if not (kind.measure == "outside" and config.crop_is_fixed)]
    thresholds = [_threshold(kind, found[kind.measure], config) for kind in kinds]
    steps = [
        np.searchsorted(threshold.steps, found[kind.measure], "right" if threshold.is_minimum else "left")
        for threshold, kind in zip(thresholds, kinds, strict=True)
    ]
    is_kept = np.array([key != "" for key in detections["key"].to_pylist()], bool)[found["row"]]
    of_photo = np.array(reasons)[found["photo"]]
    is_first = np.diff(found["photo"], prepend=-1) != 0
    counts = np.unique(found["photo"], return_counts=True)[1]
    table = FaceTable(
        thresholds=thresholds,
        faces=counts,
        flags=found["flags"],
        steps=np.array(steps, np.uint8),
        values=np.array([found[kind.measure] for kind in kinds]),
        rows=found["row"],
        photos=found["photo"],
        without=len(number) - len(counts),
        fixed=dict(Counter(reason for reason in reasons if reason not in decided)),
        choice=config.faces,
        pools=[
            _pool(each, threshold, found[kind.measure], is_kept | ((of_photo == kind.reason) & is_first))
            for each, threshold, kind in zip(steps, thresholds, kinds, strict=True)
        ],
    )
    too_large = len(table.packed()) > _MOST_BYTES
    return "There are too many faces to try other thresholds on a page." if too_large else table


def _in_order(found: np.ndarray, config: PrepConfig) -> np.ndarray:
    """Each photograph's faces as prep prefers them; the one that explains ``low_score`` is marked as `BEST`."""
    photo, faint = found["photo"], (found["flags"] & FAINT) > 0
    by_score = np.lexsort((-found["score"], faint, photo))
    best = by_score[np.diff(photo[by_score], prepend=-1) != 0]
    found["flags"][best] |= BEST
    found["flags"][best[faint[best] & ~found["is_face"][best]]] |= NOBODY
    if config.faces == "all":
        return found[np.lexsort((*(found[name] for name in "hwyx"), -found["score"], photo))]
    found = found[np.lexsort((-found["central"], found["flags"] & BAD_KEYPOINTS, photo))]
    return found[_can_be_best(found)] if config.faces == "best" else found


def _can_be_best(found: np.ndarray) -> np.ndarray:
    """Which faces --faces best could choose at any --min-score: no face that is preferred to them scores as much."""
    photo, flags, scores = (np.ascontiguousarray(found[name]) for name in ("photo", "flags", "score"))
    needed, further = np.ones(len(photo), bool), np.flatnonzero(np.diff(photo) == 0) + 1
    for face, first in zip(further.tolist(), np.searchsorted(photo, photo[further]).tolist(), strict=True):
        others = ((flags[first:face] ^ flags[face]) & FAINT == 0) & (scores[first:face] >= scores[face])
        needed[face] = flags[face] & BEST or not others.any()
    return needed


def _pool(steps: np.ndarray, threshold: Threshold, values: np.ndarray, is_shown: np.ndarray) -> list[int]:
    """Faces near a threshold, and near others that may be chosen."""
    known = np.flatnonzero(is_shown)
    known = known[np.argsort(values[known], kind="stable")]
    if not len(known):
        return []
    side = "left" if threshold.is_minimum else "right"
    middle = int(np.searchsorted(values[known], threshold.steps[threshold.start], side))
    wanted = np.linspace(steps[known[0]], steps[known[-1]], _SPREAD)
    spread = np.minimum(np.searchsorted(steps[known], wanted), len(known) - 1)
    near = range(max(middle - _NEAREST, 0), min(middle + _NEAREST, len(known)))
    return known[sorted({*near, *spread.tolist()})].tolist()


def _measured(
    detections: pa.Table, config: PrepConfig, number: dict[str, int], sizes: list[tuple[int, int]]
) -> Iterator[tuple[Any, ...]]:
    """Rows of `_FACE`, of photographs with a ``number``."""
    names = ("path", "rotation", "faint", "is_face", "box", "keypoints", "score", "sharpness", "brightness", "yaw")
    row = -1
    for batch in detections.select(names).to_batches(_BATCH):
        for face in batch.to_pylist():
            row += 1
            if (photo := number.get(face["path"])) is None:
                continue
            upright, size = upright_face(face, sizes[photo]), sizes[photo]
            outside, side = _geometry(upright, face["rotation"], size, config)
            central = central_score(upright, *rotated_size(face["rotation"], *size))
            flags = BAD_KEYPOINTS * (not upright.anatomical) + FAINT * face["faint"]
            measures = face["score"], outside, side, face["sharpness"], face["brightness"], abs(face["yaw"]), central
            yield *measures, flags, face["is_face"], row, photo, *upright.box


def upright_face(row: Mapping[str, Any], size: tuple[int, int]) -> Face:
    """The face of a row of detections.parquet, in its photograph of ``size`` as rotated."""
    x, y, width, height = row["box"]
    keypoints = tuple(zip(row["keypoints"][::2], row["keypoints"][1::2], strict=True))
    face = Face((x, y, width, height), keypoints, row["score"])
    return rotated_face(face, row["rotation"], *size) if row["rotation"] else face


def _geometry(face: Face, rotation: int, size: tuple[int, int], config: PrepConfig) -> tuple[float, float]:
    """Share outside the photograph, and side in its pixels, of the crop of these settings."""
    if config.crop_is_fixed:  # a photograph that is too small for it is too small at any --min-face
        return 0.0, min(size) if fixed_rectangle(config.crop, *size) else -1.0
    quad = face_quad(face, config.crop, config.scale, rotation, size)
    return outside_share(quad, *size), quad_side(quad)


def _threshold(kind: _Kind, values: np.ndarray, config: PrepConfig) -> Threshold:
    own, low, note = getattr(config, kind.setting), 0.0, ""
    if kind.setting == "min_score":
        low, note = LEAST_SCORE, f"Detections are recorded from a score of {LEAST_SCORE:g}."
        if config.faces != "best" and own >= SURE_SCORE:
            low, note = (SURE_SCORE, f"A lower one with --faces {config.faces} needs another look at the photographs.")
    if kind.step:
        steps = [round(low + i * kind.step, 2) for i in range(round((kind.high - low) / kind.step) + 1)]
    else:
        high = max(float(np.quantile(values, 0.995)) if len(values) else 0, 10.0)
        steps = [float(f"{high * (i / _SCALE_STEPS) ** 2:.3g}") for i in range(_SCALE_STEPS + 1)]
    if kind.setting == "min_face":  # has no effect with a fixed crop, for which a photograph may yet be too small
        steps = [] if config.crop_is_fixed and config.crop != "squash" else [round(step) for step in steps]
    steps = sorted({*steps, own})
    option, default = option_of(kind.setting), PrepConfig.default(kind.setting)
    is_minimum, ticks = kind.setting.startswith("min"), _ticks(steps, kind.step is not None)
    names = kind.measure, kind.title, kind.reason
    return Threshold(option, *names, is_minimum, steps, steps.index(own), default, note, ticks)


def _ticks(steps: list[float], is_linear: bool) -> list[tuple[float, float]]:
    """Round values that are well apart on an axis of steps."""
    wide = (steps[-1] - steps[0]) / _TICKS
    width = next(part * 10**power for power in range(-2, 7) for part in (1, 2, 5) if part * 10**power >= wide)
    quadratic = [0, *(part * 10**power for power in range(7) for part in (1, 2, 5))]
    ticks = list[tuple[float, float]]()
    for value in (round(width * i, 2) for i in range(2 * _TICKS)) if is_linear else quadratic:
        at = float(np.interp(value, steps, range(len(steps))))
        if steps[0] <= value <= steps[-1] and (not ticks or at - ticks[-1][0] >= len(steps) / (2 * _TICKS)):
            ticks.append((round(at, 2), value))
    return ticks

"""What other thresholds would keep: every face of a dataset in a few bytes, which the dataset's page compares.

`facegan.prep.cut.PhotoFaces` decides; page/thresholds.js does the same with these numbers. A slider takes steps, so of
a face's value the number of steps at which it passes is enough: one byte, and exact.
"""

from __future__ import annotations

import base64
import gzip
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from facegan.config import PrepConfig
from facegan.config.base import option_of
from facegan.faces.crop import face_quad, fixed_rectangle, outside_share, quad_side, rotated_face, rotated_size
from facegan.faces.detect import SURE_SCORE, Face, central_score
from facegan.faces.find import LEAST_SCORE
from facegan.shards.duplicates import first_within

_BAD_KEYPOINTS, _FAINT, _BEST, _NOBODY = 1, 2, 4, 8  # flags of a face; the last: people would not see it
_MOST_BYTES = 2_800_000  # of the packed table; the page has 8 MB
_STEPS, _TICKS = 100, 12  # of a scale that is finer where values are small; of an axis at most
_ROUNDS = [part * 10**power for power in range(6) for part in (1, 2, 5)]
_MOST_NEAR = 100_000  # numbers of faces
_NEAREST, _SPREAD = 8, 30  # faces shown around a threshold on each side, and where it might be moved to
_FACE = np.dtype(
    [(name, float) for name in ("score", "outside", "side", "sharpness", "brightness", "yaw", "central", *"xywh")]
    + [("flags", np.uint8), ("is_face", bool), ("row", np.int64), ("photo", np.int64)]  # rows of the two tables
)


class _Kind(NamedTuple):
    """A threshold of prep; ``step`` and ``high`` of its slider, by default from the values."""

    setting: str
    measure: str
    title: str
    reason: str
    step: float = 0
    high: float = 0


_KINDS = (  # the score, and the others in the order in which prep compares them
    _Kind("min_score", "score", "Detection score", "low_score", 0.01, 1),
    _Kind("max_outside", "outside", "Share of the crop outside", "off_edge", 0.01, 1),
    _Kind("min_face", "side", "Side of the crop, pixels", "too_small"),
    _Kind("min_sharpness", "sharpness", "Sharpness", "blurry"),
    _Kind("min_brightness", "brightness", "Brightness, 0 to 255", "dark", 2, 254),
    _Kind("max_yaw", "yaw", "Looking aside, degrees", "turned_away", 1, 90),
)
THRESHOLDS = tuple(kind.setting for kind in _KINDS)
_DECIDED = {"", "no_face", "bad_keypoints", "several_faces", "near_duplicate", *(kind.reason for kind in _KINDS)}


class FaceTable(NamedTuple):
    """The faces of all photographs whose outcome thresholds decide, in the order in which prep prefers them."""

    found: np.ndarray  # `_FACE` (F,)
    measures: list[str]  # those that have a threshold
    pools: list[list[int]]  # numbers of the faces to show for each of them, by ascending value
    data: dict[str, Any]  # for the page


def face_table(detections: pa.Table, photos: pa.Table, config: PrepConfig) -> FaceTable | str:
    """The faces of a dataset, from rows of its two tables; or why thresholds of it cannot be tried."""
    if ":" in config.detector:
        return "Detections of your own detector are not used again, so other thresholds cannot be tried here."
    if config.min_score < LEAST_SCORE:
        return f"--min-score {config.min_score:g} is lower than the scores that are recorded, from {LEAST_SCORE:g}."
    reasons = photos["reason"].to_pylist()
    number = {path: row for row, path in enumerate(photos["path"].to_pylist()) if reasons[row] in _DECIDED}
    sizes = list(zip(photos["width"].to_pylist(), photos["height"].to_pylist(), strict=True))
    found = _in_order(np.array(list(_measured(detections, config, number, sizes)), _FACE), config)
    first = np.diff(found["photo"], prepend=-1) != 0
    has_sample = np.array([key != "" for key in detections["key"].to_pylist()], bool)[found["row"]]
    kinds = [kind for kind in _KINDS if not (kind.measure == "outside" and config.crop_is_fixed)]
    thresholds, steps, pools = [_threshold(kind, found[kind.measure], config) for kind in kinds], [], []
    for kind, threshold in zip(kinds, thresholds, strict=True):
        values, side = found[kind.measure], "right" if threshold["is_minimum"] else "left"
        steps.append(np.searchsorted(threshold["steps"], values, side).astype(np.uint8))
        shown = has_sample | (first & (np.array(reasons)[found["photo"]] == kind.reason))
        pools.append(_pool(np.flatnonzero(shown), values, steps[-1], threshold))
    faces = np.diff(np.flatnonzero([*first, True])).astype("<u2")
    packed = gzip.compress(b"".join(part.tobytes() for part in (faces, found["flags"], *steps)), 6, mtime=0)
    if len(packed) * 4 // 3 > _MOST_BYTES:
        return "There are too many faces to try other thresholds on a page."
    counts = {"photos": len(faces), "faces": len(found), "without": len(number) - len(faces)}
    near = _near(found, detections, photos, config.near_bits) if config.near_bits is not None else []
    if sum(map(len, near)) > _MOST_NEAR:
        return "There are too many near-duplicates to try other thresholds on a page."
    fixed = Counter(reason for reason in reasons if reason not in _DECIDED)
    data: dict[str, Any] = counts | {"near": near, "thresholds": thresholds, "choice": config.faces, "fixed": fixed}
    data["packed"] = base64.b64encode(packed).decode()
    return FaceTable(found, [kind.measure for kind in kinds], pools, data)


def _measured(
    detections: pa.Table, config: PrepConfig, number: dict[str, int], sizes: list[tuple[int, int]]
) -> Iterator[tuple[Any, ...]]:
    """Rows of `_FACE`, of photographs with a ``number``."""
    names = ("path", "rotation", "faint", "is_face", "box", "keypoints", "score", "sharpness", "brightness", "yaw")
    batches = detections.select(names).to_batches(10_000)  # a million rows as Python objects would take gigabytes
    for row, face in enumerate(face for batch in batches for face in batch.to_pylist()):
        if (photo := number.get(face["path"])) is not None:
            upright, size, rotation = upright_face(face, sizes[photo]), sizes[photo], face["rotation"]
            if config.crop_is_fixed:  # a photograph that is too small for it is too small at any --min-face
                outside, side = 0.0, min(size) if fixed_rectangle(config.crop, *size) else -1.0
            else:
                quad = face_quad(upright, config.crop, config.scale, rotation, size)
                outside, side = outside_share(quad, *size), quad_side(quad)
            central = central_score(upright, *rotated_size(rotation, *size))
            flags = _BAD_KEYPOINTS * (not upright.anatomical) + _FAINT * face["faint"]
            measures = face["score"], outside, side, face["sharpness"], face["brightness"], abs(face["yaw"]), central
            yield *measures, *upright.box, flags, face["is_face"], row, photo


def upright_face(row: Mapping[str, Any], size: tuple[int, int]) -> Face:
    """The face of a row of detections.parquet, in its photograph of ``size`` as rotated."""
    x, y, width, height = row["box"]
    keypoints = tuple(zip(row["keypoints"][::2], row["keypoints"][1::2], strict=True))
    return rotated_face(Face((x, y, width, height), keypoints, row["score"]), row["rotation"], *size)


def _in_order(found: np.ndarray, config: PrepConfig) -> np.ndarray:
    """Each photograph's faces as prep prefers them; the one that explains ``low_score`` is marked."""
    photo, faint = found["photo"], (found["flags"] & _FAINT) > 0
    by_score = np.lexsort((-found["score"], faint, photo))
    best = by_score[np.diff(photo[by_score], prepend=-1) != 0]
    found["flags"][best] |= _BEST
    found["flags"][best[faint[best] & ~found["is_face"][best]]] |= _NOBODY
    if config.faces == "all":
        return found[np.lexsort((*(found[name] for name in "hwyx"), -found["score"], photo))]
    return found[np.lexsort((-found["central"], found["flags"] & _BAD_KEYPOINTS, photo))]


def _near(found: np.ndarray, detections: pa.Table, photos: pa.Table, bits: int) -> list[list[int]]:
    """As `facegan.prep.dedup.near_duplicates` prefers them: each face with a near-duplicate, then those before it."""
    side, sharpness, hashes = (detections[name].to_numpy()[found["row"]] for name in ("side", "sharpness", "hash"))
    paths = photos["path"].take(pa.array(found["photo"]))
    table = pa.table({"side": side, "sharpness": sharpness, "path": paths, "face": np.arange(len(found))})
    table = table.filter(pa.array(hashes != 0))
    order = [("side", "descending"), ("sharpness", "descending"), ("path", "ascending")]
    faces = table.sort_by(order)["face"].to_numpy()
    ordered, numbers = hashes[faces], np.arange(len(faces))
    is_alone = first_within(ordered, ordered, bits) == numbers
    is_alone &= first_within(ordered, ordered[::-1], bits) == numbers[::-1]
    faces, ordered, near, total = faces[~is_alone], ordered[~is_alone], list[list[int]](), 0
    for number, face in enumerate(faces.tolist()):
        before = faces[:number][np.bitwise_count(ordered[:number] ^ ordered[number]) <= bits].tolist()
        near.append([face, *before])
        if (total := total + len(near[-1])) > _MOST_NEAR:
            break
    return near


def _threshold(kind: _Kind, values: np.ndarray, config: PrepConfig) -> dict[str, Any]:
    """One slider: ``steps`` that it can take, ascending, the dataset's own, number ``start``, among them; ``usual`` is
    prep's default; ``ticks`` of the axis are positions in steps, and values."""
    own, low, note = getattr(config, kind.setting), 0.0, ""
    if kind.setting == "min_score":
        low, note = LEAST_SCORE, f"Detections are recorded from a score of {LEAST_SCORE:g}."
        if config.faces != "best" and own >= SURE_SCORE:
            low, note = SURE_SCORE, f"A lower one with --faces {config.faces} needs another look at the photographs."
    if kind.step:
        steps = [round(low + i * kind.step, 2) for i in range(round((kind.high - low) / kind.step) + 1)]
    else:
        high = max(float(np.quantile(values, 0.995)) if len(values) else 0, 10.0)
        steps = [float(f"{high * (i / _STEPS) ** 2:.3g}") for i in range(_STEPS + 1)]
    if kind.setting == "min_face":  # has no effect with a fixed crop, for which a photograph may yet be too small
        steps = [] if config.crop_is_fixed and config.crop != "squash" else [round(step) for step in steps]
    steps, ticks = sorted({*steps, own}), list[tuple[float, float]]()
    rounds = [20 * kind.step * i for i in range(8)] if kind.step else [0, *_ROUNDS]
    for value in rounds:
        at = round(float(np.interp(value, steps, range(len(steps)))), 2)
        if steps[0] <= value <= steps[-1] and (not ticks or at - ticks[-1][0] >= len(steps) / _TICKS):
            ticks.append((at, round(value, 1)))
    about = {"option": option_of(kind.setting), "title": kind.title, "reason": kind.reason, "note": note}
    about |= {"is_minimum": kind.setting.startswith("min"), "usual": PrepConfig.default(kind.setting)}
    return about | {"steps": steps, "start": steps.index(own), "ticks": ticks}


def _pool(known: np.ndarray, values: np.ndarray, steps: np.ndarray, threshold: Mapping[str, Any]) -> list[int]:
    """Faces near a threshold, and near others that may be chosen."""
    if not len(known):
        return []
    known = known[np.argsort(values[known], kind="stable")]
    own, side = threshold["steps"][threshold["start"]], "left" if threshold["is_minimum"] else "right"
    middle = int(np.searchsorted(values[known], own, side))
    spread = np.searchsorted(steps[known], np.linspace(steps[known[0]], steps[known[-1]], _SPREAD))
    near = range(max(middle - _NEAREST, 0), min(middle + _NEAREST, len(known)))
    return known[sorted({*near, *np.minimum(spread, len(known) - 1).tolist()})].tolist()

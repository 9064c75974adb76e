"""``--detections``: what an earlier run found in photographs, so that they need not be looked at again."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from facegan.config import PrepConfig
from facegan.errors import DatasetError, SettingsError
from facegan.faces.detect import Face
from facegan.faces.find import Found
from facegan.faces.measure import Measures
from facegan.files import make_folder, write_bytes
from facegan.prep.cut import KnownFaces
from facegan.prep.photo_index import PathLookup
from facegan.prep.request import short, with_defaults
from facegan.remote import is_url
from facegan.shards.checksums import check_detections
from facegan.shards.detections import read_detections, read_origins
from facegan.shards.format import DATASET_FILE, DETECTIONS_FILE, STATE_FOLDER, DatasetInfo
from facegan.shards.photos import int64_array

KEPT = "detections"  # folder in .facegan, for the detections of a dataset that is prepared again
_DECISIVE = ("detector", "rotate", "min_score", "faces")  # settings that decide what is found
_READ = ("sha256", "box", "keypoints", "score", "faint", "is_face", "rotation")
_MEASURES = [field.name for field in dataclasses.fields(Measures)]


def open_detections(asked: str, out: Path, origin: dict[str, Any]) -> KnownDetections | None:
    """The detections that ``--detections`` names, perhaps those of ``out`` itself before it is prepared again."""
    if not asked:
        return None
    detector = origin["detector"]
    if detector == "none" or ":" in detector:
        why = "finds no faces" if detector == "none" else "may have changed since"
        raise SettingsError(f"--detections has no use with --detector {detector}, which {why}. Leave it out.")
    if is_url(asked):
        raise SettingsError(f"--detections {asked}: it must be a folder of this machine. Copy the dataset here first.")
    folder, kept = Path(asked), out / STATE_FOLDER / KEPT
    is_out = os.path.realpath(folder) == os.path.realpath(out)
    was_killed = is_out and not (out / DATASET_FILE).exists() and (kept / DATASET_FILE).exists()
    return KnownDetections(kept if was_killed else folder, origin)


def keep_detections(out: Path, state: Path) -> None:
    """Copies what `KnownDetections` needs: the dataset is about to be deleted, and the run may be killed."""
    shutil.rmtree(state / KEPT, ignore_errors=True)
    kept = make_folder(state / KEPT)
    if (out / DETECTIONS_FILE).is_file():
        for name in (DETECTIONS_FILE, DATASET_FILE):
            write_bytes(kept / name, (out / name).read_bytes())


class KnownDetections:
    """The detections of a dataset, by the photographs' paths; they are held in memory, about 250 bytes a face."""

    def __init__(self, folder: Path, origin: dict[str, Any]) -> None:
        """``origin``: of detections made now (`facegan.prep.plan.Inputs.origin`). Raises DatasetError if they are
        missing, altered, or of another origin."""
        info = DatasetInfo.read(folder)
        if not info.detections_sha256:
            raise DatasetError(f"{folder} has no {DETECTIONS_FILE}: its faces were not detected. Drop --detections.")
        check_detections(folder, info)
        _require_origin(folder, origin)
        settings = with_defaults(info.settings)
        self._config = PrepConfig.of({name: settings.get(name) for name in _DECISIVE})
        self._rows = pa.Table.from_batches(read_detections(folder / DETECTIONS_FILE))
        paths = self._rows["path"].to_pylist()
        firsts = [row for row, path in enumerate(paths) if row == 0 or path != paths[row - 1]]
        self._lookup = PathLookup(self._rows["path"].take(int64_array(np.array(firsts))))
        self._bounds = np.array([*firsts, len(paths)])

    def of(self, paths: Sequence[str]) -> list[KnownFaces | None]:
        """None for a photograph in which no face was found: it is looked at again."""
        numbers = self._lookup.rows(list(paths))
        found = numbers[numbers >= 0]
        rows = [np.arange(*self._bounds[number : number + 2]) for number in found.tolist()]
        table = self._rows.take(int64_array(np.concatenate([np.zeros(0, np.int64), *rows])))
        columns = {name: table[name].to_pylist() for name in (*_READ, *_MEASURES)}
        measures = map(Measures, *(columns.pop(name) for name in _MEASURES))
        faces = zip(*columns.values(), measures, strict=True)
        of_photos = iter([self._known(list(itertools.islice(faces, len(part)))) for part in rows])
        return [next(of_photos) if number >= 0 else None for number in numbers.tolist()]

    def _known(self, rows: list[tuple[Any, ...]]) -> KnownFaces:
        sure, faint, measures = list[Face](), list[Face](), dict[Face, Measures]()
        for _, box, points, score, is_faint, _, _, measured in rows:
            face = Face(tuple(box), tuple(zip(points[::2], points[1::2], strict=True)), score)
            (faint if is_faint else sure).append(face)
            measures[face] = measured
        sha256, *_, is_face, rotation, _ = rows[0]
        found = Found(tuple(sure), tuple(faint), not sure and is_face, rotation)
        return KnownFaces(sha256, found, measures, self._config)


def _require_origin(folder: Path, origin: dict[str, Any]) -> None:
    for found in read_origins(folder / DETECTIONS_FILE):
        for name in [*origin, *(name for name in found if name not in origin)]:
            if found.get(name) != origin.get(name):
                then, now = (short(facts.get(name) or "none") for facts in (found, origin))
                raise DatasetError(
                    f"Faces of {folder} were detected with {name} {then}; now it is {now}: they could differ.\n"
                    "Leave out --detections to detect again."
                )

"""`write_dataset_page`: what prep decided about the photographs of a dataset, and what other thresholds would."""

from __future__ import annotations

import itertools
import shlex
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa

from facegan.config import PrepConfig
from facegan.config.base import option_of
from facegan.console import shown
from facegan.files import human_bytes, make_folder, write_bytes
from facegan.manifests import completeness, known_datasets, known_models
from facegan.prep.inspect import origin_of
from facegan.prep.preview import spread_faces
from facegan.prep.request import with_defaults
from facegan.prep.select import SELECTED
from facegan.report.page import render
from facegan.report.pictures import Picture, picture_of, spread_evenly
from facegan.report.sections import compared_settings, reasons_of
from facegan.report.thresholds import THRESHOLDS, FaceTable, face_table
from facegan.report.thumbnails import Row, photo_pictures, preview_pictures, sample_pictures
from facegan.shards.checksums import check_detections, check_photos
from facegan.shards.detections import read_detections
from facegan.shards.format import DETECTIONS_FILE, GENERATED, PHOTOS_FILE, REASONS, DatasetInfo
from facegan.shards.inspect import read_samples, spread
from facegan.shards.photos import read_batches

_SHOWN, _PAIRS = 24, 12  # photographs of a reason, pairs of duplicates
_COPIES = ("duplicate", "near_duplicate")
_MOST_READ, _MOST_OPENED = 20_000, 200  # samples whose attributes are read, and shards
_MOSAIC, _MOSAIC_PX = 8, 128  # faces in a row; the largest that they are shown


class Shown(NamedTuple):
    """A photograph of a gallery; ``picture`` is None if the photograph is gone or cannot be decoded."""

    picture: Picture | None
    path: str
    text: str


def write_dataset_page(folder: Path, out: Path) -> Path:
    """One self-contained HTML file of a dataset, under 8 MB.

    Raises DatasetError if it is not a dataset, or is damaged; WebPackageError if the chart library is unavailable.
    """
    page = _page(folder)
    make_folder(out.absolute().parent)
    write_bytes(out, page)
    return out


def _page(folder: Path) -> bytes:
    info = DatasetInfo.read(folder)
    check_photos(folder, info)
    check_detections(folder, info)
    photos, why = pa.Table.from_batches(read_batches(folder / PHOTOS_FILE)), _why_no_table(info)
    table, faces = (why, []) if why else _faces(folder, _config(info), photos)
    rejected, pairs = _rejected(photos), _pairs(photos)
    rows = sorted({*itertools.chain(*rejected.values(), *pairs)})
    by_row = dict(zip(rows, _rows(photos, rows), strict=True))
    without = [face for face in faces if not face["key"]]
    pictures, crops = photo_pictures(folder, [*by_row.values()], without, _config(info) if without else None)
    is_gone, pictures = bool(rows) and not pictures, preview_pictures(folder) | pictures
    crops |= sample_pictures(folder, [face for face in faces if face["key"]])

    def show(row: int) -> Shown:
        photo = by_row[row]
        score = f"score {max(photo['scores']):.2f}" if photo["scores"] else ""
        return Shown(pictures.get(photo["path"]), shown(photo["path"]), score)

    known, origin = known_datasets().get(info.data_set), origin_of(folder)
    return render(
        "dataset.html",
        ("page.js", "plots.js", "thresholds.js"),
        title=folder.resolve().name or str(folder),
        info=info,
        folder=shown(folder),
        splits={split: sum(entry.samples for entry in info.split_shards(split)) for split in info.splits},
        disk=human_bytes(info.totals.bytes),
        source=shown(origin[0]) if origin else "",
        of=completeness(known, info.totals.photos) if known else "",
        terms=known.terms if known else "",
        mosaic=_mosaic(folder, info),
        reasons=reasons_of(info),
        outcomes=[(reason, meaning, info.totals.rejected.get(reason, 0)) for reason, meaning in REASONS.items()],
        why=table if isinstance(table, str) else "",
        table=None if isinstance(table, str) else table.to_json() | _gallery(table, faces, crops),
        command=None if isinstance(table, str) else _command(folder, info, origin),
        rejected={reason: [show(row) for row in some] for reason, some in rejected.items()},
        is_gone=is_gone,
        copies=[(photos["reason"][copy].as_py(), show(kept), show(copy)) for kept, copy in pairs],
        attributes=_attributes(folder, info),
        settings=[] if info.is_generated else compared_settings(PrepConfig, _values(info), with_defaults({})),
        generated=info.settings.get(GENERATED),
    )


def _why_no_table(info: DatasetInfo) -> str:
    if info.is_generated:
        return "A generator drew these faces: there are no photographs to decide about."
    if not info.detections_sha256:
        return "No faces were looked for, so there are no thresholds to try."
    if SELECTED in info.settings:
        return "These faces were selected from another dataset. Its page has the thresholds."
    return ""


def _values(info: DatasetInfo) -> dict[str, Any]:
    settings = with_defaults(info.settings)
    return {name: settings[name] for name in PrepConfig.model_fields}


def _config(info: DatasetInfo) -> PrepConfig:
    values = _values(info)
    return PrepConfig.of(values) if values["crop"] in ("aligned", "box") else PrepConfig.of(values | {"margin": "auto"})


def _rows(table: pa.Table, rows: Any) -> list[Row]:
    return table.take(pa.array(rows, pa.int64())).to_pylist()


def _faces(folder: Path, config: PrepConfig, photos: pa.Table) -> tuple[FaceTable | str, list[Row]]:
    """The table of the thresholds, or why there is none; and those of its faces that are shown."""
    detections = pa.Table.from_batches(read_detections(folder / DETECTIONS_FILE))
    table = face_table(detections, photos, config)
    if isinstance(table, str):
        return table, []
    shown_faces = sorted({face for pool in table.pools for face in pool})
    both = zip(_rows(photos, table.photos[shown_faces]), _rows(detections, table.rows[shown_faces]), strict=True)
    return table, [{**photo, **face, "face": number} for number, (photo, face) in zip(shown_faces, both, strict=True)]


def _rejected(photos: pa.Table) -> dict[str, list[int]]:
    """Rows of each reason, the most frequent first, and of them as many as are shown."""
    rows = defaultdict[str, list[int]](list)
    for row, reason in enumerate(photos["reason"].to_pylist()):
        if reason and reason not in _COPIES:  # those are shown as pairs
            rows[reason].append(row)
    return {reason: spread_evenly(rows[reason], _SHOWN) for reason in sorted(rows, key=lambda name: -len(rows[name]))}


def _pairs(photos: pa.Table) -> list[tuple[int, int]]:
    """Rows of photographs and of their copies."""
    reasons, sums, paths = (photos[name].to_pylist() for name in ("reason", "sha256", "path"))
    first = {sums[row]: row for row in range(len(sums) - 1, -1, -1) if reasons[row] != "duplicate"}
    originals = sums
    if "duplicate_of" in photos.column_names:
        first |= {path: row for row, path in enumerate(paths)}
        originals = [path or sha256 for path, sha256 in zip(photos["duplicate_of"].to_pylist(), sums, strict=True)]
    pairs = list[tuple[int, int]]()
    for name in _COPIES:
        copies = [row for row, reason in enumerate(reasons) if reason == name]
        found = [(first.get(originals[row]), row) for row in copies]
        pairs += spread_evenly([(kept, row) for kept, row in found if kept is not None], _PAIRS)
    return pairs


def _gallery(table: FaceTable, faces: list[Row], crops: dict[int, Picture]) -> dict[str, Any]:
    """The pictures of faces, and for each threshold the faces that have one, by ascending value."""
    names, pictures, number = [threshold.measure for threshold in table.thresholds], [], dict[int, int]()
    for face in (face for face in faces if face["face"] in crops):
        number[face["face"]] = len(pictures)
        values = zip(names, table.values[:, face["face"]], strict=True)
        text = ", ".join(f"{name} {value:.3g}" for name, value in values)
        pictures.append({"src": crops[face["face"]].src, "text": f"{shown(face['path'])}: {text}"})
    return {
        "pictures": pictures,
        "pools": [[[face, number[face]] for face in pool if face in number] for pool in table.pools],
    }


def _mosaic(folder: Path, info: DatasetInfo) -> Picture | None:
    faces = spread_faces(info, {entry.name: folder / entry.name for entry in info.shards})
    if not faces:
        return None
    side = min(info.size, _MOSAIC_PX)
    faces = [cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA) for face in faces]
    blank = [np.full_like(faces[0], 128)] * (-len(faces) % _MOSAIC)
    rows = np.array([*faces, *blank]).reshape(-1, _MOSAIC, side, side, 3)
    return picture_of(np.vstack([np.hstack(list(row)) for row in rows]), 85)


def _command(folder: Path, info: DatasetInfo, origin: tuple[str, str] | None) -> dict[str, str]:
    """``facegan prep`` with the settings of this dataset, without its thresholds, which go between the two parts."""
    words = ["facegan", "prep", origin[0] if origin else "PHOTOS", _free_name(folder.absolute())]
    for name, value in _config(info).model_dump().items():
        if name not in THRESHOLDS and value != PrepConfig.default(name):
            text = str(value).removesuffix(".0")
            words += [option_of(name), text] if name in PrepConfig.options.split() else ["--set", f"prep.{name}={text}"]
    if not {*info.settings.get("models", ())} <= {model.sha256 for model in known_models().values()}:
        words += ["--model", "FILE"]
    return {"head": shlex.join(words), "tail": shlex.join(["--detections", str(folder.absolute())])}


def _free_name(folder: Path) -> str:
    names = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
    return str(next(name for name in names if not name.exists()))


def _attributes(folder: Path, info: DatasetInfo) -> dict[str, Any] | None:
    """The share of samples that have each attribute, the most frequent first, and how many were read; None without."""
    read, counts = 0, defaultdict[str, int](int)
    for entry, numbers in spread(info, _MOST_READ, _MOST_OPENED):
        for sample in read_samples(folder, entry, numbers=numbers):
            values = (sample.meta.model_extra or {}).get("attributes")
            if not isinstance(values, dict):
                return None
            read += 1
            for name, value in values.items():
                counts[name] += value == 1
    shares = sorted(((count / read, name) for name, count in counts.items()), reverse=True)
    return {"read": read, "shares": shares} if shares else None

"""`write_dataset_page`: what prep decided about the photographs of a dataset, and what other thresholds would."""

from __future__ import annotations

import itertools
import shlex
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from facegan.config import PrepConfig
from facegan.config.base import option_of
from facegan.console import shown
from facegan.files import human_bytes, make_folder, write_bytes
from facegan.manifests import completeness, known_datasets, known_models
from facegan.prep.inspect import Origin, origin_of
from facegan.prep.preview import spread_faces
from facegan.prep.request import with_defaults
from facegan.prep.select import SELECTED
from facegan.report.page import render
from facegan.report.pictures import Picture, picture_of, spread_evenly
from facegan.report.sections import compared_settings, reasons_of
from facegan.report.thresholds import THRESHOLDS, FaceTable, face_table
from facegan.report.thumbnails import Row, photo_pictures, preview_pictures, sample_pictures
from facegan.shards.attributes import read_attributes, summary
from facegan.shards.checksums import check_detections, check_photos
from facegan.shards.detections import read_detections
from facegan.shards.format import DETECTIONS_FILE, GENERATED, PHOTOS_FILE, REASONS, DatasetInfo
from facegan.shards.photos import read_batches

_SHOWN, _PAIRS = 24, 12  # photographs of a reason, pairs of duplicates
_COPIES = ("duplicate", "near_duplicate")
_MOSAIC, _MOSAIC_PX = 8, 128  # faces in a row; the largest that they are shown


def write_dataset_page(folder: Path, out: Path) -> Path:
    """One self-contained HTML file of a dataset, under 8 MB.

    Raises DatasetError if it is not a dataset, or is damaged; WebPackageError if the chart library is unavailable.
    """
    info = DatasetInfo.read(folder)
    check_photos(folder, info)
    check_detections(folder, info)
    photos = pa.Table.from_batches(read_batches(folder / PHOTOS_FILE))
    table, faces, crops = _why_no_table(info), list[Row](), dict[int, Picture]()
    if not table:
        detections = pa.Table.from_batches(read_detections(folder / DETECTIONS_FILE))
        table = face_table(detections, photos, _config(info))
        faces = [] if isinstance(table, str) else _faces(table, photos, detections)
        crops = sample_pictures(folder, faces)
    rejected, pairs = _rejected(photos), _pairs(photos)
    chosen = sorted({*itertools.chain(*rejected.values(), *pairs)})
    rows = dict(zip(chosen, _rows(photos, np.array(chosen, int)), strict=True))
    cropped = [face for face in faces if not face["key"]]
    pictures, others = photo_pictures(folder, [*rows.values()], cropped, _config(info) if cropped else None)
    decoded = [row for row in rows.values() if row["width"]]
    is_gone, pictures = bool(decoded) and not pictures, preview_pictures(folder) | pictures
    gallery = "" if isinstance(table, str) else _gallery(table, faces, crops | others)

    def show(row: int) -> dict[str, Any]:
        path, scores = rows[row]["path"], rows[row]["scores"]
        text = f"score {max(scores):.2f}" if scores else ""
        return {"path": shown(path), "text": text, "picture": pictures.get(path)}

    known, origin = known_datasets().get(info.data_set), origin_of(folder)
    page = render(
        "dataset.html",
        ("page.js", "plots.js", "thresholds.js"),
        title=shown(folder.resolve().name or str(folder)),
        info=info,
        folder=shown(folder),
        splits={split: sum(entry.samples for entry in info.split_shards(split)) for split in info.splits},
        disk=human_bytes(info.totals.bytes),
        source=shown(origin.source) if origin else "",
        of=completeness(known, info.totals.photos) if known else "",
        terms=known.terms if known else "",
        mosaic=_mosaic(folder, info),
        reasons=reasons_of(info),
        outcomes=[(reason, meaning, info.totals.rejected.get(reason, 0)) for reason, meaning in REASONS.items()],
        table=gallery and {**gallery, "command": _command(folder, info, origin)},
        why=table if isinstance(table, str) else "",
        rejected={reason: [show(row) for row in some] for reason, some in rejected.items()},
        is_gone=is_gone,
        copies=[(photos["reason"][copy].as_py(), show(kept), show(copy)) for kept, copy in pairs],
        attributes=summary(read_attributes(folder, info.shards)),
        settings=[] if info.is_generated else compared_settings(PrepConfig, _values(info), with_defaults({})),
        generated=info.settings.get(GENERATED),
    )
    make_folder(out.absolute().parent)
    write_bytes(out, page)
    return out


def _why_no_table(info: DatasetInfo) -> FaceTable | str:
    if info.is_generated:
        return "A generator drew these faces: there are no photographs to decide about."
    if SELECTED in info.settings:
        return "These faces were selected from another dataset. Its page has the thresholds."
    return "" if info.detections_sha256 else "No faces were found or looked for, so there are no thresholds to try."


def _values(info: DatasetInfo) -> dict[str, Any]:
    settings = with_defaults(info.settings)
    return {name: settings[name] for name in PrepConfig.model_fields}


def _config(info: DatasetInfo) -> PrepConfig:
    values = _values(info)
    return PrepConfig.of(values | ({} if values["crop"] in ("aligned", "box") else {"margin": "auto"}))


def _rows(table: pa.Table, rows: np.ndarray) -> list[Row]:
    return table.take(pa.array(rows)).to_pylist()


def _faces(table: FaceTable, photos: pa.Table, detections: pa.Table) -> list[Row]:
    """The faces that are shown at thresholds."""
    chosen = sorted({face for pool in table.pools for face in pool})
    found = table.found[chosen]
    both = zip(chosen, _rows(photos, found["photo"]), _rows(detections, found["row"]), strict=True)
    return [{**photo, **face, "face": number} for number, photo, face in both]


def _rejected(photos: pa.Table) -> dict[str, list[int]]:
    """Rows of each reason, the most frequent first, and of them as many as are shown."""
    rows = defaultdict[str, list[int]](list)
    for row, reason in enumerate(photos["reason"].to_pylist()):
        if reason and reason not in _COPIES:  # those are shown as pairs
            rows[reason].append(row)
    return {reason: spread_evenly(rows[reason], _SHOWN) for reason in sorted(rows, key=lambda name: -len(rows[name]))}


def _pairs(photos: pa.Table) -> list[tuple[int, int]]:
    """Rows of photographs and of their copies."""
    row = {path: number for number, path in enumerate(photos["path"].to_pylist())}
    both = list(zip(photos["reason"].to_pylist(), photos["duplicate_of"].to_pylist(), strict=True))
    pairs = list[tuple[int, int]]()
    for name in _COPIES:
        found = [(row[of], copy) for copy, (reason, of) in enumerate(both) if reason == name and of in row]
        pairs += spread_evenly(found, _PAIRS)
    return pairs


def _gallery(table: FaceTable, faces: list[Row], crops: dict[int, Picture]) -> dict[str, Any]:
    """What the page's script needs: the table, pictures of faces, and which of them to show for each threshold."""
    pictures, number = [], dict[int, int]()
    for face in (face for face in faces if face["face"] in crops):
        number[face["face"]] = len(pictures)
        values = ", ".join(f"{name} {table.found[name][face['face']]:.3g}" for name in table.measures)
        pictures.append({"src": crops[face["face"]].src, "text": f"{shown(face['path'])}: {values}"})
    pools = [[[face, number[face]] for face in pool if face in number] for pool in table.pools]
    return {**table.data, "pictures": pictures, "pools": pools}


def _mosaic(folder: Path, info: DatasetInfo) -> Picture | None:
    faces = spread_faces(info, {entry.name: folder / entry.name for entry in info.shards})
    if not faces:
        return None
    side = min(info.size, _MOSAIC_PX)
    faces = [cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA) for face in faces]
    blank = [np.full_like(faces[0], 128)] * (-len(faces) % _MOSAIC)
    rows = np.array([*faces, *blank]).reshape(-1, _MOSAIC, side, side, 3)
    return picture_of(np.vstack([np.hstack(list(row)) for row in rows]), 85)


def _command(folder: Path, info: DatasetInfo, origin: Origin | None) -> dict[str, str]:
    """``facegan prep`` with the settings of this dataset, without its thresholds, which go between the two parts."""
    words = ["facegan", "prep", origin.source if origin else "PHOTOS", f"{folder.absolute()}-2"]
    for name, value in _config(info).model_dump().items():
        if name not in THRESHOLDS and value != PrepConfig.default(name):
            text = str(value).removesuffix(".0")
            words += [option_of(name), text] if name in PrepConfig.options.split() else ["--set", f"prep.{name}={text}"]
    files = dict(origin.files) if origin else {}
    known = {"", *(model.sha256 for model in known_models().values())}
    for name, is_needed in (
        ("model", not known.issuperset(info.settings.get("models", ()))),
        ("attributes", info.settings.get("attributes") and not origin),  # a list in the source needs no option
        ("identity", info.settings.get("identity")),
    ):
        words += [option_of(name), files.get(name, "FILE")] if is_needed or name in files else []
    return {"head": shlex.join(words), "tail": shlex.join(["--detections", str(folder.absolute())])}

"""`write_dataset_page`: what prep decided about the photographs of a dataset, and what other thresholds would."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import shlex
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from facegan.config import PrepConfig
from facegan.config.base import option_of
from facegan.console import shown
from facegan.faces import crop as cropping
from facegan.faces.decode import Photo, Rejected
from facegan.files import human_bytes, make_folder, write_bytes
from facegan.manifests import completeness, known_datasets, known_models
from facegan.prep.cut import detection_shrink
from facegan.prep.inspect import Origin, origin_of, read_originals
from facegan.prep.preview import read_rejects, spread_faces, thumbnail_pixels
from facegan.prep.request import stored_config, with_defaults
from facegan.prep.select import SELECTED
from facegan.remote import is_url
from facegan.report.page import render
from facegan.report.pictures import Picture, fitting, picture_of, shrunk, spread_evenly
from facegan.report.sections import compared_settings, reasons_of
from facegan.report.thresholds import THRESHOLDS, FaceTable, face_table, upright_face
from facegan.shards.attributes import read_attributes, summary
from facegan.shards.checksums import check_detections, check_photos
from facegan.shards.detections import read_detections
from facegan.shards.format import DETECTIONS_FILE, GENERATED, PHOTOS_FILE, PREVIEW_FILE, REASONS, DatasetInfo
from facegan.shards.images import decode_image
from facegan.shards.photos import read_batches
from facegan.shards.reader import Shard

_SHOWN, _PAIRS = 24, 12  # photographs of a reason, pairs of duplicates
_COPIES = ("duplicate", "near_duplicate")
_MOSAIC, _MOSAIC_PX = 8, 128  # faces in a row; the largest that they are shown
_PHOTO_PX, _FACE_PX = 112, 64  # long side
_MOST_BYTES, _QUALITIES = 5_500, (80, 65, 45)  # of a picture's text
_BOX = (255, 214, 10)

Row = dict[str, Any]  # of photos.parquet; of a face with its row of detections.parquet, and its number as ``face``


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
        table = face_table(detections, photos, stored_config(info.settings))
        faces = [] if isinstance(table, str) else _faces(table, photos, detections)
        crops = _sample_pictures(folder, faces)
    rejected, pairs = _rejected(photos), _pairs(photos)
    chosen = sorted({*itertools.chain(*rejected.values(), *pairs)})
    rows = dict(zip(chosen, _rows(photos, np.array(chosen, int)), strict=True))
    cropped = [face for face in faces if not face["key"]]
    pictures, others = _photo_pictures(
        folder, [*rows.values()], cropped, stored_config(info.settings) if cropped else None
    )
    decoded = [row for row in rows.values() if row["width"]]
    is_gone, pictures = bool(decoded) and not pictures, _preview_pictures(folder) | pictures
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
    rows = np.array([*faces, *blank], np.uint8).reshape(-1, _MOSAIC, side, side, 3)
    return picture_of(rows.swapaxes(1, 2).reshape(-1, _MOSAIC * side, 3), 85)


def _command(folder: Path, info: DatasetInfo, origin: Origin | None) -> dict[str, str]:
    """``facegan prep`` with the settings of this dataset, without its thresholds, which go between the two parts."""
    words = ["facegan", "prep", origin.source if origin else "PHOTOS", f"{folder.absolute()}-2"]
    for name, value in stored_config(info.settings).model_dump().items():
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


# Small pictures of photographs, from their source while that is there, and of faces, from the shards or the source.


def _photo_pictures(
    folder: Path, photos: Sequence[Row], faces: Sequence[Row], config: PrepConfig | None
) -> tuple[dict[str, Picture], dict[int, Picture]]:
    """Whole photographs by path, with the box of the best face; and by number crops of ``faces``.

    Photographs that are gone, at a URL, changed or not to be decoded are left out.
    """
    by_path = {photo["path"]: photo for photo in (*photos, *faces)}
    to_crop = defaultdict[str, list[Row]](list)
    for face in faces:
        to_crop[face["path"]].append(face)
    whole = {photo["path"] for photo in photos}
    pictures, crops = dict[str, Picture](), dict[int, Picture]()
    origin = origin_of(folder)
    paths = [path for path, photo in by_path.items() if photo["reason"] not in ("crashed", "unreachable")]
    for path, data in read_originals(folder, paths) if origin and not is_url(origin.source) else ():
        with contextlib.suppress(Rejected, cv2.error):
            if hashlib.sha256(data).hexdigest() != by_path[path]["sha256"]:
                continue
            photo = Photo(data)
            if path in whole:
                pictures[path] = _picture(_small(photo, by_path[path]["box"]))
            for face in to_crop[path]:
                if config and (pixels := _cropped(photo, face, config)) is not None:
                    crops[face["face"]] = _picture(pixels)
    return pictures, crops


def _preview_pictures(folder: Path) -> dict[str, Picture]:
    """The few rejected photographs by path that the preview has."""
    pictures = dict[str, Picture]()
    for _, reject in read_rejects(folder / PREVIEW_FILE):
        if (pixels := thumbnail_pixels(reject.png)) is not None:
            pictures[reject.path] = _picture(pixels)
    return pictures


def _sample_pictures(folder: Path, faces: Sequence[Row]) -> dict[int, Picture]:
    """Those of the faces that became samples, by number."""
    wanted, pictures = defaultdict[str, dict[str, int]](dict), dict[int, Picture]()
    for face in (face for face in faces if face["key"]):
        wanted[face["shard"]][face["key"]] = face["face"]
    for name, rows in wanted.items():
        with contextlib.closing(Shard(folder / name)) as shard:
            images = {sample.key: bytes(shard.read(sample.image)) for sample in shard.samples if sample.key in rows}
        for key, image in images.items():
            if (pixels := decode_image(image)) is not None:
                pictures[rows[key]] = _picture(pixels)
    return pictures


def _small(photo: Photo, box: Sequence[float]) -> np.ndarray:
    long_side = max(photo.width, photo.height)
    pixels = photo.pixels(next((shrink for shrink in (8, 4, 2) if long_side / shrink >= _PHOTO_PX), 1))
    scale = min(_PHOTO_PX / long_side, 1)
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    if box:
        (left, top), (right, bottom) = (np.multiply(box[:2], scale), np.multiply(np.add(box[:2], box[2:]), scale))
        cv2.rectangle(small, (round(left), round(top)), (round(right), round(bottom)), _BOX)
    return small


def _cropped(photo: Photo, face: Row, config: PrepConfig) -> np.ndarray | None:
    """A face as prep would cut it out; None if the crop does not fit."""
    size, rotation = (photo.width, photo.height), face["rotation"]
    if config.crop_is_fixed:
        rectangle = cropping.fixed_rectangle(config.crop, *size)
        return None if rectangle is None else cropping.crop_rectangle(photo.pixels(), rectangle, _FACE_PX)
    quad = cropping.face_quad(upright_face(face, size), config.crop, config.scale, rotation, size)
    if not 1 <= cropping.quad_side(quad) <= 4 * max(size):
        return None
    shrink = cropping.crop_shrink(quad, _FACE_PX, detection_shrink(photo))
    return cropping.crop(photo.pixels(shrink), quad, _FACE_PX, shrink)


def _picture(pixels: np.ndarray) -> Picture:
    return fitting(shrunk(pixels, _PHOTO_PX).astype(np.uint8), _MOST_BYTES, _QUALITIES)

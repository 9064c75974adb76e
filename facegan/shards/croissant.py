"""croissant.json: ML Croissant 1.0 (Akhtar et al. 2024), as mlcroissant's own classes would write it.

mlcroissant itself takes 0.65 s and 137 MB to import, which prep can't spare; a test holds the two against each other.
In mlcroissant 1.1.1 neither ``jsonPath`` on KEY.json nor a join of images with it works, so the faces carry their key
alone; ``keys`` of the photographs leads from there to all else.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa

from facegan.manifests import KnownDataset
from facegan.shards.format import GENERATED, PHOTOS_FILE, DatasetInfo
from facegan.shards.photos import SCHEMA

MIME_TYPES = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}
# Validators ask for a date; the files hold none, like the tars, so that the same photographs give the same bytes.
_NO_DATE = "1970-01-01"
_LICENCE_UNKNOWN = "Unknown: that of the photographs, which facegan was not told."
_LICENCE_GENERATED = "Unknown: the faces are generated; the terms of what the generator was trained on may bind them."
COLUMNS = {
    "path": "the photograph, below the folder that prep was given; undecodable bytes as \\xNN",
    "bytes": "size of the photograph's file",
    "sha256": "of the photograph's file; empty where it could not be read",
    "width": "of the upright photograph, in pixels; 0 where it could not be read",
    "height": "of the upright photograph, in pixels; 0 where it could not be read",
    "outcome": "kept or rejected",
    "reason": "why it was rejected; empty where it was kept",
    "faces": "faces that the detector found",
    "scores": "the detector's score of each face found; where none was found, the best score, however low",
    "box": "[x, y, width, height] of the face with the best score, in pixels of the upright photograph; or empty",
    "keys": "the samples that the photograph gave",
    "split": "train, val or test",
    "shard": "the file that holds its samples; empty where it gave none",
}
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant(info: DatasetInfo, known: KnownDataset | None) -> dict[str, Any]:
    """The dataset as JSON-LD: a FileObject a shard, the record sets ``faces`` (where there are any) and ``photos``."""
    faces = [_faces(info)] if info.shards else []
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": f"{known.name}-faces" if known else "generated-faces" if info.is_generated else "faces",
        "description": _description(info, known),
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "citeAs": known.citation if known else _citation(info),
        "datePublished": _NO_DATE,
        "license": known.terms if known else _LICENCE_GENERATED if info.is_generated else _LICENCE_UNKNOWN,
        "version": f"{info.format}.0.0+{_digest(info)[:12]}",
        "distribution": _distribution(info),
        "recordSet": [*faces, _photos()],
    }


def _description(info: DatasetInfo, known: KnownDataset | None) -> str:
    of = f" of {known.title}" if known else ""
    size, grey = info.settings["size"], ", grey" if info.channels == 1 else ""
    if info.is_generated:
        return (
            f"{info.totals.faces:,} generated faces of {size} × {size} pixels{grey}, drawn by a generator of facegan: "
            f"photographs of nobody. The files carry no time: datePublished is {_NO_DATE}, as in the tars."
        )
    return (
        f"{info.totals.faces:,} faces of {size} × {size} pixels{grey}, cut out of "
        f"{info.totals.photos:,} photographs{of} by facegan prep. The files carry no time, so that the same "
        f"photographs give the same bytes: datePublished is {_NO_DATE}, as in the tars."
    )


def _citation(info: DatasetInfo) -> str:
    made = f"Made by facegan {info.versions.get('facegan', '')}".rstrip()
    of = "generator" if info.is_generated else "photographs"
    title = "Generated faces" if info.is_generated else "Faces cut out of photographs"
    return f"@misc{{faces, title = {{{title}}}, note = {{{made}, {of} {_origin(info)}}}}}"


def _origin(info: DatasetInfo) -> str:
    return str(info.settings[GENERATED].get("generator", "")) if info.is_generated else info.fingerprint


def _digest(info: DatasetInfo) -> str:
    sums = [info.photos_sha256, *(shard.sha256 for shard in info.shards)]
    return hashlib.sha256("".join(sums).encode()).hexdigest()


def _distribution(info: DatasetInfo) -> list[dict[str, Any]]:
    tars = [_file(shard.name, "application/x-tar", shard.sha256, shard.bytes) for shard in info.shards]
    kept_in = [{"@id": shard.name} for shard in info.shards]
    image_format = info.settings["format"]
    images = {
        "@type": "cr:FileSet",
        "@id": "images",
        "name": "images",
        "containedIn": kept_in[0] if len(kept_in) == 1 else kept_in,
        "encodingFormat": MIME_TYPES[image_format],
        "includes": f"*.{image_format}",
    }
    photos = _file(PHOTOS_FILE, "application/x-parquet", info.photos_sha256)
    return [*tars, *([images] if tars else []), photos]


def _file(name: str, mime_type: str, sha256: str, size: int | None = None) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        **({"contentSize": f"{size} B"} if size is not None else {}),
        "contentUrl": name,
        "encodingFormat": mime_type,
        "sha256": sha256,
    }


def _faces(info: DatasetInfo) -> dict[str, Any]:
    key_of = {"transform": {"regex": rf"^(.+)\.{info.settings['format']}$"}}
    return {
        "@type": "cr:RecordSet",
        "@id": "faces",
        "name": "faces",
        "description": "Every face, with its key; a key is its photograph's path, written without loss.",
        "key": {"@id": "faces/key"},
        "field": [
            _field("faces/key", "the sample's key", "sc:Text", _from_images("filename") | key_of),
            _field("faces/image", "the face", "sc:ImageObject", _from_images("content")),
        ],
    }


def _from_images(file_property: str) -> dict[str, Any]:
    return {"fileSet": {"@id": "images"}, "extract": {"fileProperty": file_property}}


def _photos() -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "photos",
        "name": "photos",
        "description": "Every photograph that prep saw, and what became of it.",
        "key": {"@id": "photos/path"},
        "field": [_column(column) for column in SCHEMA],
    }


def _column(column: pa.Field) -> dict[str, Any]:
    source = {"fileObject": {"@id": PHOTOS_FILE}, "extract": {"column": column.name}}
    repeated = pa.types.is_list(column.type)
    data_type = _data_type(column.type.value_type if repeated else column.type)
    return _field(f"photos/{column.name}", COLUMNS[column.name], data_type, source, repeated)


def _data_type(kind: pa.DataType) -> str:
    return "sc:Text" if pa.types.is_string(kind) else "sc:Float" if pa.types.is_floating(kind) else "sc:Integer"


def _field(
    name: str, description: str, data_type: str, source: dict[str, Any], repeated: bool = False
) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": name,
        "name": name,
        "description": description,
        "dataType": data_type,
        **({"repeated": True} if repeated else {}),
        "source": source,
    }

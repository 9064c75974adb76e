"""croissant.json: ML Croissant 1.0 (Akhtar et al. 2024), as mlcroissant's own classes would write it.

mlcroissant itself takes 0.65 s and 137 MB to import, too much for prep; a test compares the two. In mlcroissant 1.1.1
neither ``jsonPath`` on KEY.json nor a join of images with it works, so the faces have their key alone; the column
``keys`` of the photographs leads from it to everything else.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa

from facegan.manifests import KnownDataset
from facegan.shards.format import GENERATED, IMAGE_FORMATS, PHOTOS_FILE, DatasetInfo
from facegan.shards.photos import COLUMNS

_NO_DATE = "1970-01-01"  # validators require a date; the tars' mtime, so that the same photographs give the same bytes
_LICENCE_UNKNOWN = "Unknown: that of the photographs, whose origin facegan does not know."
_LICENCE_GENERATED = "Unknown: the faces are generated; the terms of the training photographs may apply to them."
_TERMS = (
    "@language @vocab citeAs column conformsTo cr rai data dataType dct equivalentProperty examples extract field "
    "fileProperty fileObject fileSet format includes isLiveDataset jsonPath key md5 parentField path recordSet "
    "references regex repeated replace samplingRate sc separator source subField transform"
)
_TERMS_APART = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "sc": "https://schema.org/",
}
_CONTEXT = {term: _TERMS_APART.get(term, f"cr:{term}") for term in _TERMS.split()}


def croissant(info: DatasetInfo, known: KnownDataset | None) -> dict[str, Any]:
    """The dataset as JSON-LD: a FileObject per shard, and the record sets ``faces`` (if any) and ``photos``."""
    digest = hashlib.sha256("".join([info.photos_sha256, *(shard.sha256 for shard in info.shards)]).encode())
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": f"{known.name}-faces" if known else "generated-faces" if info.is_generated else "faces",
        "description": _description(info, known),
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "citeAs": known.citation if known else _citation(info),
        "datePublished": _NO_DATE,
        "license": known.terms if known else _LICENCE_GENERATED if info.is_generated else _LICENCE_UNKNOWN,
        "version": f"{info.format}.0.0+{digest.hexdigest()[:12]}",
        "distribution": _distribution(info),
        "recordSet": [*([_faces(info)] if info.shards else []), _photos()],
    }


def _description(info: DatasetInfo, known: KnownDataset | None) -> str:
    size, grey = info.settings["size"], ", grey" if info.channels == 1 else ""
    generated = "generated " if info.is_generated else ""
    origin = (
        "drawn by a generator of facegan. They show nobody"
        if info.is_generated
        else f"cropped from {info.totals.photos:,} photographs{f' of {known.title}' if known else ''} by facegan prep"
    )
    return (
        f"{info.totals.faces:,} {generated}faces of {size} × {size} pixels{grey}, {origin}. "
        f"The files have no time stamps, so that the same input gives the same bytes: datePublished is {_NO_DATE}."
    )


def _citation(info: DatasetInfo) -> str:
    made = f"Made by facegan {info.versions.get('facegan', '')}".rstrip()
    if info.is_generated:
        title, source = "Generated faces", f"generator {info.settings[GENERATED].get('generator', '')}"
    else:
        title, source = "Faces cropped from photographs", f"photographs {info.fingerprint}"
    return f"@misc{{faces, title = {{{title}}}, note = {{{made}, {source}}}}}"


def _distribution(info: DatasetInfo) -> list[dict[str, Any]]:
    tars = [_file(shard.name, "application/x-tar", shard.sha256, shard.bytes) for shard in info.shards]
    shards = [{"@id": shard.name} for shard in info.shards]
    image_format = info.settings["format"]
    images = {
        "@type": "cr:FileSet",
        "@id": "images",
        "name": "images",
        "containedIn": shards[0] if len(shards) == 1 else shards,
        "encodingFormat": IMAGE_FORMATS[image_format],
        "includes": f"*.{image_format}",
    }
    return [*tars, *([images] if tars else []), _file(PHOTOS_FILE, "application/x-parquet", info.photos_sha256)]


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
    fields = [
        _field("faces/key", "the sample's key", "sc:Text", _from_images("filename") | key_of),
        _field("faces/image", "the face", "sc:ImageObject", _from_images("content")),
    ]
    return _record_set("faces", "Every face with its key, which encodes the photograph's path.", "key", fields)


def _from_images(file_property: str) -> dict[str, Any]:
    return {"fileSet": {"@id": "images"}, "extract": {"fileProperty": file_property}}


def _photos() -> dict[str, Any]:
    fields = []
    for name, (kind, meaning) in COLUMNS.items():
        is_list = pa.types.is_list(kind)
        item = kind.value_type if is_list else kind
        data_type = "Text" if pa.types.is_string(item) else "Float" if pa.types.is_floating(item) else "Integer"
        source = {"fileObject": {"@id": PHOTOS_FILE}, "extract": {"column": name}}
        fields.append(_field(f"photos/{name}", meaning, f"sc:{data_type}", source, is_list))
    return _record_set("photos", "Every photograph that prep read, and its outcome.", "path", fields)


def _record_set(name: str, description: str, key: str, fields: list[dict[str, Any]]) -> dict[str, Any]:
    head = {"@type": "cr:RecordSet", "@id": name, "name": name, "description": description}
    return {**head, "key": {"@id": f"{name}/{key}"}, "field": fields}


def _field(
    name: str, description: str, data_type: str, source: dict[str, Any], is_list: bool = False
) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": name,
        "name": name,
        "description": description,
        "dataType": data_type,
        **({"repeated": True} if is_list else {}),
        "source": source,
    }

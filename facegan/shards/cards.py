"""Files for other tools next to the shards: the dataset card, and the indexes of wids, timm and ML Croissant."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from facegan.config import PrepConfig
from facegan.files import human_bytes, write_bytes, write_json
from facegan.manifests import KnownDataset, completeness
from facegan.shards.format import GENERATED, IMAGE_FORMATS, PHOTOS_FILE, REASONS, DatasetInfo, SampleMeta
from facegan.shards.photos import COLUMNS

_HUB_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")


Attributes = Sequence[tuple[str, int, float]]  # as `facegan.shards.attributes.summary` has them


def write_cards(folder: Path, info: DatasetInfo, known: KnownDataset | None, attributes: Attributes = ()) -> list[str]:
    """Write README.md, croissant.json, _info.json and an index-SPLIT.json for every split that has shards.

    The bytes depend on the arguments alone: dataset.json as it will be, and the photographs' data set if facegan knows
    it. Returns the files' names.
    """
    write_bytes(folder / "README.md", readme(info, known, attributes).encode())
    tables = {"croissant.json": croissant(info, known), "_info.json": timm_info(info)}
    tables |= {f"index-{split}.json": wids_index(info, split) for split in info.splits}
    for name, table in tables.items():
        write_json(folder / name, table)
    return ["README.md", *tables]


def wids_index(info: DatasetInfo, split: str) -> dict[str, Any]:
    """index-SPLIT.json: wids-shard-index-v1, with URLs relative to the index."""
    shards = [
        {"url": shard.name, "nsamples": shard.samples, "filesize": shard.bytes, "md5sum": shard.md5}
        for shard in info.split_shards(split)
    ]
    return {"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": f"faces-{split}", "shardlist": shards}


def timm_info(info: DatasetInfo) -> dict[str, Any]:
    """_info.json. Without ``alt_label``, the field of KEY.json with the class, timm silently reads no sample."""
    splits = dict[str, dict[str, Any]]()
    for split in info.splits:
        names, lengths = zip(*((shard.name, shard.samples) for shard in info.split_shards(split)), strict=True)
        about = {"num_samples": sum(lengths), "alt_label": "label"}
        splits[split] = {"name": split, "filenames": names, "shard_lengths": lengths, **about}
    return {"splits": splits}


# Markdown whose structure no value can change


def markdown_table(head: list[str], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)


def code(value: Any) -> str:
    """A value as inline code."""
    return f"`{markdown_text(value)}`"


def text(value: Any) -> str:
    """A value as text without markup, links or addresses."""
    line = markdown_text(value).strip()
    line = re.sub(r"[\\*\[\]~&]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", line)
    line = re.sub(r"^(\d*)([-+#=]|[.)](?=\s|$))", r"\1\\\2", line)  # starts of lists, headings and rules
    # GitHub turns bare addresses into links.
    return line.replace("://", "&#58;//").replace("www.", "www&#46;").replace("@", "&#64;")


def markdown_text(value: Any) -> str:
    """A value on one line, for code and YAML: without tags and backticks."""
    line = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return "".join(c if c.isprintable() and c not in "`<>" else "?" for c in line)


# README.md

# Tool, note, module, and the line that opens the dataset.
_READERS = (
    ("facegan", "batches on a device, in an exact order that can be resumed", "facegan",
     'faces = facegan.FaceShards("out", split="{split}")'),
    ("webdataset", "", "webdataset",
     'samples = webdataset.WebDataset("out/{shards}", shardshuffle=False).decode("rgb8")'),
    ("Hugging Face datasets", "", "datasets",
     'table = datasets.load_dataset("out", split="{hub_split}", streaming=True)'),
    ("timm", "from an absolute path", "timm.data",
     'images = timm.data.create_dataset("wds/faces", root="/path/to/out", split="{split}")'),
    ("wids", "from an absolute path: it caches shards in $WIDS_CACHE by path", "wids",
     'samples = wids.ShardListDataset("/path/to/out/index-{split}.json")'),
    ("ML Croissant", "it unpacks shards in $CROISSANT_CACHE by name: use another cache for each dataset", "mlcroissant",
     'records = mlcroissant.Dataset("out/croissant.json").records("faces")'),
)  # fmt: skip
_MEANINGS = {
    "split": "none; celeba: by CelebA's numbers; source: the source's own; or shares: 0.9,0.05,0.05",
    "models": "SHA-256 of each of the detector's models",
    "attributes": "SHA-256 of the list of attributes, if there was one; source: the table's own",
}
_MEANINGS_GENERATED = {
    "size": "side of a face in pixels",
    "channels": "3: RGB; 1: grey",
    "format": "png: uncompressed, lossless",
    "shard_size": "samples per shard",
    "generator": "SHA-256 of the generator's safetensors file",
    "seed": "seed of the latents; sample i depends on it and on i",
    "seeds": "one sample for each",
    "latents": "SHA-256 of the file of latents",
    "with": "attributes that all samples were to have",
    "without": "attributes that no sample was to have",
    "class": "class that all samples were to have",
    "truncation": "scale of the latents",
    "move": "standard deviations along named directions",
}
_FIELDS_GENERATED = {
    "path": "the sample's name; there is no photograph",
    "sha256": "of the image's file",
    "width": "of the image, in pixels",
    "height": "of the image, in pixels",
    "box": "empty: no detector ran",
    "keypoints": "empty",
    "score": "0",
    "quad": "the image's corners [x, y]: top left, bottom left, bottom right, top right",
    "turned": "0",
    "label": "0",
}
_WRITTEN_AGAIN = "`facegan prep` writes this page, and writes it again when photographs are added.\n"
_CONSENT = """\
A face is personal data. Use these only if the people in the photographs agreed to it, or if the terms of the \
photographs allow it. Keep those terms with the dataset, delete the face of anyone who asks for it \
(`facegan forget out --path PHOTOGRAPH`), and label generated faces as generated. A generator trained on few people \
can reproduce their likenesses.
"""
_TERMS_UNKNOWN = """\
facegan does not know the origin of these photographs, so it cannot state their terms of use. If you publish this \
dataset, add them.
"""
_TERMS_GENERATED = """\
Label these faces as generated. A generator can reproduce likenesses of the people in its training photographs, and the
terms of those photographs may apply to its output: know them before you publish this dataset.
"""


def readme(info: DatasetInfo, known: KnownDataset | None, attributes: Attributes = ()) -> str:
    """The dataset card, with the YAML front matter that Hugging Face's hub and ``datasets`` read."""
    settings, title = info.settings, f"Faces of {known.title}" if known else "Faces"
    terms = _TERMS_UNKNOWN
    if info.is_generated:
        title, fields, terms = "Generated faces", _FIELDS_GENERATED, _TERMS_GENERATED
        settings = {name: value for name, value in settings.items() if name != GENERATED}
        settings |= {name: value for name, value in info.settings[GENERATED].items() if value != ""}
        meanings = _MEANINGS_GENERATED
        same = "The same generator, latents and versions on the same kind of machine"
    else:
        fields = {name: field.description or "" for name, field in SampleMeta.model_fields.items()}
        meanings = {name: field.description or "" for name, field in PrepConfig.model_fields.items()} | _MEANINGS
        same = "The same photographs, settings and versions on the same kind of CPU"
    if known:
        terms = f"{known.title}: {known.terms}\n\nSource: {known.where}\n\n```bibtex\n{known.citation}\n```\n"
    rows = ((code(name), code(value), meanings.get(name, "")) for name, value in settings.items())
    shares = ((text(what), f"{count:,}", f"{share:.2%}") for what, count, share in attributes)
    versions = ((text(name), text(version)) for name, version in info.versions.items())
    sections = {
        "Contents": _contents(info),
        "Outcomes": "" if info.is_generated else _outcomes(info),
        "Attributes": markdown_table(["attribute", "faces", "share"], shares) if attributes else "",
        "KEY.json": markdown_table(["field", "meaning"], ((f"`{name}`", meaning) for name, meaning in fields.items())),
        "How to read it": _reading(info),
        "How it was made": f"{markdown_table(['setting', 'value', 'meaning'], rows)}\n"
        f"{markdown_table(['library', 'version'], versions)}\n{same} give the same bytes of every file.\n",
        "Terms": terms,
        "People": _CONSENT if not info.is_generated and (known is None or known.people) else "",
    }
    body = "".join(f"\n## {head}\n\n{section}" for head, section in sections.items() if section)
    size = text(info.settings["size"])
    return f"---\n{_front_matter(info, known)}---\n\n# {title}, {size} × {size}\n\n{_about(info, known)}{body}"


def _front_matter(info: DatasetInfo, known: KnownDataset | None) -> str:
    lines = [f"license: {known.licence if known else 'unknown'}"]
    if known and known.licence_name:
        lines.append(f"license_name: {known.licence_name}")
    lines += ["task_categories:", "- unconditional-image-generation"]
    lines += ["size_categories:", f"- {size_category(info.totals.faces)}"]
    lines += ["tags:", "- webdataset", *(["- synthetic"] if info.is_generated else [])]
    if info.splits:
        lines += ["configs:", "- config_name: default", "  data_files:"]
        for split in info.splits:
            lines += [f"  - split: {_HUB_SPLITS[split]}", f'    path: "{split}-*.tar"']
    return "\n".join(lines) + "\n"


def size_category(samples: int) -> str:
    """The hub's name for a size: ``n<1K``, ``1K<n<10K``, …"""
    digits = len(str(samples))
    return "n<1K" if digits < 4 else f"{_SIZES[digits - 4]}<n<{_SIZES[digits - 3]}"


def _about(info: DatasetInfo, known: KnownDataset | None) -> str:
    size, grey = text(info.settings["size"]), ", grey" if info.channels == 1 else ""
    faces = f"faces of {size} × {size} pixels{grey}"
    if info.is_generated:
        origin = "drawn by a generator of facegan (`facegan sample`).\nThey show nobody.\n"
        return f"{info.totals.faces:,} **generated** {faces}, {origin}"
    photographs = completeness(known, info.totals.photos) if known else f"{info.totals.photos:,} photographs"
    return f"{info.totals.faces:,} {faces}, cropped from {photographs}.\n{_WRITTEN_AGAIN}"


def _contents(info: DatasetInfo) -> str:
    rows = []
    for split in info.splits:
        shards = info.split_shards(split)
        faces, size = sum(shard.samples for shard in shards), human_bytes(sum(shard.bytes for shard in shards))
        rows.append((split, _HUB_SPLITS[split], f"{len(shards):,}", f"{faces:,}", size))
    image = code(f"KEY.{info.settings['format']}")
    item, row, sheet = "photograph", "photograph, kept or rejected", "faces, and rejects with their reasons"
    if info.is_generated:
        item, row, sheet = "sample", "sample", "the first faces"
    return (
        markdown_table(["split", "on the hub", "shards", "faces", "size"], rows)
        + f"\nA shard is a tar of {image} and `KEY.json`. KEY is the {item}'s path: "
        "bytes other than letters,\ndigits, `_` and `-` are written as `=XX`, and a final `.jpg` is dropped. "
        "Next to the shards are\n\n"
        f"- `photos.parquet`: one row per {row};\n"
        "- `dataset.json`: settings, versions, totals, and the SHA-256 of every shard;\n"
        f"- `preview.png`: {sheet};\n"
        "- `croissant.json`, `_info.json`, `index-SPLIT.json`: for ML Croissant, timm and wids.\n"
    )


def _outcomes(info: DatasetInfo) -> str:
    totals = info.totals
    rows = [("kept", f"{totals.kept:,}", "")]
    rows += [(code(reason), f"{count:,}", REASONS.get(reason, "")) for reason, count in totals.rejected.items()]
    rows += [("total", f"{totals.photos:,}", "")]
    ignored = ", ".join(f"{count:,} {text(suffix)}" for suffix, count in totals.ignored.items())
    return markdown_table(["outcome", "photographs", "meaning"], rows) + (
        f"\nOther files, ignored: {ignored}.\n" if ignored else ""
    )


def _reading(info: DatasetInfo) -> str:
    if not info.splits:
        return "The dataset has no faces.\n"
    split, shards = info.splits[0], info.split_shards(info.splits[0])
    first, last = (shards[at].name[len(split) + 1 : -len(".tar")] for at in (0, -1))  # numbered without gaps
    numbers = first if first == last else f"{{{first}..{last}}}"
    names = {"split": split, "hub_split": _HUB_SPLITS[split], "shards": f"{split}-{numbers}.tar"}
    blocks = (
        f"{tool}{note and f' ({note})'}:\n\n```python\nimport {module}\n\n{line.format(**names)}\n```\n"
        for tool, note, module, line in _READERS
    )
    return "`out` is this folder.\n\n" + "\n".join(blocks)


# croissant.json: ML Croissant 1.0 (Akhtar et al. 2024), as mlcroissant's own classes would write it.
#
# mlcroissant itself takes 0.65 s and 137 MB to import, too much for prep; a test compares the two. In mlcroissant 1.1.1
# neither ``jsonPath`` on KEY.json nor a join of images with it works, so the faces have their key alone; the column
# ``keys`` of the photographs leads from it to everything else.

_NO_DATE = "1970-01-01"  # validators require a date; the tars' mtime, so that the same photographs give the same bytes
_LICENCE_UNKNOWN = "Unknown: that of the photographs, whose origin facegan does not know."
_LICENCE_GENERATED = "Unknown: the faces are generated; the terms of the training photographs may apply to them."
_VOCABULARY = (
    "@language @vocab citeAs column conformsTo cr rai data dataType dct equivalentProperty examples extract field "
    "fileProperty fileObject fileSet format includes isLiveDataset jsonPath key md5 parentField path recordSet "
    "references regex repeated replace samplingRate sc separator source subField transform"
)
_OTHER_TERMS = {
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
_CONTEXT = {term: _OTHER_TERMS.get(term, f"cr:{term}") for term in _VOCABULARY.split()}


def croissant(info: DatasetInfo, known: KnownDataset | None) -> dict[str, Any]:
    """The dataset as JSON-LD: a FileObject per shard, and the record sets ``faces`` (if any) and ``photos``."""
    digest = hashlib.sha256("".join([info.photos_sha256, *(shard.sha256 for shard in info.shards)]).encode())
    files, records = [], []
    for shard in info.shards:
        about = {"contentUrl": shard.name, "encodingFormat": "application/x-tar", "sha256": shard.sha256}
        files.append(_node("FileObject", shard.name, contentSize=f"{shard.bytes} B", **about))
    if shards := [{"@id": shard.name} for shard in info.shards]:
        suffix = info.settings["format"]
        about = {"encodingFormat": IMAGE_FORMATS[suffix], "includes": f"*.{suffix}"}
        files.append(_node("FileSet", "images", containedIn=shards[0] if len(shards) == 1 else shards, **about))
        records.append(_faces(suffix))
    about = {"contentUrl": PHOTOS_FILE, "encodingFormat": "application/x-parquet", "sha256": info.photos_sha256}
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
        "distribution": [*files, _node("FileObject", PHOTOS_FILE, **about)],
        "recordSet": [*records, _photos()],
    }


def _node(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"@type": f"cr:{kind}", "@id": name, "name": name, **more}


def _description(info: DatasetInfo, known: KnownDataset | None) -> str:
    size, grey = info.settings["size"], ", grey" if info.channels == 1 else ""
    of = f" of {known.title}" if known else ""
    kind, origin = "", f"cropped from {info.totals.photos:,} photographs{of} by facegan prep"
    if info.is_generated:
        kind, origin = "generated ", "drawn by a generator of facegan. They show nobody"
    return (
        f"{info.totals.faces:,} {kind}faces of {size} × {size} pixels{grey}, {origin}. "
        f"The files have no time stamps, so that the same input gives the same bytes: datePublished is {_NO_DATE}."
    )


def _citation(info: DatasetInfo) -> str:
    made = f"Made by facegan {info.versions.get('facegan', '')}".rstrip()
    title, source = "Faces cropped from photographs", f"photographs {info.fingerprint}"
    if info.is_generated:
        title, source = "Generated faces", f"generator {info.settings[GENERATED].get('generator', '')}"
    return f"@misc{{faces, title = {{{title}}}, note = {{{made}, {source}}}}}"


def _faces(suffix: str) -> dict[str, Any]:
    images = {"fileSet": {"@id": "images"}}
    pixels = images | {"extract": {"fileProperty": "content"}}
    key = images | {"extract": {"fileProperty": "filename"}, "transform": {"regex": rf"^(.+)\.{suffix}$"}}
    fields = [
        _node("Field", "faces/key", description="the sample's key", dataType="sc:Text", source=key),
        _node("Field", "faces/image", description="the face", dataType="sc:ImageObject", source=pixels),
    ]
    description = "Every face with its key, which encodes the photograph's path."
    return _node("RecordSet", "faces", description=description, key={"@id": "faces/key"}, field=fields)


def _photos() -> dict[str, Any]:
    fields = []
    for name, (kind, meaning) in COLUMNS.items():
        is_list = pa.types.is_list(kind)
        item = kind.value_type if is_list else kind
        data_type = "Text" if pa.types.is_string(item) else "Float" if pa.types.is_floating(item) else "Integer"
        more = {"description": meaning, "dataType": f"sc:{data_type}", **({"repeated": True} if is_list else {})}
        source = {"fileObject": {"@id": PHOTOS_FILE}, "extract": {"column": name}}
        fields.append(_node("Field", f"photos/{name}", **more, source=source))
    description = "Every photograph that prep read, and its outcome."
    return _node("RecordSet", "photos", description=description, key={"@id": "photos/path"}, field=fields)

"""Files for other tools next to the shards: the dataset card, and the indexes of wids, timm and ML Croissant."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from facegan.config import PrepConfig
from facegan.files import human_bytes, write_bytes, write_json
from facegan.manifests import KnownDataset, completeness
from facegan.shards.croissant import croissant
from facegan.shards.format import GENERATED, REASONS, DatasetInfo, SampleMeta, ShardEntry

_HUB_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")


def write_cards(folder: Path, info: DatasetInfo, known: KnownDataset | None) -> list[str]:
    """Write README.md, croissant.json, _info.json and an index-SPLIT.json for every split that has shards.

    The bytes depend on the arguments alone.

    Args:
        info: dataset.json as it will be.
        known: the data set of the photographs, if facegan knows it.

    Returns:
        The files' names.
    """
    write_bytes(folder / "README.md", readme(info, known).encode())
    tables = {"croissant.json": croissant(info, known), "_info.json": timm_info(info)}
    tables |= {f"index-{split}.json": wids_index(info, split) for split in info.splits}
    for name, table in tables.items():
        write_json(folder / name, table)
    return ["README.md", *tables]


def wids_index(info: DatasetInfo, split: str) -> dict[str, Any]:
    """index-SPLIT.json: wids-shard-index-v1, with URLs relative to the index."""
    return {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": f"faces-{split}",
        "shardlist": [
            {"url": shard.name, "nsamples": shard.samples, "filesize": shard.bytes, "md5sum": shard.md5}
            for shard in info.split_shards(split)
        ],
    }


def timm_info(info: DatasetInfo) -> dict[str, Any]:
    """_info.json. Without ``alt_label``, the field of KEY.json with the class, timm silently reads no sample."""
    splits = {}
    for split in info.splits:
        shards = info.split_shards(split)
        splits[split] = {
            "name": split,
            "filenames": [shard.name for shard in shards],
            "shard_lengths": [shard.samples for shard in shards],
            "num_samples": _samples(shards),
            "alt_label": "label",
        }
    return {"splits": splits}


def _samples(shards: Iterable[ShardEntry]) -> int:
    return sum(shard.samples for shard in shards)


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
    "models": "SHA-256 of each of the detector's models",
    "attributes": "SHA-256 of the list of attributes, if there was one",
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
_CONSENT = """\
A face is personal data. Use these only if the people in the photographs agreed to it, or if the terms of the \
photographs allow it. Keep those terms with the dataset, delete the face of anyone who asks for it, and label \
generated faces as generated. A generator trained on few people can reproduce their likenesses.
"""
_TERMS_UNKNOWN = """\
facegan does not know the origin of these photographs, so it cannot state their terms of use. If you publish this \
dataset, add them.
"""
_TERMS_GENERATED = """\
Label these faces as generated. A generator can reproduce likenesses of the people in its training photographs, and the
terms of those photographs may apply to its output: know them before you publish this dataset.
"""


def readme(info: DatasetInfo, known: KnownDataset | None) -> str:
    """The dataset card, with the YAML front matter that Hugging Face's hub and ``datasets`` read."""
    size = text(info.settings["size"])
    if info.is_generated:
        title, fields, terms = "Generated faces", _FIELDS_GENERATED, _TERMS_GENERATED
        settings = {name: value for name, value in info.settings.items() if name != GENERATED}
        settings |= {name: value for name, value in info.settings[GENERATED].items() if value != ""}
        meanings = _MEANINGS_GENERATED
        same = "The same generator, latents and versions on the same kind of machine"
    else:
        title = f"Faces of {known.title}" if known else "Faces"
        fields = {name: field.description or "" for name, field in SampleMeta.model_fields.items()}
        terms = _terms(known)
        settings = info.settings
        meanings = {name: field.description or "" for name, field in PrepConfig.model_fields.items()} | _MEANINGS
        same = "The same photographs, settings and versions on the same kind of CPU"
    rows = ((code(name), code(value), meanings.get(name, "")) for name, value in settings.items())
    versions = ((text(name), text(version)) for name, version in info.versions.items())
    sections = {
        "Contents": _contents(info),
        "Outcomes": "" if info.is_generated else _outcomes(info),
        "KEY.json": markdown_table(["field", "meaning"], ((f"`{name}`", meaning) for name, meaning in fields.items())),
        "How to read it": _reading(info),
        "How it was made": f"{markdown_table(['setting', 'value', 'meaning'], rows)}\n"
        f"{markdown_table(['library', 'version'], versions)}\n{same} give the same bytes of every file.\n",
        "Terms": terms,
        "People": _CONSENT if not info.is_generated and (known is None or known.people) else "",
    }
    body = "".join(f"\n## {head}\n\n{section}" for head, section in sections.items() if section)
    return f"---\n{_front_matter(info, known)}---\n\n# {title}, {size} × {size}\n\n{_about(info, known)}{body}"


def _front_matter(info: DatasetInfo, known: KnownDataset | None) -> str:
    lines = [f"license: {known.licence if known else 'unknown'}"]
    if known and known.licence_name:
        lines.append(f"license_name: {known.licence_name}")
    lines += ["task_categories:", "- unconditional-image-generation"]
    lines += ["size_categories:", f"- {size_category(_samples(info.shards))}"]
    lines += ["tags:", "- webdataset", *(["- synthetic"] if info.is_generated else [])]
    if info.splits:
        lines += ["configs:", "- config_name: default", "  data_files:"]
        for split in info.splits:
            lines += [f"  - split: {_HUB_SPLITS[split]}", f"    path: {json.dumps(f'{split}-*.tar')}"]
    return "\n".join(lines) + "\n"


def size_category(samples: int) -> str:
    """The hub's name for a size: ``n<1K``, ``1K<n<10K``, … ``n>1T``."""
    above = sum(samples >= 10 ** (3 + i) for i in range(len(_SIZES)))
    if above == 0:
        return f"n<{_SIZES[0]}"
    return f"n>{_SIZES[-1]}" if above == len(_SIZES) else f"{_SIZES[above - 1]}<n<{_SIZES[above]}"


def _about(info: DatasetInfo, known: KnownDataset | None) -> str:
    size, grey = text(info.settings["size"]), ", grey" if info.channels == 1 else ""
    faces = f"faces of {size} × {size} pixels{grey}"
    if info.is_generated:
        drawn = "drawn by a generator of facegan (`facegan sample`).\nThey show nobody.\n"
        return f"{_samples(info.shards):,} **generated** {faces}, {drawn}"
    photographs = completeness(known, info.totals.photos) if known else f"{info.totals.photos:,} photographs"
    return (
        f"{_samples(info.shards):,} {faces}, cropped from {photographs}.\n"
        "`facegan prep` writes this page, and writes it again when photographs are added.\n"
    )


def _contents(info: DatasetInfo) -> str:
    rows = []
    for split in info.splits:
        shards = info.split_shards(split)
        size = human_bytes(sum(shard.bytes for shard in shards))
        rows.append((split, _HUB_SPLITS[split], f"{len(shards):,}", f"{_samples(shards):,}", size))
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
    split = info.splits[0]
    names = {"split": split, "hub_split": _HUB_SPLITS[split], "shards": _braces(info.split_shards(split))}
    blocks = (
        f"{tool}{note and f' ({note})'}:\n\n```python\nimport {module}\n\n{line.format(**names)}\n```\n"
        for tool, note, module, line in _READERS
    )
    return "`out` is this folder.\n\n" + "\n".join(blocks)


def _braces(shards: list[ShardEntry]) -> str:
    """All shards of a split in the brace notation of shells and webdataset. They are numbered without gaps."""
    first, last = shards[0].name, shards[-1].name
    if first == last:
        return first
    start, _, number = first.removesuffix(".tar").rpartition("-")
    return f"{start}-{{{number}..{last.removesuffix('.tar').rpartition('-')[2]}}}.tar"


def _terms(known: KnownDataset | None) -> str:
    if known is None:
        return _TERMS_UNKNOWN
    return f"{known.title}: {known.terms}\n\nSource: {known.where}\n\n```bibtex\n{known.citation}\n```\n"

"""README.md: the dataset card, with the YAML front matter that Hugging Face's hub and ``datasets`` read."""

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
from facegan.shards.format import GENERATED, DatasetInfo, ShardEntry

# Lists of shards as wids and timm read them.


def wids_index(info: DatasetInfo, split: str) -> dict[str, Any]:
    """index-SPLIT.json: wids-shard-index-v1, its URLs relative to the index itself."""
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
    """_info.json. Without ``alt_label``, the field of KEY.json that holds the class, timm reads nothing in silence."""
    splits = {}
    for split in info.splits:
        shards = info.split_shards(split)
        splits[split] = {
            "name": split,
            "filenames": [shard.name for shard in shards],
            "shard_lengths": [shard.samples for shard in shards],
            "num_samples": sum(shard.samples for shard in shards),
            "alt_label": "label",
        }
    return {"splits": splits}


# Pieces of Markdown for cards.


def markdown_table(head: list[str], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)


def code(value: Any) -> str:
    """A value as code, in which Markdown finds nothing but the end: that is no part of it."""
    return f"`{markdown_text(value)}`"


def text(value: Any) -> str:
    """A value as text: no markup, link or address in it is one."""
    line = markdown_text(value).strip()
    line = re.sub(r"[\\*\[\]~&]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", line)
    line = re.sub(r"^(\d*)([-+#=]|[.)](?=\s|$))", r"\1\\\2", line)  # with which lists, headings and rules begin
    # GitHub makes links of bare addresses.
    return line.replace("://", "&#58;//").replace("www.", "www&#46;").replace("@", "&#64;")


def markdown_text(value: Any) -> str:
    """A value on one line, for code and YAML: without what ends code, and without tags."""
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return "".join(c if c.isprintable() and c not in "`<>" else "?" for c in text)


_HUB_SPLITS = {"train": "train", "val": "validation", "test": "test"}  # as the hub calls ours
REASONS_TOLD = {
    "unreadable": "no picture, or damaged",
    "truncated": "a JPEG that ends too early",
    "too_large": "above the limits of pixels or bytes",
    "too_small": "a face of too few pixels",
    "no_face": "no face found",
    "low_score": "a face found, but with too low a score",
    "bad_keypoints": "eyes, nose and mouth found out of order",
    "several_faces": "more than the one face asked for",
    "off_edge": "too much of the crop lies outside the photograph",
    "blurry": "the face is blurred",
    "duplicate": "the same file as another photograph",
    "unreachable": "it could not be fetched",
    "crashed": "a fault of the program",
}
FIELDS = {
    "path": "the photograph, below the folder that prep was given",
    "sha256": "of the photograph's file",
    "width": "of the upright photograph, in pixels",
    "height": "of the upright photograph, in pixels",
    "box": "the detector's box [x, y, width, height], in pixels of the photograph; empty without a detector",
    "keypoints": "six [x, y]: image-left eye, image-right eye, nose, mouth, image-left ear, image-right ear",
    "score": "the detector's score, 0 to 1",
    "quad": "the crop's corners [x, y]: top left, bottom left, bottom right, top right; pixel centres at .5",
    "turned": "degrees that the photograph was turned by before the face was found: 0, 90, 180 or 270",
    "label": "the class; 0 where the photographs have none",
}
# Tool, import, and the line that opens the dataset.
_READERS = (
    (
        "facegan (batches on a device, in an exact order that can be resumed)",
        "import facegan",
        'faces = facegan.FaceShards("out", split="{split}")',
    ),
    (
        "webdataset",
        "import webdataset",
        'samples = webdataset.WebDataset("out/{shards}", shardshuffle=False).decode("rgb8")',
    ),
    (
        "Hugging Face datasets",
        "import datasets",
        'table = datasets.load_dataset("out", split="{hub_split}", streaming=True)',
    ),
    (
        "timm (from an absolute path)",
        "import timm.data",
        'images = timm.data.create_dataset("wds/faces", root="/path/to/out", split="{split}")',
    ),
    (
        "wids (from an absolute path: it keeps copies of shards in $WIDS_CACHE by their paths)",
        "import wids",
        'samples = wids.ShardListDataset("/path/to/out/index-{split}.json")',
    ),
    (
        "ML Croissant (it unpacks shards in $CROISSANT_CACHE by their names alone: each dataset needs its own)",
        "import mlcroissant",
        'records = mlcroissant.Dataset("out/croissant.json").records("faces")',
    ),
)
_MEANINGS = {
    "models": "SHA-256 of each of the detector's models",
    "attributes": "SHA-256 of the list of attributes, where one was given",
}
_DRAWN = {
    "size": "side of a face in pixels",
    "channels": "3: colours; 1: grey",
    "format": "png: uncompressed, lossless",
    "shard_size": "samples a shard",
    "generator": "SHA-256 of the generator's safetensors file",
    "seed": "sample i follows from it and i",
    "seeds": "a sample of each",
    "latents": "SHA-256 of the file of latents",
}
_OF_DRAWN = FIELDS | {
    "path": "the sample's name; no photograph lies there",
    "sha256": "of the image's file",
    "width": "of the image, in pixels",
    "height": "of the image, in pixels",
    "box": "empty: no detector looked at it",
    "keypoints": "empty, likewise",
    "score": "0, likewise",
    "quad": "the image's corners [x, y]: top left, bottom left, bottom right, top right",
    "turned": "0",
    "label": "0",
}
_TERMS_GENERATED = """\
Say of these faces that they are generated. A generator can give back likenesses of the people whose photographs it was
trained on, and the terms of those photographs may bind what it draws: whoever passes this on has to know them."""
_CONSENT = """\
A face is personal data. Use these only where the people in the photographs agreed to it, or where the terms of the \
photographs allow it; keep those terms with the dataset, delete the face of whoever asks for it, and say of generated \
faces that they are generated. A generator trained on few people can give back their likenesses."""
_TERMS_UNKNOWN = """\
facegan was not told where these photographs come from, so it can't say what may be done with them. Whoever passes \
this dataset on has to know, and to say so beside it."""


def readme(info: DatasetInfo, known: KnownDataset | None) -> str:
    """The card: YAML front matter, then what people want to know."""
    if info.is_generated:
        return _generated(info)
    size = text(info.settings["size"])
    sections = [
        ("", _about(info, known)),
        ("What is in it", _contents(info)),
        ("What became of the photographs", _outcomes(info)),
        ("KEY.json", markdown_table(["field", "meaning"], ((f"`{name}`", text) for name, text in FIELDS.items()))),
        ("How to read it", _reading(info)),
        ("How it was made", _made(info)),
        ("Terms", _terms(known)),
        *([("The people in it", _CONSENT + "\n")] if known is None or known.people else []),
    ]
    title = f"# Faces{f' of {known.title}' if known else ''}, {size} × {size}\n\n"
    body = "\n".join(f"## {head}\n\n{text}" if head else text for head, text in sections)
    return f"---\n{_front_matter(info, known)}---\n\n{title}{body}"


def _generated(info: DatasetInfo) -> str:
    """The card of faces that a generator drew."""
    size, count = text(info.settings["size"]), sum(shard.samples for shard in info.shards)
    drawn = {name: value for name, value in info.settings[GENERATED].items() if value != ""}
    settings = {**{name: value for name, value in info.settings.items() if name != GENERATED}, **drawn}
    about = (
        f"{count:,} **generated** faces of {size} × {size} pixels{', grey' if info.channels == 1 else ''}, drawn by a "
        "generator of facegan (`facegan sample`).\nThey are photographs of nobody.\n"
    )
    rows = ((code(name), code(value), _DRAWN.get(name, "")) for name, value in settings.items())
    versions = ((text(name), text(version)) for name, version in info.versions.items())
    same = "\nThe same generator, latents and versions on the same kind of machine give the same bytes of every file.\n"
    sections = [
        ("", about),
        ("What is in it", _contents(info)),
        ("KEY.json", markdown_table(["field", "meaning"], ((f"`{name}`", _OF_DRAWN[name]) for name in FIELDS))),
        ("How to read it", _reading(info)),
        ("How it was made", markdown_table(["setting", "value", "meaning"], rows)
         + "\n" + markdown_table(["library", "version"], versions) + same),
        ("Terms", _TERMS_GENERATED + "\n"),
    ]  # fmt: skip
    body = "\n".join(f"## {head}\n\n{text}" if head else text for head, text in sections)
    return f"---\n{_front_matter(info, None)}---\n\n# Generated faces, {size} × {size}\n\n{body}"


def _front_matter(info: DatasetInfo, known: KnownDataset | None) -> str:
    lines = [f"license: {known.licence if known else 'unknown'}"]
    if known and known.licence_name:
        lines.append(f"license_name: {known.licence_name}")
    lines += ["task_categories:", "- unconditional-image-generation"]
    lines += ["size_categories:", f"- {size_category(sum(shard.samples for shard in info.shards))}"]
    lines += ["tags:", "- webdataset", *(["- synthetic"] if info.is_generated else [])]
    if info.splits:
        lines += ["configs:", "- config_name: default", "  data_files:"]
        for split in info.splits:
            lines += [f"  - split: {_HUB_SPLITS[split]}", f"    path: {json.dumps(f'{split}-*.tar')}"]
    return "\n".join(lines) + "\n"


def size_category(samples: int) -> str:
    """The hub's word for a size: ``n<1K``, ``1K<n<10K``, … ``n>1T``."""
    steps = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
    above = sum(samples >= 10 ** (3 + i) for i in range(len(steps)))
    if above == 0:
        return f"n<{steps[0]}"
    return f"n>{steps[-1]}" if above == len(steps) else f"{steps[above - 1]}<n<{steps[above]}"


def _about(info: DatasetInfo, known: KnownDataset | None) -> str:
    samples, size = sum(shard.samples for shard in info.shards), text(info.settings["size"])
    photographs = completeness(known, info.totals.photos) if known else f"{info.totals.photos:,} photographs"
    return (
        f"{samples:,} faces of {size} × {size} pixels{', grey' if info.channels == 1 else ''}, cut out of "
        f"{photographs}.\n"
        f"`facegan prep` writes this page, and writes it anew when photographs are added.\n"
    )


def _contents(info: DatasetInfo) -> str:
    image = code(f"KEY.{info.settings['format']}")
    splits = (
        (split, _HUB_SPLITS[split], f"{len(shards):,}", f"{sum(s.samples for s in shards):,}",
         human_bytes(sum(s.bytes for s in shards)))
        for split in info.splits
        for shards in [info.split_shards(split)]
    )  # fmt: skip
    what, seen, sheet = (
        "photograph",
        "photograph seen, kept or not",
        "faces, and rejected photographs with their reasons",
    )
    if info.is_generated:
        what, seen, sheet = "sample", "sample", "the first faces"
    return (
        markdown_table(["split", "on the hub", "shards", "faces", "size"], splits)
        + f"\nA shard is a tar of {image} and `KEY.json`; KEY is the {what}'s path with every byte but "
        f"letters,\ndigits, `_` and `-` as `=XX`, and without a final `.jpg`. Beside the shards lie\n\n"
        f"- `photos.parquet`: one row for every {seen};\n"
        f"- `dataset.json`: settings, versions, totals, and the SHA-256 of every shard;\n"
        f"- `preview.png`: {sheet};\n"
        f"- `croissant.json`, `_info.json`, `index-SPLIT.json`: for ML Croissant, timm and wids.\n"
    )


def _outcomes(info: DatasetInfo) -> str:
    totals = info.totals
    rows = [("kept", f"{totals.kept:,}", "")]
    rows += [(code(reason), f"{count:,}", REASONS_TOLD.get(reason, "")) for reason, count in totals.rejected.items()]
    rows += [("together", f"{totals.photos:,}", "")]
    ignored = ", ".join(f"{count:,} {text(suffix)}" for suffix, count in totals.ignored.items())
    return markdown_table(["outcome", "photographs", "meaning"], rows) + (
        f"\nOther files, ignored: {ignored}.\n" if ignored else ""
    )


def _reading(info: DatasetInfo) -> str:
    if not info.splits:
        return "There is no face in it.\n"
    split = info.splits[0]
    names = {"split": split, "hub_split": _HUB_SPLITS[split], "shards": _braces(info.split_shards(split))}
    blocks = (f"{tool}:\n\n```python\n{first}\n\n{then.format(**names)}\n```\n" for tool, first, then in _READERS)
    return "`out` stands for this folder.\n\n" + "\n".join(blocks)


def _braces(shards: list[ShardEntry]) -> str:
    """All shards of a split in one word, as shells and webdataset expand it. They are numbered without gaps."""
    first, last = shards[0].name, shards[-1].name
    if first == last:
        return first
    start, _, number = first.removesuffix(".tar").rpartition("-")
    return f"{start}-{{{number}..{last.removesuffix('.tar').rpartition('-')[2]}}}.tar"


def _made(info: DatasetInfo) -> str:
    fields = PrepConfig.model_fields
    settings = (
        (
            code(name),
            code(value),
            fields[name].description or "" if name in fields else _MEANINGS.get(name, ""),
        )
        for name, value in info.settings.items()
    )
    versions = ((text(name), text(version)) for name, version in info.versions.items())
    return (
        markdown_table(["setting", "value", "meaning"], settings)
        + "\n"
        + markdown_table(["library", "version"], versions)
        + "\nThe same photographs, settings and versions on the same kind of CPU give the same bytes of every file.\n"
    )


def _terms(known: KnownDataset | None) -> str:
    if known is None:
        return _TERMS_UNKNOWN + "\n"
    return f"{known.title}: {known.terms}\n\nTo be had from: {known.where}\n\n```bibtex\n{known.citation}\n```\n"


# What other tools read beside the shards: a dataset card, ML Croissant, wids' indexes and timm's list.


def write_cards(folder: Path, info: DatasetInfo, known: KnownDataset | None) -> list[str]:
    """README.md, croissant.json, _info.json and an index-SPLIT.json for every split that has shards.

    The bytes follow from the arguments alone.

    Args:
        folder: where the files go.
        info: dataset.json as it will be.
        known: the data set that the photographs are of, where it is known.

    Returns:
        The files' names.
    """
    write_bytes(folder / "README.md", readme(info, known).encode())
    tables = {"croissant.json": croissant(info, known), "_info.json": timm_info(info)}
    tables |= {f"index-{split}.json": wids_index(info, split) for split in info.splits}
    for name, table in tables.items():
        write_json(folder / name, table)
    return ["README.md", *tables]

"""Every sample of a shard: does its image decode at the right size, does its JSON fit, is nothing else in the tar?"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from facegan.console import shown
from facegan.errors import DamagedFile, DatasetError
from facegan.faces.photo import Photo, Rejected
from facegan.files import parse_json
from facegan.shards.images import channels_problem
from facegan.shards.index import Member, Sample, Shard
from facegan.shards.layout import DATASET_FILE, IMAGE_FORMATS, PHOTOS_FILE, DatasetInfo
from facegan.shards.photos import read_batches
from facegan.shards.schema import SampleMeta, holds_null, key_agrees, meta_problem
from facegan.shards.write import tar_header

_BEGINS = {"png": b"\x89PNG\r\n\x1a\n", "jpg": b"\xff\xd8\xff", "webp": b"RIFF"}

TOLD_TWICE = ("path", "sha256", "width", "height")  # by a sample's JSON and by its photograph's row
Facts = tuple[str, str, int, int]
FactsByKey = dict[str, Facts | None]  # None: the JSON is not sound


@dataclass(frozen=True)
class Expected:
    """What dataset.json says of every sample."""

    size: int
    image_format: str
    channels: int

    @classmethod
    def of(cls, info: DatasetInfo) -> Expected:
        """
        Raises:
            DatasetError: the settings name no size or format, or channels that can't be.
        """
        size, image_format = info.settings.get("size"), info.settings.get("format")
        if type(size) is not int or size < 1 or image_format not in IMAGE_FORMATS:
            raise DatasetError(f"{DATASET_FILE} has settings that are none: size {size!r}, format {image_format!r}.")
        return cls(size, image_format, info.channels)


def check_samples(shard: Shard, expected: Expected) -> tuple[list[str], FactsByKey]:
    """A line for each problem, and what the samples tell of their photographs."""
    problems = _check_members(shard)
    facts: FactsByKey = {}
    further: dict[str, str] | None = None
    for sample in shard.samples:
        problem = _image_problem(sample, bytes(shard.read(sample.image)), expected)
        if problem:
            problems.append(f"{_place(shard, sample.image.name)} {problem}.")
        meta = read_meta(shard, sample)
        facts[sample.key] = None if isinstance(meta, str) else _facts(meta)
        if isinstance(meta, str):
            problems.append(f"{_place(shard, f'{sample.key}.json')} {shown(meta)}.")
            continue
        if not key_agrees(sample.key, meta.path):
            problems.append(f"{_place(shard, sample.key)} is no key of its path, {shown(meta.path)}.")
        further = meta.further if further is None else further
        if meta.further != further:
            problems.append(f"{_place(shard, f'{sample.key}.json')} has other further fields than the first sample.")
    return problems, facts


def _place(shard: Shard, name: str) -> str:
    return f"{shown(name)} in {shard.path}"


def _check_members(shard: Shard) -> list[str]:
    """The tar is its samples' members with the headers that facegan writes, and zeros."""
    problems = []
    of_samples = {member.offset for sample in shard.samples for member in (sample.image, sample.meta) if member}
    at = 0
    for member in shard.members():
        if member.offset not in of_samples:
            problems.append(f"{_place(shard, member.name)} belongs to no sample.")
        header = tar_header(member.name, member.size) if member.name.isascii() else b""
        if at + len(header) != member.offset or _bytes(shard, at, len(header)) != header:
            problems.append(f"{_place(shard, member.name)} has a header that facegan did not write.")
        at = member.offset + member.size
        padding = -member.size % 512
        if any(_bytes(shard, at, padding)):
            problems.append(f"{_place(shard, member.name)} has bytes behind its end.")
        at += padding
    rest = _bytes(shard, at, shard.path.stat().st_size - at)
    if rest.count(0) != len(rest):
        problems.append(f"The shard {shard.path} holds something behind its last sample.")
    return problems


def _bytes(shard: Shard, offset: int, size: int) -> bytes:
    return bytes(shard.read(Member("", offset, size)))


def _image_problem(sample: Sample, data: bytes, expected: Expected) -> str:
    suffix, size = expected.image_format, expected.size
    if sample.image.name != f"{sample.key}.{suffix}" or not data.startswith(_BEGINS[suffix]):
        return f"is no {suffix}"
    if suffix == "png" and not _checksums_hold(data):  # libpng would tell stderr of it
        return "can't be decoded: a checksum of the PNG does not hold"
    try:
        photo = Photo(data)
        if (photo.width, photo.height) != (size, size):
            return f"has {photo.width}×{photo.height} pixels; {DATASET_FILE} says {size}×{size}"
        if problem := channels_problem(data, photo.pixels(), expected.channels):
            return f"{problem}; {DATASET_FILE} says {expected.channels}"
    except Rejected as rejected:
        return f"can't be decoded: {rejected.reason}"
    except Exception as error:  # damaged bytes may surprise any of three decoders: that, too, is the sample's problem
        return f"can't be decoded: {type(error).__name__}"
    return ""


def _checksums_hold(png: bytes) -> bool:
    """Length, type, data, CRC of each chunk, up to IEND (W3C PNG, second edition, 5.3)."""
    at = 8
    while at + 12 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        end = at + 8 + length
        if end + 4 > len(png) or struct.unpack_from(">I", png, end)[0] != zlib.crc32(png[at + 4 : end]):
            return False
        if kind == b"IEND":
            return True
        at = end + 4
    return False


def read_meta(shard: Shard, sample: Sample) -> SampleMeta | str:
    """The sample's JSON, or what is wrong with it."""
    if sample.meta is None:
        return "is missing"
    try:
        fields = parse_json(bytes(shard.read(sample.meta)), sample.key)
        meta = SampleMeta.model_validate(fields)
    except ValidationError as error:
        return f"does not fit: {meta_problem(error)}"
    except DamagedFile as error:
        return f"is no JSON: {error.why}"
    return "does not fit: a field is null" if holds_null(fields) else meta


def _facts(meta: SampleMeta) -> Facts:
    return meta.path, meta.sha256, meta.width, meta.height


def read_facts(path: Path) -> FactsByKey:
    """What the samples of a shard tell of their photographs."""
    shard = Shard(path)
    metas = {sample.key: read_meta(shard, sample) for sample in shard.samples}
    shard.close()
    return {key: None if isinstance(meta, str) else _facts(meta) for key, meta in metas.items()}


def compare(folder: Path, facts: dict[str, FactsByKey]) -> dict[str, list[str]]:
    """Which samples of some shards disagree with photos.parquet, and in what: by shard, a line for each.

    Args:
        facts: by shard, what its samples tell.
    """
    problems: dict[str, list[str]] = {name: [] for name in facts}
    missing = {name: set(samples) for name, samples in facts.items()}
    for row in _rows_of(folder / PHOTOS_FILE, frozenset(facts)):
        name, told = row["shard"], [row[column] for column in TOLD_TWICE]
        for key in row["keys"]:
            missing[name].discard(key)
            if key not in facts[name]:
                problems[name].append(f"{shown(key)} is in {PHOTOS_FILE}, but not in {folder / name}.")
                continue
            problems[name] += [
                f"{shown(key)} in {folder / name} has {what} {shown(str(ours))}; {PHOTOS_FILE} says {shown(str(its))}."
                for what, ours, its in zip(TOLD_TWICE, facts[name][key] or told, told, strict=True)
                if ours != its
            ]
    for name, keys in missing.items():
        problems[name] += [f"{shown(key)} in {folder / name} is not in {PHOTOS_FILE}." for key in sorted(keys)]
    return problems


def _rows_of(path: Path, shards: frozenset[str]) -> Iterator[dict[str, Any]]:
    for batch in read_batches(path, [*TOLD_TWICE, "keys", "shard"]):
        names = batch.column("shard").to_pylist()
        if shards.isdisjoint(names):
            continue
        yield from (row for row in batch.to_pylist() if row["shard"] in shards)

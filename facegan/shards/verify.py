"""Check a dataset on disk against its dataset.json.

Shards and photos.parquet are each read once, front to back, and compared by sums of hashes over their samples, in which
order does not matter. Memory is that of one shard and some sixteen bytes a sample.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from facegan.console import Console, shown
from facegan.errors import DamagedFile, DatasetError
from facegan.faces.decode import Photo, Rejected, png_chunks
from facegan.files import parse_json, sha256_file
from facegan.shards.checksums import FileStamp, file_stamp
from facegan.shards.format import (
    DATASET_FILE,
    IMAGE_FORMATS,
    PHOTOS_FILE,
    REASONS,
    DatasetInfo,
    SampleMeta,
    ShardEntry,
    holds_null,
    key_agrees,
    meta_problem,
    shard_name,
)
from facegan.shards.images import channels_problem
from facegan.shards.photos import read_batches
from facegan.shards.reader import Member, Sample, Shard
from facegan.shards.writer import tar_header

_SIGNATURES = {"png": b"\x89PNG\r\n\x1a\n", "jpg": b"\xff\xd8\xff", "webp": b"RIFF"}
_SHARED_FIELDS = ("path", "sha256", "width", "height")  # in a sample's JSON and in its photograph's row
_COMPARED_TOGETHER = 32  # shards that differ from photos.parquet, for each time that it is read again

_Fields = tuple[str, str, int, int]  # values of _SHARED_FIELDS


@dataclass(frozen=True)
class Problem:
    """``shard`` is a file name."""

    shard: str
    problem: str


@dataclass(frozen=True)
class Verification:
    """The result of `verify`; ``stamps`` are for `save_verified`."""

    shards: int
    samples: int
    problems: tuple[Problem, ...]
    stamps: dict[str, FileStamp | None]

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass(frozen=True)
class _Expected:
    """Properties of every sample."""

    size: int
    image_format: str
    channels: int

    @classmethod
    def of(cls, info: DatasetInfo) -> _Expected:
        size, image_format = info.settings.get("size"), info.settings.get("format")
        if type(size) is not int or size < 1 or image_format not in IMAGE_FORMATS:
            raise DatasetError(f"{DATASET_FILE} has invalid settings: size {size!r}, format {image_format!r}.")
        return cls(size, image_format, info.channels)


@dataclass
class _Contents:
    """Contents of the readable shards."""

    samples: int = 0
    sums: dict[str, int] = field(default_factory=dict)  # by shard, over its samples' hashes
    keys: list[np.ndarray] = field(default_factory=list)  # uint64, hashes of all keys


def verify(folder: Path, console: Console | None = None, *, deep: bool = False) -> Verification:
    """Check every checksum and count of a dataset, and that dataset.json, tars and photos.parquet agree.

    Args:
        deep: also check that every sample decodes at the right size, that its JSON fits the schema and agrees with the
            photograph's row, and that the tars contain nothing else. Damaged shards are read as far as possible.

    Raises:
        DatasetError: dataset.json itself is missing or cannot be read.
    """
    info = DatasetInfo.read(folder)
    problems = _check_list(folder, info)
    expected = None
    if deep:
        try:
            expected = _Expected.of(info)
        except DatasetError as error:
            problems.append(Problem(DATASET_FILE, str(error)))
    contents, stamps = _Contents(), dict[str, FileStamp | None]()
    with (console or Console(quiet=True)).progress(len(info.shards), "shards") as progress:
        for entry in info.shards:
            stamp = file_stamp(folder, entry)
            lines = _check_shard(folder / entry.name, entry, expected, contents)
            problems += [Problem(entry.name, line) for line in lines]
            stamps[entry.name] = None if lines else stamp
            progress.advance(1)
    problems += _repeated_keys(folder, contents)
    problems += _check_photos(folder, info, contents, expected is not None)
    return Verification(len(info.shards), contents.samples, tuple(problems), stamps)


def _check_list(folder: Path, info: DatasetInfo) -> list[Problem]:
    """Problems of the list of files and of the totals."""
    problems = []
    for split in info.splits:
        for number, entry in enumerate(info.split_shards(split)):
            if entry.name != (name := shard_name(split, number)):
                problems.append(Problem(entry.name, f"{DATASET_FILE} lists {entry.name} instead of {name}."))
    listed = {entry.name for entry in info.shards}
    problems += [
        Problem(path.name, f"The shard {path} is not listed in {DATASET_FILE}.")
        for path in sorted(folder.glob("*-*.tar"))
        if path.name not in listed
    ]
    totals = info.totals
    for unit, total, parts in (
        ("photographs", totals.photos, [totals.kept, *totals.rejected.values()]),
        ("faces", totals.faces, [entry.samples for entry in info.shards]),
        ("bytes of shards", totals.bytes, [entry.bytes for entry in info.shards]),
    ):
        if total != sum(parts):
            line = f"{DATASET_FILE} has a total of {total:,} {unit}, but the parts add up to {sum(parts):,}."
            problems.append(Problem(DATASET_FILE, line))
    return problems


def _check_shard(path: Path, entry: ShardEntry, expected: _Expected | None, contents: _Contents) -> list[str]:
    """Problems of a shard. If it can be read, its samples are added to ``contents``."""
    if not path.is_file():
        return [f"The shard {path} is missing."]
    problems = []
    size = path.stat().st_size
    if size != entry.bytes:
        problems.append(f"The shard {path} has {size:,} bytes; {DATASET_FILE} says {entry.bytes:,}.")
    elif sha256_file(path) != entry.sha256:
        problems.append(f"The shard {path} was altered: its SHA-256 differs from {DATASET_FILE}.")
    if problems and expected is None:
        return problems
    try:
        shard = Shard(path)
    except DatasetError as error:
        return [*problems, str(error)]
    keys = [sample.key for sample in shard.samples]
    if len(keys) != entry.samples:
        problems.append(f"The shard {path} has {len(keys)} samples; {DATASET_FILE} says {entry.samples}.")
    fields: dict[str, _Fields | None] = {}
    if expected:
        problems += _check_members(shard)
        problems += _check_samples(shard, expected, fields)
    shard.close()
    contents.samples += len(keys)
    contents.sums[entry.name] = sum(_hash64(key, *(fields.get(key) or ())) for key in keys)
    contents.keys.append(np.array([_hash64(key) for key in keys], np.uint64))
    return problems


def _hash64(*parts: object) -> int:
    """64 bits: two samples collide once in ten million datasets of a million."""
    text = "\0".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


def _repeated_keys(folder: Path, contents: _Contents) -> list[Problem]:
    keys = np.sort(np.concatenate(contents.keys)) if contents.keys else np.zeros(0, np.uint64)
    repeated = set(keys[1:][keys[1:] == keys[:-1]].tolist())
    if not repeated:
        return []
    shards: defaultdict[str, list[str]] = defaultdict(list)
    for name in contents.sums:
        shard = Shard(folder / name)
        for sample in shard.samples:
            if _hash64(sample.key) in repeated:
                shards[sample.key].append(name)
        shard.close()
    return [
        Problem(names[-1], f"The key {shown(key)} occurs {len(names)} times: in {', '.join(names)}.")
        for key, names in shards.items()
        if len(names) > 1
    ]


# Samples (--deep)


def _check_samples(shard: Shard, expected: _Expected, fields: dict[str, _Fields | None]) -> list[str]:
    """Problems of the samples; fills ``fields`` by key (None: the JSON is invalid)."""
    problems: list[str] = []
    further: dict[str, str] | None = None
    for sample in shard.samples:
        if problem := _image_problem(sample, bytes(shard.read(sample.image)), expected):
            problems.append(f"{_member(shard, sample.image.name)} {problem}.")
        meta = read_meta(shard, sample)
        fields[sample.key] = _shared_fields(meta)
        if isinstance(meta, str):
            problems.append(f"{_member(shard, f'{sample.key}.json')} {shown(meta)}.")
            continue
        if not key_agrees(sample.key, meta.path):
            problems.append(f"{_member(shard, sample.key)} is not a key of its path, {shown(meta.path)}.")
        further = meta.further if further is None else further
        if meta.further != further:
            problems.append(f"{_member(shard, f'{sample.key}.json')} has other further fields than the first sample.")
    return problems


def _member(shard: Shard, name: str) -> str:
    return f"{shown(name)} in {shard.path}"


def _check_members(shard: Shard) -> list[str]:
    """The tar must consist of its samples' members, with the headers that facegan writes, and zeros."""
    problems = []
    of_samples = {member.offset for sample in shard.samples for member in (sample.image, sample.meta) if member}
    at = 0
    for member in shard.members():
        if member.offset not in of_samples:
            problems.append(f"{_member(shard, member.name)} belongs to no sample.")
        header = tar_header(member.name, member.size) if member.name.isascii() else b""
        if at + len(header) != member.offset or _bytes(shard, at, len(header)) != header:
            problems.append(f"{_member(shard, member.name)} has a header that facegan did not write.")
        at = member.offset + member.size
        padding = -member.size % 512
        if any(_bytes(shard, at, padding)):
            problems.append(f"{_member(shard, member.name)} has bytes after its end.")
        at += padding
    rest = _bytes(shard, at, shard.path.stat().st_size - at)
    if rest.count(0) != len(rest):
        problems.append(f"The shard {shard.path} has data after its last sample.")
    return problems


def _bytes(shard: Shard, offset: int, size: int) -> bytes:
    return bytes(shard.read(Member("", offset, size)))


def _image_problem(sample: Sample, data: bytes, expected: _Expected) -> str:
    suffix, size = expected.image_format, expected.size
    if sample.image.name != f"{sample.key}.{suffix}" or not data.startswith(_SIGNATURES[suffix]):
        return f"is not a {suffix}"
    if suffix == "png" and not _png_checksums_hold(data):  # before libpng writes about it to stderr
        return "cannot be decoded: a checksum of the PNG is wrong"
    try:
        photo = Photo(data)
        if (photo.width, photo.height) != (size, size):
            return f"has {photo.width}×{photo.height} pixels; {DATASET_FILE} says {size}×{size}"
        if problem := channels_problem(data, photo.pixels(), expected.channels):
            return f"{problem}; {DATASET_FILE} says {expected.channels}"
    except Rejected as rejected:
        return f"cannot be decoded: {rejected.reason}"
    except Exception as error:  # three decoders raise anything about damaged bytes
        return f"cannot be decoded: {type(error).__name__}"
    return ""


def _png_checksums_hold(png: bytes) -> bool:
    """Check the CRC of each chunk up to IEND (W3C PNG, second edition, 5.3)."""
    for kind, start, end in png_chunks(png):
        if end > len(png) or struct.unpack_from(">I", png, end - 4)[0] != zlib.crc32(png[start + 4 : end - 4]):
            return False
        if kind == b"IEND":
            return True
    return False


def read_meta(shard: Shard, sample: Sample) -> SampleMeta | str:
    """The sample's JSON, or its problem."""
    if sample.meta is None:
        return "is missing"
    try:
        fields = parse_json(bytes(shard.read(sample.meta)), sample.key)
        meta = SampleMeta.model_validate(fields)
    except ValidationError as error:
        return f"does not fit the schema: {meta_problem(error)}"
    except DamagedFile as error:
        return f"is not JSON: {error.why}"
    return "does not fit the schema: a field is null" if holds_null(fields) else meta


def _shared_fields(meta: SampleMeta | str) -> _Fields | None:
    return None if isinstance(meta, str) else (meta.path, meta.sha256, meta.width, meta.height)


# photos.parquet


def _check_photos(folder: Path, info: DatasetInfo, contents: _Contents, deep: bool) -> list[Problem]:
    path = folder / PHOTOS_FILE
    if not path.is_file():
        return [Problem(PHOTOS_FILE, f"{path} is missing.")]
    if sha256_file(path) != info.photos_sha256:
        return [Problem(PHOTOS_FILE, f"{path} was altered: its SHA-256 differs from {DATASET_FILE}.")]
    sums: defaultdict[str, int] = defaultdict(int)  # by shard, over its samples' hashes
    outcomes, reasons, lines = Counter[str](), Counter[str](), list[str]()
    shared = _SHARED_FIELDS if deep else ()
    try:
        for batch in read_batches(path, ["path", *shared[1:], "outcome", "reason", "keys", "shard"]):
            for row in batch.to_pylist():
                outcomes[row["outcome"]] += 1
                if row["reason"]:
                    reasons[row["reason"]] += 1
                values = [row[name] for name in shared]
                for key in row["keys"]:
                    sums[row["shard"]] += _hash64(key, *values)
                if contradiction := _contradiction(row):
                    lines.append(f"{path} contradicts itself about {shown(contradiction)}.")
    except DatasetError as error:
        return [Problem(PHOTOS_FILE, str(error))]
    totals = info.totals
    if outcomes.total() != totals.photos or outcomes["kept"] != totals.kept:
        lines.append(
            f"{path} has {outcomes.total()} photographs, {outcomes['kept']} of them kept; "
            f"{DATASET_FILE} says {totals.photos} and {totals.kept}."
        )
    if reasons != Counter(totals.rejected):
        lines.append(f"{path} and {DATASET_FILE} have different counts of rejection reasons.")
    listed = {entry.name for entry in info.shards}
    lines += [f"{path} has samples in the shard {shown(name)}, which is not listed." for name in sums.keys() - listed]
    problems = [Problem(PHOTOS_FILE, line) for line in lines]
    differ = [name for name in contents.sums if sums.get(name, 0) != contents.sums[name]]
    if not deep:
        return problems + [Problem(PHOTOS_FILE, f"{path} and the shard {name} have different keys.") for name in differ]
    for start in range(0, len(differ), _COMPARED_TOGETHER):
        problems += _compare(folder, differ[start : start + _COMPARED_TOGETHER])
    return problems


def _contradiction(row: dict[str, Any]) -> str:
    kept, keys = row["outcome"] == "kept", row["keys"]
    if kept == bool(keys) and kept == bool(row["shard"]) and kept != (row["reason"] in REASONS):
        return ""
    reason, shard = row["reason"] or "no reason", row["shard"] or "no shard"
    return f"{row['path']}: {row['outcome']}, {reason}, {len(keys)} samples in {shard}"


def _compare(folder: Path, names: list[str]) -> list[Problem]:
    """Differences between the samples of some shards and photos.parquet."""
    samples: dict[str, dict[str, _Fields | None]] = {}
    for name in names:
        shard = Shard(folder / name)
        samples[name] = {sample.key: _shared_fields(read_meta(shard, sample)) for sample in shard.samples}
        shard.close()
    problems: dict[str, list[str]] = {name: [] for name in names}
    missing = {name: set(keys) for name, keys in samples.items()}
    for batch in read_batches(folder / PHOTOS_FILE, [*_SHARED_FIELDS, "keys", "shard"]):
        if samples.keys().isdisjoint(batch.column("shard").to_pylist()):
            continue
        for row in batch.to_pylist():
            if (name := row["shard"]) not in samples:
                continue
            row_values = [row[column] for column in _SHARED_FIELDS]
            for key in row["keys"]:
                missing[name].discard(key)
                if key not in samples[name]:
                    problems[name].append(f"{shown(key)} is in {PHOTOS_FILE}, but not in {folder / name}.")
                    continue
                problems[name] += [
                    f"{shown(key)} in {folder / name} has {column} {shown(ours)}; {PHOTOS_FILE} says {shown(theirs)}."
                    for column, ours, theirs in zip(
                        _SHARED_FIELDS, samples[name][key] or row_values, row_values, strict=True
                    )
                    if ours != theirs
                ]
    for name, keys in missing.items():
        problems[name] += [f"{shown(key)} in {folder / name} is not in {PHOTOS_FILE}." for key in sorted(keys)]
    return [Problem(name, line) for name, lines in problems.items() for line in lines]

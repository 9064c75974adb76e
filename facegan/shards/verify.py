"""Check a dataset on disk against its dataset.json.

Shards and photos.parquet are each read once, front to back, and compared by sums of hashes over their samples, in which
order does not matter. Memory is that of one shard and some eighty bytes a sample, for leaks (``deep``) some 250.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
import tarfile
import zlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from facegan.console import Console, shown
from facegan.errors import DamagedFile, DatasetError
from facegan.faces.decode import Photo, Rejected, png_chunks
from facegan.files import parse_json
from facegan.shards.checksums import FileStamp, check_detections, check_photos, check_shard, file_stamp
from facegan.shards.detections import read_detections
from facegan.shards.duplicates import Leak, find_leaks
from facegan.shards.format import (
    DATASET_FILE,
    DETECTIONS_FILE,
    PHOTOS_FILE,
    REASONS,
    DatasetInfo,
    SampleMeta,
    ShardEntry,
    key_agrees,
    meta_problem,
    shard_name,
)
from facegan.shards.images import channels_problem
from facegan.shards.photos import attribute_schema, read_batches
from facegan.shards.reader import Member, Sample, Shard
from facegan.shards.writer import tar_header

_SIGNATURES = {"png": b"\x89PNG\r\n\x1a\n", "jpg": b"\xff\xd8\xff", "webp": b"RIFF"}
_SHARED_FIELDS = ("path", "sha256", "width", "height")  # in a sample's JSON and in its photograph's row
_MOST_COMPARED = 32  # shards that differ from photos.parquet and are compared with it sample by sample

_Metas = list[tuple[Sample, SampleMeta | str]]  # a string is what is wrong with the JSON
_Fields = list[tuple[str, list[Any]]]  # of each sample: its key, _SHARED_FIELDS and attributes; no values if invalid


@dataclass(frozen=True)
class Problem:
    """``shard`` is a file name."""

    shard: str
    problem: str


@dataclass(frozen=True)
class Verification:
    """The result of `verify`; ``stamps`` are for `save_verified`. Leaks are no problems: a source's own split may have
    some, as CelebA's does."""

    shards: int
    samples: int
    problems: tuple[Problem, ...]
    stamps: dict[str, FileStamp | None]
    leaks: tuple[Leak, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(folder: Path, console: Console | None = None, *, deep: bool = False) -> Verification:
    """Check every checksum and count of a dataset, and that dataset.json, tars and photos.parquet agree.

    With ``deep``, also that every sample decodes at the right size, that its JSON fits the schema and agrees with the
    photograph's row, and that the tars contain nothing else; damaged shards are read as far as possible. Leaks between
    splits are looked for, too. Raises DatasetError if dataset.json itself cannot be read.
    """
    info = DatasetInfo.read(folder)
    problems = _check_list(folder, info)
    if deep:
        try:
            _ = info.size, info.image_format, info.channels
        except DatasetError as error:
            problems.append(Problem(DATASET_FILE, str(error)))
            deep = False
    attributes = list[str]()
    with contextlib.suppress(DatasetError):  # it is reported below
        attributes = attribute_schema(folder / PHOTOS_FILE).names
    samples, sums, stamps = 0, dict[str, int](), dict[str, FileStamp | None]()
    with (console or Console(quiet=True)).progress(len(info.shards), "shards") as progress:
        for entry in info.shards:
            stamp = file_stamp(folder, entry)
            lines, fields = _check_shard(folder, entry, info if deep else None, attributes)
            problems += [Problem(entry.name, line) for line in lines]
            stamps[entry.name] = None if lines else stamp
            if fields is not None:
                samples += len(fields)
                sums[entry.name] = sum(_hash64(key, *values) for key, values in fields)
            progress.advance(1)
    try:
        check_photos(folder, info)
        problems += [Problem(PHOTOS_FILE, line) for line in _check_photos(folder, info, sums, deep)]
    except DatasetError as error:
        problems.append(Problem(PHOTOS_FILE, str(error).splitlines()[0]))
    compares = deep and all(problem.shard != PHOTOS_FILE for problem in problems)
    problems += [Problem(DETECTIONS_FILE, line) for line in _check_detections(folder, info, compares)]
    compares = compares and all(problem.shard != DETECTIONS_FILE for problem in problems)
    leaks = tuple[Leak, ...]()
    if compares and len(info.splits) > 1:
        try:
            leaks = tuple(find_leaks(folder, info))
        except DatasetError as error:  # a column that nothing above reads
            problems.append(Problem(PHOTOS_FILE, str(error).splitlines()[0]))
    return Verification(len(info.shards), samples, tuple(problems), stamps, leaks)


def _check_list(folder: Path, info: DatasetInfo) -> list[Problem]:
    """Problems of the list of files and of the totals."""
    problems = []
    for split in info.splits:
        for number, entry in enumerate(info.split_shards(split)):
            if entry.name != (name := shard_name(split, number)):
                problems.append(Problem(entry.name, f"{DATASET_FILE} lists {entry.name} instead of {name}."))
    for name in sorted({path.name for path in folder.glob("*-*.tar")} - {entry.name for entry in info.shards}):
        problems.append(Problem(name, f"The shard {folder / name} is not listed in {DATASET_FILE}."))
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


def _check_shard(
    folder: Path, entry: ShardEntry, deep: DatasetInfo | None, attributes: list[str]
) -> tuple[list[str], _Fields | None]:
    """Problems of a shard, and its samples if it can be read; without ``deep`` their keys alone."""
    problems = []
    try:
        check_shard(folder, entry)
    except DatasetError as error:
        problems.append(str(error).splitlines()[0])  # the second line advises to run this check
        if deep is None or not (folder / entry.name).is_file():
            return problems, None
    try:
        shard = Shard(folder / entry.name)
    except DatasetError as error:
        return [*problems, str(error)], None
    with contextlib.closing(shard):
        if len(shard) != entry.samples:
            problems.append(f"The shard {shard.path} has {len(shard)} samples; {DATASET_FILE} says {entry.samples}.")
        if deep is None:
            return problems, [(sample.key, []) for sample in shard.samples]
        metas = [(sample, read_meta(shard, sample)) for sample in shard.samples]
        return [*problems, *_check_members(shard), *_check_samples(shard, metas, deep)], _fields(metas, attributes)


def _hash64(*parts: object) -> int:
    """64 bits: two samples collide once in ten million datasets of a million."""
    text = "\0".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


# Samples (--deep)


def _check_samples(shard: Shard, metas: _Metas, info: DatasetInfo) -> list[str]:
    problems: list[str] = []
    further: dict[str, str] | None = None
    for sample, meta in metas:
        if problem := _image_problem(sample, bytes(shard.read(sample.image)), info):
            problems.append(f"{_member(shard, sample.image.name)} {problem}.")
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
    problems, at = [], 0
    of_samples = {member.offset for sample in shard.samples for member in (sample.image, sample.meta) if member}
    data = shard.read(Member("", 0, shard.path.stat().st_size)).tobytes()
    for member in shard.members():
        if member.offset not in of_samples:
            problems.append(f"{_member(shard, member.name)} belongs to no sample.")
        header = tar_header(member.name, member.size) if member.name.isascii() else b""
        end, padding = member.offset + member.size, -member.size % tarfile.BLOCKSIZE
        if header != data[at : member.offset] or any(data[end : end + padding]):
            problems.append(f"{_member(shard, member.name)} has a header or an end that facegan did not write.")
        at = end + padding
    if data.count(0, at) != len(data) - at:
        problems.append(f"The shard {shard.path} has data after its last sample.")
    return problems


def _image_problem(sample: Sample, data: bytes, info: DatasetInfo) -> str:
    suffix, size = info.image_format, info.size
    if sample.image.name != f"{sample.key}.{suffix}" or not data.startswith(_SIGNATURES[suffix]):
        return f"is not a {suffix}"
    if suffix == "png" and not _png_checksums_hold(data):  # before libpng writes about it to stderr
        return "cannot be decoded: a checksum of the PNG is wrong"
    try:
        photo = Photo(data)
        if (photo.width, photo.height) != (size, size):
            return f"has {photo.width}×{photo.height} pixels; {DATASET_FILE} says {size}×{size}"
        if problem := channels_problem(data, photo.pixels(), info.channels):
            return f"{problem}; {DATASET_FILE} says {info.channels}"
    except Rejected as rejected:
        return f"cannot be decoded: {rejected.reason}"
    except Exception as error:  # three decoders raise anything about damaged bytes
        return f"cannot be decoded: {type(error).__name__}"
    return ""


def _png_checksums_hold(png: bytes) -> bool:
    """Check the CRC of each chunk up to IEND (W3C PNG, second edition, 5.3)."""
    chunks = list(png_chunks(png))
    return any(name == b"IEND" for name, *_ in chunks) and all(
        end <= len(png) and struct.unpack_from(">I", png, end - 4)[0] == zlib.crc32(png[start + 4 : end - 4])
        for _, start, end in chunks
    )


def read_meta(shard: Shard, sample: Sample) -> SampleMeta | str:
    """The sample's JSON, or its problem."""
    if sample.meta is None:
        return "is missing"
    try:
        return SampleMeta.model_validate(parse_json(bytes(shard.read(sample.meta)), sample.key))
    except ValidationError as error:
        return f"does not fit the schema: {meta_problem(error)}"
    except DamagedFile as error:
        return f"is not JSON: {error.why}"


def _fields(metas: _Metas, names: list[str]) -> _Fields:
    """``names``: of the attributes that photos.parquet has."""

    def values(meta: SampleMeta) -> list[Any]:
        found = (meta.model_extra or {}).get("attributes")
        attributes = found if isinstance(found, dict) and found.keys() == {*names} else {}
        return [*(getattr(meta, name) for name in _SHARED_FIELDS), *map(attributes.get, names)]

    return [(sample.key, [] if isinstance(meta, str) else values(meta)) for sample, meta in metas]


def _shared(row: dict[str, Any], names: list[str]) -> list[Any]:
    """As `_fields`, of a row of photos.parquet."""
    attributes = ((1 if value else -1) if isinstance(value := row[name], bool) else value for name in names)
    return [*(row[name] for name in _SHARED_FIELDS), *attributes]


# photos.parquet


def _check_photos(folder: Path, info: DatasetInfo, in_shards: dict[str, int], deep: bool) -> list[str]:
    """Problems of the table, compared with dataset.json and the sums of hashes of the samples in each shard."""
    path, totals = folder / PHOTOS_FILE, info.totals
    sums, known = defaultdict[str, int](int), set[int]()  # sums as in_shards, hashes of all keys
    outcomes, reasons, lines = Counter[str](), Counter[str](), list[str]()
    attributes = attribute_schema(path).names if deep else []
    for batch in read_batches(path, [*_SHARED_FIELDS, "outcome", "reason", "keys", "shard", *attributes]):
        for row in batch.to_pylist():
            shared = _shared(row, attributes) if deep else ()
            outcomes[row["outcome"]] += 1
            if row["reason"]:
                reasons[row["reason"]] += 1
            for key in row["keys"]:
                sums[row["shard"]] += _hash64(key, *shared)
                if (number := _hash64(key)) in known:
                    lines.append(f"{path} has the key {shown(key)} twice.")
                known.add(number)
            lines += _contradiction(row, path)
    if outcomes.total() != totals.photos or outcomes["kept"] != totals.kept:
        lines.append(
            f"{path} has {outcomes.total()} photographs, {outcomes['kept']} of them kept; "
            f"{DATASET_FILE} says {totals.photos} and {totals.kept}."
        )
    if reasons != Counter(totals.rejected):
        lines.append(f"{path} and {DATASET_FILE} have different counts of rejection reasons.")
    for name in sums.keys() - {entry.name for entry in info.shards}:
        lines.append(f"{path} has samples in the shard {shown(name)}, which is not listed.")
    for number, name in enumerate(name for name, total in in_shards.items() if sums.get(name, 0) != total):
        if deep and number < _MOST_COMPARED:
            lines += _compare(folder, name)
        else:
            lines.append(f"{path} and the shard {name} have different samples.")
    return lines


def _check_detections(folder: Path, info: DatasetInfo, compares: bool) -> list[str]:
    """Problems of the table; if it ``compares`` with photos.parquet, also samples without exactly one detection."""
    if not info.detections_sha256:
        return []
    try:
        check_detections(folder, info)
        batches = read_batches(folder / PHOTOS_FILE, ["keys"]) if compares else ()
        left = Counter(_hash64(key) for batch in batches for keys in batch["keys"].to_pylist() for key in keys)
        for batch in read_detections(folder / DETECTIONS_FILE) if compares else ():
            left.subtract(_hash64(key) for key in batch["key"].to_pylist() if key)
    except DatasetError as error:
        return [str(error).splitlines()[0]]
    wrong = sum(map(bool, left.values()))
    return [f"{folder / DETECTIONS_FILE} and {PHOTOS_FILE} disagree about {wrong:,} samples."] if wrong else []


def _contradiction(row: dict[str, Any], path: Path) -> list[str]:
    kept, keys = row["outcome"] == "kept", row["keys"]
    if kept == bool(keys) and kept == bool(row["shard"]) and kept != (row["reason"] in REASONS):
        return []
    where = f"{row['path']}: {row['outcome']}, {row['reason'] or 'no reason'}"
    found = f"{len(keys)} samples in {row['shard'] or 'no shard'}"
    return [f"{path} contradicts itself about {shown(f'{where}, {found}')}."]


def _compare(folder: Path, name: str) -> list[str]:
    """Differences between a shard's samples and photos.parquet."""
    attributes, rows = attribute_schema(folder / PHOTOS_FILE).names, dict[str, list[Any]]()
    columns = (*_SHARED_FIELDS, *map(shown, attributes))
    with contextlib.closing(Shard(folder / name)) as shard:
        samples = dict(_fields([(sample, read_meta(shard, sample)) for sample in shard.samples], attributes))
    for batch in read_batches(folder / PHOTOS_FILE, [*_SHARED_FIELDS, "keys", "shard", *attributes]):
        here = batch.filter(pa.array([shard == name for shard in batch.column("shard").to_pylist()]))
        rows |= {key: _shared(row, attributes) for row in here.to_pylist() for key in row["keys"]}
    problems = []
    for key in sorted(samples.keys() | rows.keys()):
        if key not in samples:
            problems.append(f"{shown(key)} is in {PHOTOS_FILE}, but not in {shard.path}.")
        elif key not in rows:
            problems.append(f"{shown(key)} in {shard.path} is not in {PHOTOS_FILE}.")
        else:
            problems += [
                f"{shown(key)} in {shard.path} has {column} {shown(ours)}; {PHOTOS_FILE} says {shown(theirs)}."
                for column, ours, theirs in zip(columns, samples[key] or rows[key], rows[key], strict=True)
                if ours != theirs
            ]
    return problems

"""Is the dataset on disk the one that dataset.json tells of?

Memory is that of one shard and some sixteen bytes a sample: shards and photos.parquet are each read once, front to
back, and compared by sums over their samples, so that it does not matter in what order either holds them.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from facegan.console import Console, shown
from facegan.errors import DamagedFile, DatasetError
from facegan.faces.decode import Photo, Rejected
from facegan.files import parse_json, sha256_file
from facegan.shards.checksums import Mark, mark_of
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

# Every sample of a shard: does its image decode at the right size, does its JSON fit, is nothing else in the tar?

_BEGINS = {"png": b"\x89PNG\r\n\x1a\n", "jpg": b"\xff\xd8\xff", "webp": b"RIFF"}

IN_BOTH_TABLES = ("path", "sha256", "width", "height")  # by a sample's JSON and by its photograph's row
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
        name, told = row["shard"], [row[column] for column in IN_BOTH_TABLES]
        for key in row["keys"]:
            missing[name].discard(key)
            if key not in facts[name]:
                problems[name].append(f"{shown(key)} is in {PHOTOS_FILE}, but not in {folder / name}.")
                continue
            problems[name] += [
                f"{shown(key)} in {folder / name} has {what} {shown(str(ours))}; {PHOTOS_FILE} says {shown(str(its))}."
                for what, ours, its in zip(IN_BOTH_TABLES, facts[name][key] or told, told, strict=True)
                if ours != its
            ]
    for name, keys in missing.items():
        problems[name] += [f"{shown(key)} in {folder / name} is not in {PHOTOS_FILE}." for key in sorted(keys)]
    return problems


def _rows_of(path: Path, shards: frozenset[str]) -> Iterator[dict[str, Any]]:
    for batch in read_batches(path, [*IN_BOTH_TABLES, "keys", "shard"]):
        names = batch.column("shard").to_pylist()
        if shards.isdisjoint(names):
            continue
        yield from (row for row in batch.to_pylist() if row["shard"] in shards)


_COMPARED_AT_ONCE = 32  # shards that disagree with photos.parquet, for each time that it is read again


@dataclass(frozen=True)
class Problem:
    """One thing that does not hold. ``shard`` is the file's name."""

    shard: str
    problem: str


@dataclass(frozen=True)
class Verification:
    """What `verify` found. ``ok`` where nothing is wrong; ``marks`` are for `save_verified`."""

    shards: int
    samples: int
    problems: tuple[Problem, ...]
    marks: dict[str, Mark | None]

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass
class _Found:
    """What the readable shards hold."""

    samples: int = 0
    sums: dict[str, int] = field(default_factory=dict)  # by shard, over the marks of its samples
    keys: list[np.ndarray] = field(default_factory=list)  # uint64, the marks of all keys

    def repeated(self) -> set[int]:
        keys = np.sort(np.concatenate(self.keys)) if self.keys else np.zeros(0, np.uint64)
        return set(keys[1:][keys[1:] == keys[:-1]].tolist())


def verify(folder: Path, console: Console | None = None, *, deep: bool = False) -> Verification:
    """Checks every checksum and count of a dataset, and that dataset.json, tars and photos.parquet agree.

    Args:
        deep: also that every sample decodes at the right size, that its JSON fits the schema and agrees with the
            photograph's row, and that the tars hold nothing else. Damaged shards are looked into as far as they go.

    Raises:
        DatasetError: dataset.json itself is missing or can't be read.
    """
    info = DatasetInfo.read(folder)
    problems = _check_list(folder, info)
    expected = None
    if deep:
        try:
            expected = Expected.of(info)
        except DatasetError as error:
            problems.append(Problem(DATASET_FILE, str(error)))
    found, marks = _Found(), dict[str, Mark | None]()
    with (console or Console(quiet=True)).progress(len(info.shards), "shards") as progress:
        for entry in info.shards:
            mark = mark_of(folder, entry)
            lines = _check_shard(folder / entry.name, entry, expected, found)
            problems += [Problem(entry.name, line) for line in lines]
            marks[entry.name] = None if lines else mark
            progress.advance(1)
    problems += _repeated_keys(folder, info, found)
    problems += _check_photos(folder, info, found, expected is not None)
    return Verification(len(info.shards), found.samples, tuple(problems), marks)


def _check_list(folder: Path, info: DatasetInfo) -> list[Problem]:
    """The files there are, and what dataset.json says of itself."""
    problems = []
    for split in info.splits:
        for number, entry in enumerate(info.split_shards(split)):
            if entry.name != shard_name(split, number):
                line = f"{DATASET_FILE} lists {entry.name} where {shard_name(split, number)} has its place."
                problems.append(Problem(entry.name, line))
    listed = {entry.name for entry in info.shards}
    problems += [
        Problem(path.name, f"The shard {path} is not listed in {DATASET_FILE}.")
        for path in sorted(folder.glob("*-*.tar"))
        if path.name not in listed
    ]
    totals = info.totals
    for what, total, parts in (
        ("photographs", totals.photos, [totals.kept, *totals.rejected.values()]),
        ("faces", totals.faces, [entry.samples for entry in info.shards]),
        ("bytes of shards", totals.bytes, [entry.bytes for entry in info.shards]),
    ):
        if total != sum(parts):
            line = f"{DATASET_FILE} tells of {total:,} {what}, and their parts come to {sum(parts):,}."
            problems.append(Problem(DATASET_FILE, line))
    return problems


def _check_shard(path: Path, entry: ShardEntry, expected: Expected | None, found: _Found) -> list[str]:
    """What is wrong with a shard; what it holds is added to ``found`` where it can be read."""
    if not path.is_file():
        return [f"The shard {path} is missing."]
    problems = []
    size = path.stat().st_size
    if size != entry.bytes:
        problems.append(f"The shard {path} has {size:,} bytes; {DATASET_FILE} says {entry.bytes:,}.")
    elif sha256_file(path) != entry.sha256:
        problems.append(f"The shard {path} was altered: its SHA-256 is not that of {DATASET_FILE}.")
    if problems and expected is None:
        return problems
    try:
        shard = Shard(path)
    except DatasetError as error:
        return [*problems, str(error)]
    keys = [sample.key for sample in shard.samples]
    if len(keys) != entry.samples:
        problems.append(f"The shard {path} holds {len(keys)} samples; {DATASET_FILE} says {entry.samples}.")
    facts: dict[str, Any] = {}
    if expected:
        lines, facts = check_samples(shard, expected)
        problems += lines
    shard.close()
    found.samples += len(keys)
    found.sums[entry.name] = sum(_mark(key, *(facts.get(key) or ())) for key in keys)
    found.keys.append(np.array([_mark(key) for key in keys], np.uint64))
    return problems


def _mark(*parts: object) -> int:
    """64 bits that stand for these values: two samples share them once in ten million datasets of a million."""
    text = "\0".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


def _repeated_keys(folder: Path, info: DatasetInfo, found: _Found) -> list[Problem]:
    repeated = found.repeated()
    if not repeated:
        return []
    places: defaultdict[str, list[str]] = defaultdict(list)
    for entry in info.shards:
        if entry.name in found.sums:
            shard = Shard(folder / entry.name)
            for sample in shard.samples:
                if _mark(sample.key) in repeated:
                    places[sample.key].append(entry.name)
            shard.close()
    return [
        Problem(names[-1], f"The key {shown(key)} stands {len(names)} times: in {', '.join(names)}.")
        for key, names in places.items()
        if len(names) > 1
    ]


def _check_photos(folder: Path, info: DatasetInfo, found: _Found, deep: bool) -> list[Problem]:
    path = folder / PHOTOS_FILE
    if not path.is_file():
        return [Problem(PHOTOS_FILE, f"{path} is missing.")]
    if sha256_file(path) != info.photos_sha256:
        return [Problem(PHOTOS_FILE, f"{path} was altered: its SHA-256 is not that of {DATASET_FILE}.")]
    told = _PhotosTable(deep)
    try:
        told.read(path)
    except DatasetError as error:
        return [Problem(PHOTOS_FILE, str(error))]
    totals, outcomes = info.totals, told.outcomes
    lines = told.problems
    if outcomes.total() != totals.photos or outcomes["kept"] != totals.kept:
        lines.append(
            f"{path} has {outcomes.total()} photographs, {outcomes['kept']} of them kept; "
            f"{DATASET_FILE} says {totals.photos} and {totals.kept}."
        )
    if told.reasons != Counter(totals.rejected):
        lines.append(f"{path} and {DATASET_FILE} do not count the same reasons.")
    listed = {entry.name for entry in info.shards}
    lines += [f"{path} tells of the shard {shown(name)}, which is not listed." for name in told.sums.keys() - listed]
    problems = [Problem(PHOTOS_FILE, line) for line in lines]
    differ = [name for name in found.sums if told.sums.get(name, 0) != found.sums[name]]
    if not deep:
        said = f"{path} and the shard {{}} do not hold the same keys."
        return problems + [Problem(PHOTOS_FILE, said.format(name)) for name in differ]
    for start in range(0, len(differ), _COMPARED_AT_ONCE):
        facts = {name: read_facts(folder / name) for name in differ[start : start + _COMPARED_AT_ONCE]}
        problems += [Problem(name, line) for name, lines in compare(folder, facts).items() for line in lines]
    return problems


class _PhotosTable:
    """What photos.parquet tells, gathered while its rows pass by."""

    def __init__(self, deep: bool) -> None:
        self.facts = IN_BOTH_TABLES if deep else ()
        self.sums: defaultdict[str, int] = defaultdict(int)  # by shard, over the marks of its samples
        self.outcomes: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.problems: list[str] = []

    def read(self, path: Path) -> None:
        """
        Raises:
            DatasetError: it can't be read.
        """
        for batch in read_batches(path, ["path", *self.facts[1:], "outcome", "reason", "keys", "shard"]):
            for row in batch.to_pylist():
                self._count(path, row)

    def _count(self, path: Path, row: dict[str, Any]) -> None:
        keys, facts = row["keys"], [row[name] for name in self.facts]
        self.outcomes[row["outcome"]] += 1
        if row["reason"]:
            self.reasons[row["reason"]] += 1
        for key in keys:
            self.sums[row["shard"]] += _mark(key, *facts)
        kept = row["outcome"] == "kept"
        if kept != bool(keys) or kept != bool(row["shard"]) or kept == (row["reason"] in REASONS):
            reason, shard = row["reason"] or "no reason", row["shard"] or "no shard"
            what = f"{row['path']}: {row['outcome']}, {reason}, {len(keys)} samples in {shard}"
            self.problems.append(f"{path} contradicts itself about {shown(what)}.")

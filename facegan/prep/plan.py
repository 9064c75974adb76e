"""Plan a run: which photographs are new, their splits, and the chunks that they are cut into."""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facegan.config import PrepConfig
from facegan.console import Console, shown
from facegan.errors import DatasetError, SettingsError, SourceError
from facegan.files import sha256_file
from facegan.manifests import known_datasets, recognise, split_of
from facegan.prep.chunk import Chunk, Item
from facegan.prep.commit import CHUNKS, REPAIRS, ChunkWork
from facegan.prep.dedup import mark_duplicates
from facegan.prep.photo_index import IndexedPhoto, PhotoIndex
from facegan.prep.request import Attributes, library_versions
from facegan.prep.sources.base import Source, source_errors
from facegan.prep.sources.folder import BROKEN_LINK
from facegan.remote import as_source_error
from facegan.shards.checksums import check_photos, size_error
from facegan.shards.format import (
    PHOTO_SUFFIXES,
    PHOTOS_FILE,
    SPLITS,
    STATE_FOLDER,
    DatasetInfo,
    ShardEntry,
    readable_path,
)
from facegan.shards.photos import SCHEMA, read_in_pieces, read_known

_RETRIED = ("unreachable", "crashed")  # reasons that --repair tries again

SplitOf = Callable[[bytes, str], str]  # path in the dataset, the source's own part → split


@dataclass(frozen=True)
class PlanRequest:
    """The inputs of a plan, besides the photographs.

    Attributes:
        settings: as dataset.json will hold them; already checked against those of ``existing``.
        limit: only the first so many photographs by name.
        dedup_threads: threads that look for duplicates; 0 skips the search.
        fetch_ahead: requests per thread, where photographs are fetched one by one.
    """

    source: Source
    out: Path
    config: PrepConfig
    settings: dict[str, Any]
    existing: DatasetInfo | None
    attributes: Attributes | None = None
    limit: int | None = None
    dedup_threads: int = 0
    fetch_ahead: int = 1

    @property
    def attribute_names(self) -> tuple[str, ...]:
        return self.attributes.names if self.attributes else ()


@dataclass(frozen=True)
class ChunkPlan:
    """A chunk to make: its photographs by first name and number, and the digest of its inputs."""

    number: int
    split: str
    first: bytes
    photos: int
    bytes: int
    inputs: str


@dataclass(frozen=True)
class Plan:
    """What one run adds to a dataset.

    Attributes:
        where: the source, as the user named it.
        source_digests: of the source's files, where it is a table or an array.
        found: photographs in the source, at most ``--limit``.
        missing: number of photographs in the dataset that the source no longer has, and the first of them.
        data_set: name in the manifests of the data set that the source was recognised as; empty otherwise.
        duplicates: new photographs with the bytes of another one.
        chunks: chunks to add; empty in a repair.
        rebuild: existing chunks that a repair makes again, by their position.
    """

    where: str
    source_digests: tuple[str, ...]
    existing: DatasetInfo | None
    settings: dict[str, Any]
    versions: dict[str, str]
    found: int
    missing: tuple[int, str]
    ignored: dict[str, int]
    data_set: str
    duplicates: int
    chunks: tuple[ChunkPlan, ...]
    index: PhotoIndex
    attributes: tuple[str, ...] = ()  # names
    rebuild: dict[int, ChunkPlan] = field(default_factory=dict)

    @property
    def new(self) -> int:
        """Photographs to prepare."""
        return sum(chunk.photos for chunk in self.todo)

    @property
    def todo(self) -> tuple[ChunkPlan, ...]:
        return (*self.chunks, *self.rebuild.values())

    @property
    def chunks_folder(self) -> str:
        """Folder in ``.facegan`` where chunks are committed. A repair keeps apart from an unfinished addition."""
        return REPAIRS if self.rebuild else CHUNKS

    def work(self, chunk: ChunkPlan) -> ChunkWork:
        if self.rebuild:
            photos = self.index.photos_for_repair(chunk.number, chunk.split)
        else:
            photos = self.index.photos(chunk.split, chunk.first, chunk.photos)
        items = (Item(p.path, p.entry, "duplicate" if p.is_duplicate else "", p.attributes) for p in photos)
        return ChunkWork(Chunk(chunk.number, tuple(items), self.attributes), chunk.inputs)


def list_photographs(source: Source) -> PhotoIndex:
    """
    Raises:
        SourceError: the source has no photographs, or cannot be reached.
    """
    index = PhotoIndex(source)
    if not len(index):
        index.close()
        raise SourceError(_no_photographs(source.where, index))
    return index


def _no_photographs(where: str, index: PhotoIndex) -> str:
    others = ", ".join(f"{count:,} {shown(suffix)}" for suffix, count in index.ignored.most_common(5))
    broken = index.ignored.names.get(BROKEN_LINK)
    links = f"The first broken links: {', '.join(map(shown, broken))}.\n" if broken else ""
    return (
        f"{where} contains no photographs" + (f", only {others}" if others else "") + f".\n{links}"
        f"Photographs are files that end in {' '.join(sorted(PHOTO_SUFFIXES))}."
    )


def make_plan(request: PlanRequest, index: PhotoIndex) -> Plan:
    """Find the photographs of the source that the dataset does not contain yet.

    Raises:
        SourceError: a new photograph is outside the folder that the first prep fixed, or has no split.
        DatasetError: a photograph has changed since it was added, or the dataset is damaged.
    """
    existing, config, out = request.existing, request.config, request.out
    if existing:
        try:
            check_photos(out, existing)
        except DatasetError as error:
            raise DatasetError(
                f"{error}\nNothing can be added without it. Add --force to prepare the dataset from scratch."
            ) from None
    digests, duplicates = _source_digests(request), 0
    if existing is None or request.limit is not None or not index.matches(existing.totals.photos, existing.fingerprint):
        index.sort(request.limit)
        if existing:
            index.add_existing(read_known(out / PHOTOS_FILE))
        index.set_root(existing=existing is not None)
        if existing:
            index.exclude_existing()
            _refuse_changed(index, out)
        index.split_by(splitter(config.split))
        if request.attributes:
            _set_attributes(index, request.attributes)
        if config.dedup == "exact" and request.dedup_threads:
            duplicates = _mark_duplicates(request, index)
    versions = library_versions()
    chunks = tuple(_cut_chunks(index, config.shard_size, request.settings, {**versions, "source": " ".join(digests)}))
    for entry in existing.shards if existing and chunks else ():
        if error := size_error(out, entry):  # the preview may need it; its SHA-256 is compared then
            raise repairable(error)
    return Plan(
        where=request.source.where,
        source_digests=digests,
        existing=existing,
        settings=request.settings,
        versions=versions,
        found=min(len(index), request.limit or len(index)),
        missing=index.missing(),
        ignored=dict(sorted(index.ignored.items())),
        data_set=existing.data_set if existing else _recognised(request.source, index),
        duplicates=duplicates,
        chunks=chunks,
        index=index,
        attributes=request.attribute_names,
    )


def _source_digests(request: PlanRequest) -> tuple[str, ...]:
    """See `Source.marks`.

    Raises:
        DatasetError: the dataset was made from other files. Files appended to those it was made from are new.
    """
    with as_source_error(request.source.where):
        digests = request.source.digests()
    old = request.existing.source if request.existing else digests
    if old != digests[: len(old)] or bool(old) != bool(digests):
        raise DatasetError(
            f"{request.out} was prepared from another source than {request.source.where}; their photographs could be\n"
            f"mixed up. Use another OUT, or add --force to delete it and prepare again."
        )
    return digests


def _refuse_changed(index: PhotoIndex, out: Path) -> None:
    if changed := index.changed():
        path, then, now = changed
        raise DatasetError(
            f"{shown(path)} has changed since it was added to {out}: {then:,} bytes then, {now:,} now.\n"
            f"Restore it, rename the new one, or add --force to delete {out} and prepare again."
        )


def _set_attributes(index: PhotoIndex, attributes: Attributes) -> None:
    """
    Raises:
        SourceError: a photograph is not in the list.
    """
    if missing := index.set_attributes(attributes.rows()):
        raise SourceError(
            f"{attributes.path} has no attributes of {shown(missing)}. With --attributes every photograph needs a line."
        )


def _mark_duplicates(request: PlanRequest, index: PhotoIndex) -> int:
    source = request.source
    with tempfile.TemporaryDirectory(dir=request.out / STATE_FOLDER) as folder, as_source_error(source.where):
        with source_errors(source.where):
            readable = source.unpacked(Path(folder))
        return mark_duplicates(readable, index, request.dedup_threads, request.fetch_ahead)


def _recognised(source: Source, index: PhotoIndex) -> str:
    by_torchvision = source.where.removeprefix("torchvision:").partition(":")[0]
    for known in known_datasets().values():
        if source.where.startswith("torchvision:") and known.torchvision == by_torchvision:
            return known.name
    found = recognise(index.names(), len(index))
    return found.name if found else ""


def _cut_chunks(
    index: PhotoIndex, shard_size: int, settings: dict[str, Any], versions: dict[str, str]
) -> Iterator[ChunkPlan]:
    """Cut the sorted photographs of each split into chunks of ``shard_size``."""
    number = 0
    for split in SPLITS:
        photos = index.photos(split)
        while batch := list(itertools.islice(photos, shard_size)):
            yield _plan_chunk(number, split, batch, settings, versions)
            number += 1


def _plan_chunk(
    number: int, split: str, photos: list[IndexedPhoto], settings: dict[str, Any], versions: dict[str, str]
) -> ChunkPlan:
    digest = hashlib.sha256(json.dumps([settings, versions, SCHEMA.names], sort_keys=True).encode())
    for photo in photos:
        fields = [readable_path(photo.path), photo.entry.size, photo.entry.label, photo.is_duplicate, photo.attributes]
        digest.update(json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogateescape"))
    size = sum(photo.entry.size for photo in photos)
    return ChunkPlan(number, split, photos[0].entry.name, len(photos), size, digest.hexdigest())


def plan_repair(request: PlanRequest, index: PhotoIndex, sha256: Callable[[Path], str], console: Console) -> Plan:
    """Plan ``--repair``: rebuild missing or altered shards to the bytes they had, and retry photographs that could not
    be fetched or crashed. All other chunks stay as they are.

    Args:
        sha256: of a shard's bytes, wherever the output store keeps them.

    Raises:
        DatasetError: photos.parquet was altered, or the source no longer has a photograph that is needed.
    """
    existing, out = request.existing, request.out
    if existing is None:
        raise DatasetError(f"{out} has no dataset to repair. Leave out --repair.")
    photos = out / PHOTOS_FILE
    if not photos.is_file() or sha256_file(photos) != existing.photos_sha256:
        raise DatasetError(f"{photos} is missing or altered; a repair needs it. Add --force to prepare from scratch.")
    sizes = [chunk.photos for chunk in existing.chunks]
    if sum(sizes) != existing.totals.photos:
        raise DatasetError(f"{out} was selected from other datasets and cannot be repaired. Select it again.")
    index.sort()
    index.add_existing(read_known(photos))
    index.set_root(existing=True)
    if request.attributes:
        _set_attributes(index, request.attributes)
    damaged = {entry.name: why for entry in existing.shards if (why := _damage(out / entry.name, entry, sha256))}
    for name, why in damaged.items():
        console.note(f"{name} {why}. Rebuilding it.")
    rebuild: dict[int, ChunkPlan] = {}
    versions = library_versions()
    for number, (chunk, table) in enumerate(zip(existing.chunks, read_in_pieces(photos, sizes), strict=True)):
        reasons = table["reason"].to_pylist()
        retried = sum(reason in _RETRIED for reason in reasons)
        if chunk.shard not in damaged and not retried:
            continue
        if retried:
            console.note(f"Retrying {retried:,} photographs of {chunk.shard or f'chunk {number}'}.")
        rows = zip(table["path"].to_pylist(), [reason == "duplicate" for reason in reasons], strict=True)
        if missing := index.select_for_repair(number, rows):
            raise DatasetError(
                f"{shown(missing)} is missing from the source, and {chunk.shard or out} cannot be rebuilt without it."
            )
        items = list(index.photos_for_repair(number, chunk.split))
        rebuild[number] = _plan_chunk(number, chunk.split, items, request.settings, versions)
    return Plan(
        where=request.source.where,
        source_digests=existing.source,
        existing=existing,
        settings=request.settings,
        versions=versions,
        found=existing.totals.photos,
        missing=(0, ""),
        ignored=existing.totals.ignored,
        data_set=existing.data_set,
        duplicates=0,
        chunks=(),
        index=index,
        attributes=request.attribute_names,
        rebuild=rebuild,
    )


def _damage(path: Path, entry: ShardEntry, sha256: Callable[[Path], str]) -> str:
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != entry.bytes or sha256(path) != entry.sha256:
        return "was altered"
    return ""


def repairable(error: DatasetError) -> DatasetError:
    return DatasetError(f"{error}\nRun the same command with --repair, then without it.")


def report_changed_bytes(after: DatasetInfo, plan: Plan, console: Console) -> None:
    """Warn of rebuilt shards whose bytes changed although all their photographs had been readable before."""
    before = plan.existing
    if before is None or before.totals.rejected != after.totals.rejected:
        return
    old_sums = {entry.name: entry.sha256 for entry in before.shards}
    new_sums = {entry.name: entry.sha256 for entry in after.shards}
    for number in plan.rebuild:
        old, new = before.chunks[number].shard, after.chunks[number].shard
        if old and old == new and old_sums[old] != new_sums[new]:
            console.warn(
                f"{new} has changed: library versions, the CPU or photographs differ from those of the first run."
            )


def estimate(new: int, source_bytes: int, config: PrepConfig, workers: int) -> tuple[float, int]:
    """Estimate the seconds and bytes of a run: per process 3 ms per photograph, 0.4 ms without a detector, and 10 ms
    per megabyte."""
    bytes_per_pixel = {"png": 3.0, "jpg": 0.9, "webp": 1.8}[config.format]
    tar = 2 * 512 + 1024 + 256  # two headers, JSON, padding to blocks
    photo_seconds = 0.0004 if config.detector == "none" else 0.003
    seconds = (new * photo_seconds + source_bytes * 1e-8) / max(1, workers) + 2.0
    return seconds, int(new * (config.size**2 * bytes_per_pixel * config.channels / 3 + tar))


# --split: by CelebA's own numbers, by the source's own parts, or by a hash of the path.


def shares(setting: str) -> tuple[float, ...] | None:
    """``"0.9,0.05,0.05"`` → shares of train, val and test; None for a split by name.

    Raises:
        SettingsError: the numbers are not shares.
    """
    if not any(character.isdigit() for character in setting):
        return None
    try:
        found = tuple(float(part) for part in setting.split(","))
    except ValueError:
        found = ()
    if not 2 <= len(found) <= 3 or not all(0 <= share <= 1 for share in found) or abs(sum(found) - 1) > 1e-6:
        raise SettingsError(f"--split {setting} is invalid. Shares are two or three numbers of sum 1: 0.9,0.05,0.05.")
    return found


def splitter(setting: str) -> SplitOf:
    """The rule behind ``--split``."""
    parts = shares(setting)
    if parts is not None:
        return lambda path, _: by_hash(path, parts)
    if setting == "source":
        return _by_source
    if setting == "celeba":
        return lambda path, _: split_of(known_datasets()["celeba-aligned"], path)
    return lambda path, _: "train"


def by_hash(path: bytes, parts: tuple[float, ...]) -> str:
    """The path's SHA-256 as a number in [0, 1), compared with the cumulated shares. Other photographs do not matter."""
    at = int.from_bytes(hashlib.sha256(path).digest()[:8]) / 2**64
    for split, part in zip(SPLITS, parts, strict=False):
        if at < part:
            return split
        at -= part
    return SPLITS[len(parts) - 1]


def _by_source(path: bytes, part: str) -> str:
    if part not in SPLITS:
        raise SourceError(
            f"--split source: the source does not say if {shown(readable_path(path))} is for train, val or test.\n"
            f"Choose shares, such as --split 0.9,0.05,0.05."
        )
    return part

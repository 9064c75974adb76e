"""Plan a run: which photographs are new or duplicates, their splits, and the chunks that they are cut into."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from facegan import system
from facegan.config import PrepConfig
from facegan.config.resources import NO_ATTRIBUTES, count_or_none
from facegan.console import Console, counted, shown
from facegan.errors import DatasetError, SourceError
from facegan.files import make_folder, sha256_file
from facegan.manifests import known_datasets, known_models, recognise
from facegan.prep.attributes import AttributeList
from facegan.prep.chunk import Chunk, Item
from facegan.prep.commit import CHUNKS, REPAIRS, ChunkWork
from facegan.prep.dedup import hash_photos
from facegan.prep.inspect import Origin
from facegan.prep.lists import ATTRIBUTES, SPLIT, Lists, read_identities, shares, splitter
from facegan.prep.photo_index import IndexedPhoto, PhotoIndex
from facegan.prep.request import PrepareRequest, check_settings, find_models, library_versions
from facegan.prep.reuse import KnownDetections, open_detections
from facegan.prep.sources import open_source
from facegan.prep.sources.base import Source, source_errors
from facegan.prep.sources.folder import BROKEN_LINK
from facegan.prep.sources.parquet import Table
from facegan.prep.storage import OutputStore
from facegan.prep.suppression import Suppression, read_paths
from facegan.remote import as_source_error, is_url
from facegan.shards.checksums import check_detections, check_photos, size_error
from facegan.shards.format import DATASET_FILE, PHOTO_SUFFIXES, PHOTOS_FILE, SPLITS, DatasetInfo, readable_path
from facegan.shards.photos import SCHEMA, attribute_schema, joined, read_columns, require_same_attributes

RETRIED = ("unreachable", "crashed")  # reasons that --repair tries again


class Inputs:
    """A request with its photographs, detector models and attributes opened."""

    def __init__(self, request: PrepareRequest, is_dry: bool = False) -> None:
        self.request = request
        photos = request.photos
        out = None if is_url(os.fspath(request.out)) else Path(request.out)  # it may be inside the source
        where, download = os.fspath(request.source), photos.download and not is_dry
        self.source = open_source(where, out, download, photos.follow_links, photos.max_unpacked_ratio)
        self.models = find_models(request.settings, photos.model, fetch=not is_dry)
        is_given = photos.attributes not in ("", NO_ATTRIBUTES)
        self.attributes = AttributeList.read(photos.attributes) if is_given else None
        self.identities = read_identities(photos.identity) if photos.identity else {}
        self.excluded = read_paths(photos.exclude, "--exclude") if photos.exclude else frozenset[str]()
        self.lacking = ""  # of which photographs the list lacks attributes, in words
        self.lists, self.from_lists = Lists(), list[str]()  # the latter: settings that they decide
        known = {model.file: model.sha256 for model in known_models().values()}  # checked, or to be downloaded
        models = [known.get(model.name) or sha256_file(model) for model in self.models]
        self.files = {"models": models, "attributes": self.attributes.sha256 if self.attributes else ""}
        # Not its checksum: photographs that are added need further lines.
        self.files |= {"identity": "FILE"} if photos.identity else {}
        self.versions = library_versions()
        self._readable: Source | None = None
        self.config = request.settings
        if self.config.margin == "auto":  # until the dataset or a preflight says more
            self.use_margin(1.0)
        if self.config.split == "auto":  # until a list in the source says more
            self.config = self.config.model_copy(update={"split": "none"})
        workers = count_or_none(photos.workers)
        self.workers = system.prep_workers() if workers is None else workers  # 0: this process
        self.threads = 0 if is_dry else max(1, self.workers)  # that search for duplicates; 0: that is skipped

    @property
    def settings(self) -> dict[str, Any]:
        """As dataset.json stores them."""
        return {**self.config.model_dump(), **self.files}

    def readable(self, unpacked: Path) -> Source:
        """The source for random access. What must be unpacked for that is, at the first call, into this folder."""
        if self._readable is None:
            with source_errors(self.source.where):
                self._readable = self.source.unpacked(make_folder(unpacked))
        return self._readable

    def use_lists(self, index: PhotoIndex, unpacked: Path) -> None:
        """CelebA's lists in the source decide the attributes and the split that the request leaves open."""
        wanted = [] if self.request.photos.attributes else [ATTRIBUTES]
        wanted += [SPLIT] if self.request.settings.split in ("auto", "source") else []
        self.lists = Lists.use(self.source, index, wanted, lambda: self.readable(unpacked))
        self.files["attributes"] = self.files["attributes"] or self.lists.sha256
        if ATTRIBUTES in wanted and ATTRIBUTES not in self.lists.options and isinstance(self.source, Table):
            self.lists.take_columns(self.source, index)
        self.from_lists = ["attributes"] if ATTRIBUTES in self.lists.options else []
        if self.request.settings.split == "auto" and SPLIT in self.lists.options:
            self.from_lists.append("split")
            self.config = self.config.model_copy(update={"split": "source"})

    @property
    def origin(self) -> dict[str, Any]:
        """Everything besides the photographs and --rotate that decides what a detector finds."""
        versions = {name: version for name, version in self.versions.items() if name != "pyarrow"}
        return {"detector": self.config.detector, "models": self.files["models"], "cpu": system.cpu_name()} | versions

    def use_margin(self, margin: float) -> None:
        """In place of ``auto``."""
        self.config = self.config.with_margin(margin)


@dataclass(frozen=True)
class ChunkPlan:
    """A chunk to make: its photographs by first row and number, and the digest of its inputs."""

    number: int
    split: str
    first: int
    photos: int
    bytes: int
    inputs: str


@dataclass(frozen=True)
class Plan:
    """What one run adds to a dataset."""

    inputs: Inputs
    index: PhotoIndex
    existing: DatasetInfo | None
    found: int  # photographs in the source, at most ``--limit``
    ignored: dict[str, int]
    data_set: str  # name in the manifests of the data set that the source was recognised as, or ""
    source_digests: tuple[str, ...]  # of the source's files, where it is a table or an array
    chunks: tuple[ChunkPlan, ...] = ()  # to add; none in a repair
    rebuild: dict[int, ChunkPlan] = field(default_factory=dict)  # chunks that a repair makes again, by position
    duplicates: int = 0  # new photographs with the bytes of another one
    missing: tuple[int, str] = (0, "")  # photographs of the dataset that the source no longer has, and the first
    known: KnownDetections | None = None  # of --detections
    left_out: tuple[str, ...] = ()  # photographs that this run leaves out, and later ones will

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

    @property
    def origin(self) -> Origin:
        """Where the photographs and the files about them are."""
        photos = self.inputs.request.photos
        files = [(name, getattr(photos, name)) for name in ("model", "attributes", "identity") if getattr(photos, name)]
        return Origin(self.inputs.source.where, readable_path(self.index.root), tuple(files))

    def sample(self, count: int) -> list[Item]:
        """New photographs that are evenly spaced by name."""
        return self._items(self.index.sample(count))

    def work(self, chunk: ChunkPlan) -> ChunkWork:
        items, names = tuple(self._items(self._photos(chunk))), tuple(self.index.attributes.column_names)
        return ChunkWork(Chunk(chunk.number, items, names), chunk.inputs, self.inputs.config)

    def with_attributes(self, chunk: ChunkPlan, rows: pa.Table) -> pa.Table:
        """A chunk's rows with the columns of its photographs' attributes."""
        return joined(rows, self.index.attributes_of(self._photos(chunk)))

    def _photos(self, chunk: ChunkPlan) -> Iterator[IndexedPhoto]:
        if self.rebuild:
            return self.index.photos_for_repair(chunk.split, chunk.first, chunk.photos)
        return self.index.photos(chunk.split, chunk.first, chunk.photos)

    def _items(self, photos: Iterable[IndexedPhoto]) -> list[Item]:
        items = [Item(p.path, p.entry, p.reason, p.attributes, None, p.duplicate_of, p.identity) for p in photos]
        if self.known is None:
            return items
        known = self.known.of([readable_path(item.path) for item in items])
        return [item._replace(known=faces) for item, faces in zip(items, known, strict=True)]


def list_photographs(inputs: Inputs) -> PhotoIndex:
    """All photographs of the source; raises SourceError if it has none or cannot be reached."""
    index = PhotoIndex(inputs.source)
    if not len(index):
        others = ", ".join(f"{count:,} {shown(suffix)}" for suffix, count in index.ignored.most_common(5))
        broken = index.ignored.names.get(BROKEN_LINK)
        raise SourceError(
            f"{inputs.source.where} contains no photographs{', only ' if others else ''}{others}.\n"
            + (f"The first broken links: {', '.join(map(shown, broken))}.\n" if broken else "")
            + f"Photographs are files that end in {' '.join(sorted(PHOTO_SUFFIXES))}."
        )
    return index


def make_plan(inputs: Inputs, index: PhotoIndex, store: OutputStore, console: Console) -> Plan:
    """The chunks to make: those of new photographs, or for a repair those of damaged shards.

    Raises:
        DatasetError: the dataset has other settings, is damaged, or has a photograph that has changed since.
        SourceError: a new photograph is outside the folder that the first prep fixed, or has no split or attributes.
    """
    request = inputs.request
    if request.photos.limit is not None:
        index.limit(request.photos.limit)
    inputs.use_lists(index, store.unpacked)
    for path, use in inputs.lists.uses.items():
        console.note(f"Found {path} in the source, {use}.")
    existing = None if request.force else store.existing()
    started_with = existing.settings if existing else store.stored_settings()
    if started_with and not request.force:
        margin = started_with.get("margin")
        if request.settings.margin == "auto" and isinstance(margin, float | int) and 0 < margin <= 10:
            inputs.use_margin(margin)
        if existing and started_with.get("attributes"):
            if request.repair:  # it takes them from the table
                inputs.files["attributes"] = started_with["attributes"]
            elif inputs.settings["attributes"]:  # the lists may differ; their columns are compared
                started_with = started_with | {"attributes": inputs.settings["attributes"]}
        check_settings(started_with, inputs.settings, store.folder, inputs.from_lists)
    known = open_detections(request.photos.detections, store.folder, inputs.origin)
    if not request.repair:
        plan = _plan_additions(inputs, index, store, existing)
        if existing is None and not plan.chunks:
            how = "--exclude, --missing-attributes or facegan forget"
            raise SourceError(f"Every photograph of {inputs.source.where} is left out, by {how}.")
        if inputs.lacking:
            console.note(f"{inputs.lacking} They are left out.")
        suppressed = Suppression.read(store.folder).adding(plan.left_out)
        if others := sorted(path for path in inputs.excluded if path not in suppressed):
            names = f"{counted(len(others), 'path')} (first: {shown(others[0])})"
            console.warn(
                f"--exclude had no effect on {names}: not in the source, or in {store.where} already.",
                f"Write paths as in {PHOTOS_FILE}. To take photographs out of the dataset use facegan forget.",
            )
        return replace(plan, known=known)
    if existing is None:
        raise DatasetError(f"{store.folder} has no dataset to repair. Leave out --repair.")
    return replace(_plan_repair(inputs, index, store, existing, console), known=known)


def _plan_additions(inputs: Inputs, index: PhotoIndex, store: OutputStore, existing: DatasetInfo | None) -> Plan:
    request, config, out = inputs.request, inputs.config, store.folder
    if existing:
        try:
            check_photos(out, existing)
            check_detections(out, existing)
        except DatasetError as error:
            why = f"{error}\nNothing can be added without it."
            raise DatasetError(f"{why} Add --force to prepare the dataset from scratch.") from None
    digests, duplicates, left_out = _source_digests(inputs, out, existing), 0, list[str]()
    has_all = existing is not None and index.matches(existing.totals.photos, existing.fingerprint)
    has_attributes = existing is not None and existing.settings.get("attributes", "") == inputs.settings["attributes"]
    if request.photos.limit is not None or not (has_all and has_attributes):
        if existing:
            index.set_known(read_columns(out / PHOTOS_FILE, ["path", "bytes"]))
            if changed := index.changed():
                path, then, now = changed
                raise DatasetError(
                    f"{shown(path)} has changed since it was added to {out}: {then:,} bytes then, {now:,} now.\n"
                    f"Restore it, rename the new one, or add --force to delete {out} and prepare again."
                )
        suppressed = Suppression.read(out)
        if existing and suppressed:  # they had their place in an earlier run
            index.leave_out(suppressed.__contains__, keeps_place=False)
        lists = [inputs.excluded, suppressed]
        if request.photos.detections:
            lists.append(Suppression.read(Path(request.photos.detections)))
        if any(lists):
            left_out = index.leave_out(lambda path: any(path in each for each in lists))
        _set_lists(index, inputs)
        if existing:
            _require_columns(index, out)
            if path := index.relabelled(read_columns(out / PHOTOS_FILE, ["reason", *index.attributes.column_names])):
                raise DatasetError(
                    f"{shown(path)} has other attributes in the list than in {store.where}.\n"
                    f"Replace those of the dataset first, with: facegan annotate {store.where} FILE"
                )
        index.split_by(splitter(config.split), by_identity=shares(config.split) is not None)
        if config.dedup != "off" and inputs.threads:
            with as_source_error(inputs.source.where):
                source = inputs.readable(store.unpacked)
                hashes = hash_photos(source, index, inputs.threads, request.photos.fetch_ahead)
            known = read_columns(out / PHOTOS_FILE, ["sha256", "reason"]).to_pylist() if existing else []
            originals = ("" if row["reason"] == "duplicate" else row["sha256"] for row in known)
            duplicates = index.mark_duplicates(hashes, (bytes.fromhex(sha256) or None for sha256 in originals))
    chunks = tuple(_cut_chunks(inputs, index, digests))
    for entry in existing.shards if existing and chunks else ():
        if error := size_error(out, entry):  # the preview may need it; its SHA-256 is compared then
            raise repairable(error)
    return Plan(
        inputs,
        index,
        existing,
        found=min(len(index), request.photos.limit or len(index)) - index.left_out,
        ignored=dict(sorted(index.ignored.items())),
        data_set=existing.data_set if existing else _recognised(inputs.source.where, index),
        source_digests=digests,
        chunks=chunks,
        duplicates=duplicates,
        missing=index.missing(),
        left_out=tuple(left_out),
    )


def _source_digests(inputs: Inputs, out: Path, existing: DatasetInfo | None) -> tuple[str, ...]:
    """`Source.digests`; raises DatasetError if the dataset was made from other files. Appended files are new."""
    where = inputs.source.where
    with as_source_error(where):
        digests = inputs.source.digests()
    old = existing.source if existing else digests
    if old != digests[: len(old)] or bool(old) != bool(digests):
        raise DatasetError(
            f"{out} was prepared from another source than {where}; their photographs could be mixed up.\n"
            "Use another OUT, or add --force to delete it and prepare again."
        )
    return digests


def _set_lists(index: PhotoIndex, inputs: Inputs) -> None:
    """Attributes and persons."""
    attributes = inputs.attributes
    skips = inputs.request.photos.missing_attributes == "skip"
    if attributes and (missing := index.set_attributes(attributes, skips))[0]:
        inputs.lacking = attributes.lack(*missing)
        if not skips:
            raise SourceError(f"{inputs.lacking}\nGive each photograph a line, or add --missing-attributes skip.")
    if inputs.identities and (missing := index.set_listed("identity", inputs.identities.items())):
        raise SourceError(
            f"{inputs.request.photos.identity} has no line for {shown(missing)}. With --identity every photograph\n"
            "needs one; leave the person empty where it is unknown."
        )


def _require_columns(index: PhotoIndex, out: Path) -> None:
    """Photographs of one dataset have the same attributes."""
    schema = attribute_schema(out / PHOTOS_FILE)
    require_same_attributes(schema, str(out), index.attributes.schema, "the list")
    index.attributes = index.attributes.select(schema.names)


def _recognised(where: str, index: PhotoIndex) -> str:
    for known in known_datasets().values():
        if where.startswith("torchvision:") and known.torchvision == where.split(":")[1]:
            return known.name
    found = recognise(index.names(), len(index))
    return found.name if found else ""


def with_margin(plan: Plan, margin: float) -> Plan:
    """The plan of additions with another margin."""
    plan.inputs.use_margin(margin)
    return replace(plan, chunks=tuple(_cut_chunks(plan.inputs, plan.index, plan.source_digests)))


def _cut_chunks(inputs: Inputs, index: PhotoIndex, digests: tuple[str, ...]) -> Iterator[ChunkPlan]:
    """Cut the sorted photographs of each split into chunks of ``shard_size``, then drop those that are left out."""
    numbers, shard_size = itertools.count(), inputs.config.shard_size
    facts = [inputs.settings, {**inputs.versions, "source": " ".join(digests)}, index.attributes.column_names]
    for split in SPLITS:
        photos = index.photos(split, with_left_out=True)
        while batch := list(itertools.islice(photos, shard_size)):
            if stay := [photo for photo in batch if not photo.is_left_out]:
                yield _plan_chunk(next(numbers), stay[0].row, stay, facts)


def _plan_chunk(number: int, first: int, photos: list[IndexedPhoto], facts: list[Any]) -> ChunkPlan:
    """``facts``, settings and versions, decide the chunk's bytes together with the photographs."""
    digest = hashlib.sha256(json.dumps([*facts, SCHEMA.names], sort_keys=True).encode())
    for photo in photos:
        fields = [readable_path(photo.path), photo.entry.size, photo.entry.label]
        fields += [photo.attributes, photo.identity, photo.reason, photo.duplicate_of]
        digest.update(json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogateescape"))
    size = sum(photo.entry.size for photo in photos)
    return ChunkPlan(number, photos[0].split, first, len(photos), size, digest.hexdigest())


def _plan_repair(
    inputs: Inputs, index: PhotoIndex, store: OutputStore, existing: DatasetInfo, console: Console
) -> Plan:
    """Rebuild missing or altered shards to the bytes they had, and retry photographs that could not be fetched or
    crashed. All other chunks stay as they are."""
    out, photos = store.folder, store.folder / PHOTOS_FILE
    if not photos.is_file() or sha256_file(photos) != existing.photos_sha256:
        raise DatasetError(f"{photos} is missing or altered; a repair needs it. Add --force to prepare from scratch.")
    sizes = [chunk.photos for chunk in existing.chunks]
    if sum(sizes) != existing.totals.photos:
        raise DatasetError(f"{out} was selected from other datasets and cannot be repaired. Select it again.")
    names = ["path", "bytes", "reason", "duplicate_of", "identity", *attribute_schema(photos).names]
    known = read_columns(photos, names)
    if len(known) != sum(sizes):
        raise DatasetError(f"{photos} has {len(known):,} rows; {DATASET_FILE} counts {sum(sizes):,} photographs.")
    _set_lists(index, inputs)
    index.set_known(known)
    _require_columns(index, out)
    damaged = set()
    for entry in existing.shards:
        path = out / entry.name
        is_missing = not path.is_file()
        if is_missing or path.stat().st_size != entry.bytes or store.sha256(path) != entry.sha256:
            damaged.add(entry.name)
            console.note(f"{entry.name} {'is missing' if is_missing else 'was altered'}. Rebuilding it.")
    rebuild: dict[int, ChunkPlan] = {}
    starts = itertools.accumulate(sizes, initial=0)
    for number, (chunk, start) in enumerate(zip(existing.chunks, starts, strict=False)):
        reasons = known["reason"].slice(start, chunk.photos).to_pylist()
        retried = sum(reason in RETRIED for reason in reasons)
        if chunk.shard not in damaged and not retried:
            continue
        if retried:
            console.note(f"Retrying {counted(retried, 'photograph')} of {chunk.shard or f'chunk {number}'}.")
        if missing := index.missing_for_repair(start, chunk.photos):
            what = f"{chunk.shard or out} cannot be rebuilt without it"
            raise DatasetError(f"{shown(missing)} is missing from the source, and {what}.")
        items = list(index.photos_for_repair(chunk.split, start, chunk.photos))
        rebuild[number] = _plan_chunk(number, start, items, [inputs.settings, inputs.versions])
    if not rebuild:
        console.note(f"{store.where} needs no repair.")
    facts = existing.totals.photos, existing.totals.ignored, existing.data_set, existing.source
    return Plan(inputs, index, existing, *facts, rebuild=rebuild)


def repairable(error: DatasetError) -> DatasetError:
    return DatasetError(f"{error}\nRun the same command with --repair, then without it.")


def estimate(new: int, source_bytes: int, config: PrepConfig, workers: int) -> tuple[float, int]:
    """Seconds and bytes of a run: per process 3 ms per photograph, 0.4 ms without a detector; 10 ms per megabyte."""
    bytes_per_pixel = {"png": 3.0, "jpg": 0.9, "webp": 1.8}[config.format]
    tar = 2 * 512 + 1024 + 256  # two headers, JSON, padding to blocks
    photo_seconds = 0.0004 if config.detector == "none" else 0.003
    seconds = (new * photo_seconds + source_bytes * 1e-8) / max(1, workers) + 2.0
    return seconds, int(new * (config.size**2 * bytes_per_pixel * config.channels / 3 + tar))

"""What is to be done: which photographs are new, their splits, and how they are cut into chunks."""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facegan.config import PrepConfig
from facegan.console import shown
from facegan.errors import DatasetError, SourceError
from facegan.manifests import known_datasets, recognise
from facegan.prep.attributes import Attributes
from facegan.prep.chunk import Chunk, Item
from facegan.prep.listing.catalogue import Catalogue, Photo
from facegan.prep.out.commit import Work
from facegan.prep.settings import library_versions
from facegan.prep.sources.base import Source, sound
from facegan.prep.sources.folder import BROKEN_LINK
from facegan.prep.splits import splitter
from facegan.prep.twins import find_twins
from facegan.remote import reachable
from facegan.shards.checksums import check_photos, size_error
from facegan.shards.layout import PHOTO_SUFFIXES, PHOTOS_FILE, SPLITS, STATE_FOLDER, DatasetInfo, readable_path
from facegan.shards.photos import SCHEMA, read_known


@dataclass(frozen=True)
class ChunkPlan:
    """A chunk that is to be made: which photographs by their first name and number, and the digest of its inputs."""

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
        marks: of its files, where it is a table or an array.
        found: photographs in the source, ``--limit`` taken into account.
        gone: how many are accounted for, but no longer in the source; and the first of them.
        data_set: what the source was recognised as, by its name in the manifests; empty for any other.
        twins: new photographs with the bytes of another one.
        chunks: that the dataset will have more; none in a repair.
        again: chunks of the dataset that a repair makes anew, by their place.
    """

    where: str
    marks: tuple[str, ...]
    before: DatasetInfo | None
    settings: dict[str, Any]
    versions: dict[str, str]
    found: int
    gone: tuple[int, str]
    ignored: dict[str, int]
    data_set: str
    twins: int
    chunks: tuple[ChunkPlan, ...]
    catalogue: Catalogue
    attributes: tuple[str, ...] = ()  # their names
    again: dict[int, ChunkPlan] = field(default_factory=dict)

    @property
    def new(self) -> int:
        """Photographs to prepare."""
        return sum(chunk.photos for chunk in self.todo)

    @property
    def todo(self) -> tuple[ChunkPlan, ...]:
        return (*self.chunks, *self.again.values())

    def work(self, chunk: ChunkPlan) -> Work:
        if self.again:
            photos = self.catalogue.photos_again(chunk.number, chunk.split)
        else:
            photos = self.catalogue.photos(chunk.split, chunk.first, chunk.photos)
        return Work(Chunk(chunk.number, tuple(map(_item, photos)), self.attributes), chunk.inputs)


def _item(photo: Photo) -> Item:
    return Item(photo.path, photo.entry, "duplicate" if photo.twin else "", photo.attributes)


def list_photographs(source: Source) -> Catalogue:
    """
    Raises:
        SourceError: there are none, or they can't be reached.
    """
    catalogue = Catalogue(source)
    if not len(catalogue):
        raise SourceError(_no_photographs(source.where, catalogue))
    return catalogue


def make_plan(
    source: Source,
    catalogue: Catalogue,
    out: Path,
    config: PrepConfig,
    settings: dict[str, Any],
    before: DatasetInfo | None,
    limit: int | None,
    workers: int,
    attributes: Attributes | None = None,
    fetch_ahead: int = 1,
) -> Plan:
    """Finds what of the source the dataset does not hold yet.

    Args:
        settings: as dataset.json will hold them, checked against those of ``before``.
        workers: threads that look for duplicates; 0 leaves them unlooked for.
        fetch_ahead: requests for each of them, where photographs are fetched one by one.

    Raises:
        SourceError: a new photograph lies outside the folder which the first prep fixed, or has no split.
        DatasetError: a photograph has changed since it was added, or the dataset is damaged.
    """
    if before:
        try:
            check_photos(out, before)
        except DatasetError as error:
            raise DatasetError(
                f"{error}\nNothing can be added without it: make the dataset anew with --force."
            ) from None
    marks, twins = _marks(source, out, before), 0
    if before is None or limit is not None or not _is_all_known(catalogue, before):
        catalogue.arrange(limit)
        if before:
            catalogue.add_known(read_known(out / PHOTOS_FILE))
        catalogue.set_root(known=before is not None)
        if before:
            catalogue.mark_known()
            _refuse_changed(catalogue, out)
        catalogue.split_by(splitter(config.split))
        if attributes:
            set_attributes(catalogue, attributes)
        if config.dedup == "exact" and workers:
            with tempfile.TemporaryDirectory(dir=out / STATE_FOLDER) as folder, reachable(source.where):
                with sound(source.where):
                    readable = source.unpacked(Path(folder))
                twins = find_twins(readable, catalogue, workers, fetch_ahead)
    versions = library_versions()
    chunks = tuple(_cut(catalogue, config.shard_size, settings, {**versions, "source": " ".join(marks)}))
    for entry in before.shards if before and chunks else ():
        if error := size_error(out, entry):  # the preview may need it; its SHA-256 is compared then
            raise repairable(error)
    return Plan(
        where=source.where,
        marks=marks,
        before=before,
        settings=settings,
        versions=versions,
        found=min(len(catalogue), limit or len(catalogue)),
        gone=catalogue.gone(),
        ignored=dict(sorted(catalogue.ignored.items())),
        data_set=before.data_set if before else _recognised(source, catalogue),
        twins=twins,
        chunks=chunks,
        catalogue=catalogue,
        attributes=attributes.names if attributes else (),
    )


def _marks(source: Source, out: Path, before: DatasetInfo | None) -> tuple[str, ...]:
    """See `Source.marks`.

    Raises:
        DatasetError: the dataset was made from other files. Files that come behind those it was made from are new.
    """
    with reachable(source.where):
        marks = source.marks()
    if before and (before.source != marks[: len(before.source)] or bool(before.source) != bool(marks)):
        raise DatasetError(
            f"{out} was made from another source than {source.where}, whose photographs can't be told from its own.\n"
            f"Choose another folder, or make it anew (what is in it is deleted) with --force."
        )
    return marks


def set_attributes(catalogue: Catalogue, attributes: Attributes) -> None:
    """
    Raises:
        SourceError: a photograph has none.
    """
    missing = catalogue.set_attributes(attributes.rows())
    if missing:
        raise SourceError(
            f"{attributes.path} has no attributes of {shown(missing)}. All photographs need some, or none."
        )


def _is_all_known(catalogue: Catalogue, before: DatasetInfo) -> bool:
    """Whether the dataset accounts for just what the source holds."""
    return catalogue.holds_just(before.totals.photos, before.fingerprint)


def repairable(error: DatasetError) -> DatasetError:
    return DatasetError(f"{error}\nMake it again with --repair, then start the same command again.")


def _recognised(source: Source, catalogue: Catalogue) -> str:
    by_torchvision = source.where.removeprefix("torchvision:").partition(":")[0]
    for known in known_datasets().values():
        if source.where.startswith("torchvision:") and known.torchvision == by_torchvision:
            return known.name
    found = recognise(catalogue.names(), len(catalogue))
    return found.name if found else ""


def _no_photographs(where: str, catalogue: Catalogue) -> str:
    others = ", ".join(f"{count:,} {shown(suffix)}" for suffix, count in catalogue.ignored.most_common(5))
    broken = catalogue.ignored.names.get(BROKEN_LINK)
    links = f"The first links that lead nowhere: {', '.join(map(shown, broken))}.\n" if broken else ""
    return (
        f"{where} holds no photographs" + (f" (but {others})" if others else "") + f".\n{links}"
        f"Photographs are files that end in {' '.join(sorted(PHOTO_SUFFIXES))}."
    )


def _refuse_changed(catalogue: Catalogue, out: Path) -> None:
    changed = catalogue.changed()
    if changed:
        path, then, now = changed
        raise DatasetError(
            f"{shown(path)} has changed since it was added to {out}: {then:,} bytes then, {now:,} now.\n"
            f"Put the old one back, give the new one another name, or make the dataset anew with --force."
        )


def _cut(
    catalogue: Catalogue, shard_size: int, settings: dict[str, Any], versions: dict[str, str]
) -> Iterator[ChunkPlan]:
    """The sorted photographs of each split, in pieces of ``shard_size``."""
    number = 0
    for split in SPLITS:
        photos = catalogue.photos(split)
        while some := list(itertools.islice(photos, shard_size)):
            yield plan_chunk(number, split, some, settings, versions)
            number += 1


def plan_chunk(
    number: int, split: str, photos: list[Photo], settings: dict[str, Any], versions: dict[str, str]
) -> ChunkPlan:
    digest = hashlib.sha256(json.dumps([settings, versions, SCHEMA.names], sort_keys=True).encode())
    for photo in photos:
        told = [readable_path(photo.path), photo.entry.size, photo.entry.label, photo.twin, photo.attributes]
        digest.update(json.dumps(told, ensure_ascii=False).encode("utf-8", "surrogateescape"))
    size = sum(photo.entry.size for photo in photos)
    return ChunkPlan(number, split, photos[0].entry.name, len(photos), size, digest.hexdigest())


def estimate(new: int, source_bytes: int, config: PrepConfig, workers: int) -> tuple[float, int]:
    """About how many seconds and bytes a run will take: 3 ms a photograph, 0.4 where nothing has to be detected, and
    10 ms a megabyte of it, a process."""
    bytes_a_pixel = {"png": 3.0, "jpg": 0.9, "webp": 1.8}[config.format]
    tar = 2 * 512 + 1024 + 256  # two headers, JSON, rounding up to blocks
    photo_seconds = 0.0004 if config.detector == "none" else 0.003
    seconds = (new * photo_seconds + source_bytes * 1e-8) / workers + 2.0
    return seconds, int(new * (config.size**2 * bytes_a_pixel * config.channels / 3 + tar))

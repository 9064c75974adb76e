"""What is to be done: which photographs are new, their splits, and how they are cut into chunks."""

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
from facegan.prep.sources.base import Source, sound
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

# Which split a photograph belongs to: by a data set's own numbers, by the source, or by a hash of its path.

SplitOf = Callable[[bytes, str], str]  # path in the dataset, the source's own part → split


def shares(setting: str) -> tuple[float, ...] | None:
    """``"0.9,0.05,0.05"`` → the shares of train, val and test; None for a split by name.

    Raises:
        SettingsError: numbers that are no shares.
    """
    if not any(character.isdigit() for character in setting):
        return None
    try:
        found = tuple(float(part) for part in setting.split(","))
    except ValueError:
        found = ()
    if not 2 <= len(found) <= 3 or not all(0 <= share <= 1 for share in found) or abs(sum(found) - 1) > 1e-6:
        raise SettingsError(f"--split {setting}: shares are two or three numbers of sum 1, such as 0.9,0.05,0.05.")
    return found


def splitter(setting: str) -> SplitOf:
    """The rule behind ``--split``."""
    parts = shares(setting)
    if parts is not None:
        return lambda path, _: by_hash(path, parts)
    if setting == "source":
        return _by_source
    if setting == "celeba":
        return _by_celeba
    return lambda path, part: "train"


def by_hash(path: bytes, parts: tuple[float, ...]) -> str:
    """The path's SHA-256 as a number in [0, 1), laid along the shares: the same whatever photographs are added."""
    at = int.from_bytes(hashlib.sha256(path).digest()[:8]) / 2**64
    for split, part in zip(SPLITS, parts, strict=False):
        if at < part:
            return split
        at -= part
    return SPLITS[len(parts) - 1]


def _by_source(path: bytes, part: str) -> str:
    if part not in SPLITS:
        raise SourceError(
            f"--split source: the source does not say whether {shown(readable_path(path))} is for train, val or test.\n"
            f"Choose shares, such as --split 0.9,0.05,0.05."
        )
    return part


def _by_celeba(path: bytes, part: str) -> str:
    return split_of(known_datasets()["celeba-aligned"], path)


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
    catalogue: PhotoIndex
    attributes: tuple[str, ...] = ()  # their names
    again: dict[int, ChunkPlan] = field(default_factory=dict)

    @property
    def new(self) -> int:
        """Photographs to prepare."""
        return sum(chunk.photos for chunk in self.todo)

    @property
    def todo(self) -> tuple[ChunkPlan, ...]:
        return (*self.chunks, *self.again.values())

    @property
    def chunks_folder(self) -> str:
        """Where in ``.facegan`` the chunks are committed. An addition that was stopped outlives a repair."""
        return REPAIRS if self.again else CHUNKS

    def work(self, chunk: ChunkPlan) -> ChunkWork:
        if self.again:
            photos = self.catalogue.photos_again(chunk.number, chunk.split)
        else:
            photos = self.catalogue.photos(chunk.split, chunk.first, chunk.photos)
        return ChunkWork(Chunk(chunk.number, tuple(map(_item, photos)), self.attributes), chunk.inputs)


def _item(photo: IndexedPhoto) -> Item:
    return Item(photo.path, photo.entry, "duplicate" if photo.twin else "", photo.attributes)


def list_photographs(source: Source) -> PhotoIndex:
    """
    Raises:
        SourceError: there are none, or they can't be reached.
    """
    catalogue = PhotoIndex(source)
    if not len(catalogue):
        raise SourceError(_no_photographs(source.where, catalogue))
    return catalogue


def make_plan(
    source: Source,
    catalogue: PhotoIndex,
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
            with tempfile.TemporaryDirectory(dir=out / STATE_FOLDER) as folder, as_source_error(source.where):
                with sound(source.where):
                    readable = source.unpacked(Path(folder))
                twins = mark_duplicates(readable, catalogue, workers, fetch_ahead)
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
    with as_source_error(source.where):
        marks = source.marks()
    if before and (before.source != marks[: len(before.source)] or bool(before.source) != bool(marks)):
        raise DatasetError(
            f"{out} was made from another source than {source.where}, whose photographs can't be told from its own.\n"
            f"Choose another folder, or make it anew (what is in it is deleted) with --force."
        )
    return marks


def set_attributes(catalogue: PhotoIndex, attributes: Attributes) -> None:
    """
    Raises:
        SourceError: a photograph has none.
    """
    missing = catalogue.set_attributes(attributes.rows())
    if missing:
        raise SourceError(
            f"{attributes.path} has no attributes of {shown(missing)}. All photographs need some, or none."
        )


def _is_all_known(catalogue: PhotoIndex, before: DatasetInfo) -> bool:
    """Whether the dataset accounts for just what the source holds."""
    return catalogue.holds_just(before.totals.photos, before.fingerprint)


def repairable(error: DatasetError) -> DatasetError:
    return DatasetError(f"{error}\nMake it again with --repair, then start the same command again.")


def _recognised(source: Source, catalogue: PhotoIndex) -> str:
    by_torchvision = source.where.removeprefix("torchvision:").partition(":")[0]
    for known in known_datasets().values():
        if source.where.startswith("torchvision:") and known.torchvision == by_torchvision:
            return known.name
    found = recognise(catalogue.names(), len(catalogue))
    return found.name if found else ""


def _no_photographs(where: str, catalogue: PhotoIndex) -> str:
    others = ", ".join(f"{count:,} {shown(suffix)}" for suffix, count in catalogue.ignored.most_common(5))
    broken = catalogue.ignored.names.get(BROKEN_LINK)
    links = f"The first links that lead nowhere: {', '.join(map(shown, broken))}.\n" if broken else ""
    return (
        f"{where} holds no photographs" + (f" (but {others})" if others else "") + f".\n{links}"
        f"Photographs are files that end in {' '.join(sorted(PHOTO_SUFFIXES))}."
    )


def _refuse_changed(catalogue: PhotoIndex, out: Path) -> None:
    changed = catalogue.changed()
    if changed:
        path, then, now = changed
        raise DatasetError(
            f"{shown(path)} has changed since it was added to {out}: {then:,} bytes then, {now:,} now.\n"
            f"Put the old one back, give the new one another name, or make the dataset anew with --force."
        )


def _cut(
    catalogue: PhotoIndex, shard_size: int, settings: dict[str, Any], versions: dict[str, str]
) -> Iterator[ChunkPlan]:
    """The sorted photographs of each split, in pieces of ``shard_size``."""
    number = 0
    for split in SPLITS:
        photos = catalogue.photos(split)
        while some := list(itertools.islice(photos, shard_size)):
            yield plan_chunk(number, split, some, settings, versions)
            number += 1


def plan_chunk(
    number: int, split: str, photos: list[IndexedPhoto], settings: dict[str, Any], versions: dict[str, str]
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


# ``--repair``: shards that are missing or altered are made again, and photographs that stayed away are tried again.
#
# Only the chunks concerned are run; the others stay as they are. A shard that is made again has the bytes it had.

_TRY_AGAIN = ("unreachable", "crashed")


def plan_repair(
    where: str,
    catalogue: PhotoIndex,
    out: Path,
    sha256: Callable[[Path], str],
    settings: dict[str, Any],
    before: DatasetInfo,
    attributes: Attributes | None,
    console: Console,
) -> Plan:
    """
    Raises:
        DatasetError: photos.parquet was altered, or a photograph that is needed is gone.
    """
    photos = out / PHOTOS_FILE
    if not photos.is_file() or sha256_file(photos) != before.photos_sha256:
        raise DatasetError(f"{photos} is missing or altered, and without it nothing can be repaired: use --force.")
    if sum(_sizes(before)) != before.totals.photos:
        raise DatasetError(f"{out} does not tell how its shards were cut (it was selected from others): use --force.")
    catalogue.arrange()
    catalogue.add_known(read_known(photos))
    catalogue.set_root(known=True)
    if attributes:
        set_attributes(catalogue, attributes)
    broken = {entry.name: why for entry in before.shards if (why := _broken(out / entry.name, entry, sha256))}
    for name, why in broken.items():
        console.note(f"{name} {why}: it is made again.")
    again: dict[int, ChunkPlan] = {}
    versions = library_versions()
    for number, (chunk, table) in enumerate(zip(before.chunks, read_in_pieces(photos, _sizes(before)), strict=True)):
        reasons = table["reason"].to_pylist()
        stayed_away = sum(reason in _TRY_AGAIN for reason in reasons)
        if chunk.shard not in broken and not stayed_away:
            continue
        if stayed_away:
            console.note(f"{stayed_away:,} photographs of {chunk.shard or f'chunk {number}'} are tried again.")
        twins = [reason == "duplicate" for reason in reasons]
        gone = catalogue.ask_again(number, zip(table["path"].to_pylist(), twins, strict=True))
        if gone:
            raise DatasetError(
                f"{shown(gone)} is gone from the source, and {chunk.shard or out} can't be made without it."
            )
        items = list(catalogue.photos_again(number, chunk.split))
        again[number] = plan_chunk(number, chunk.split, items, settings, versions)
    return Plan(
        where=where,
        marks=before.source,
        before=before,
        settings=settings,
        versions=versions,
        found=before.totals.photos,
        gone=(0, ""),
        ignored=before.totals.ignored,
        data_set=before.data_set,
        twins=0,
        chunks=(),
        catalogue=catalogue,
        attributes=attributes.names if attributes else (),
        again=again,
    )


def _sizes(before: DatasetInfo) -> list[int]:
    return [chunk.photos for chunk in before.chunks]


def _broken(path: Path, entry: ShardEntry, sha256: Callable[[Path], str]) -> str:
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != entry.bytes or sha256(path) != entry.sha256:
        return "was altered"
    return ""


def report_changed_bytes(before: DatasetInfo, after: DatasetInfo, plan: Plan, console: Console) -> None:
    """Warns of shards that did not come out as they were, though all their photographs could be read then."""
    sums = {entry.name: entry.sha256 for entry in after.shards}
    then = {entry.name: entry.sha256 for entry in before.shards}
    for number in plan.again:
        old, new = before.chunks[number].shard, after.chunks[number].shard
        if old and old == new and then[old] != sums[new] and before.totals.rejected == after.totals.rejected:
            console.warn(f"{new} has other bytes than it had: another version, another CPU, or altered photographs.")

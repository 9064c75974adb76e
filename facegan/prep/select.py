"""`select`: a new dataset of some faces of one or several others, without detecting again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from facegan.config import SelectConfig
from facegan.console import Console, Progress, shown
from facegan.errors import DatasetError, SettingsError, one_of
from facegan.faces.crop import grey
from facegan.files import TEMPORARY, atomic_dir, require_empty, write_bytes
from facegan.lineage import SELECTED
from facegan.prep.inspect import copy_origin
from facegan.prep.preview import draw_preview, picture_bytes
from facegan.prep.request import StrPath, short, with_defaults
from facegan.shards.checksums import check_detections, check_photos, check_shard, see_verify
from facegan.shards.dataset import DatasetWriter
from facegan.shards.detections import MEASURES, SAMPLES, read_origins, with_detections
from facegan.shards.detections import SCHEMA as DETECTIONS
from facegan.shards.format import DATASET_FILE, DETECTIONS_FILE, PHOTOS_FILE, PREVIEW_FILE, SPLITS, DatasetInfo
from facegan.shards.images import decode_image, encode_image
from facegan.shards.photos import attribute_schema, read_batches, require_same_attributes, with_attributes
from facegan.shards.query import Where
from facegan.shards.reader import Sample, Shard
from facegan.shards.writer import ShardWriter

_MEASURES = frozenset(column.name for column in MEASURES)
_FURTHER_FACE = re.compile(r"=f([0-9]{1,9})$")
_CONVERSIONS = {  # settings that may differ between datasets if select converts all faces
    "size": "Choose one size with --size",
    "channels": "Make all of them grey with --set select.channels=1",
}


@dataclass(frozen=True)
class SelectResult:
    """What `select` wrote; of `plan_select`, what it would write (no shards, no bytes)."""

    samples: int
    photos: int
    shards: int
    bytes: int
    out: str


def select(
    outs: Sequence[StrPath], new: StrPath, config: SelectConfig | None = None, *, console: Console | None = None
) -> SelectResult:
    """Copies the matching faces into a new dataset, in the order of the datasets and of their rows.

    Images are copied byte for byte, or converted to ``config.channels`` (one, by `facegan.faces.crop.grey`) and
    area-averaged to ``config.size``. JSON is copied. The new dataset counts only photographs whose faces were taken.
    ``new``, a missing or empty folder, appears once it is complete.

    Raises:
        SettingsError: the condition is invalid, or size or channels exceed those of a dataset.
        DatasetError: the datasets have other settings, are damaged, or contain no matching face.
    """
    config, new = config or SelectConfig(), Path(new)
    sources = [SourceDataset(Path(out)) for out in outs]
    settings = _settings(sources, config)
    with atomic_dir(new) as folder, _progress(sources, console) as progress, ExitStack() as stack:
        writer = DatasetWriter(folder)
        selections, schema = select_samples(sources, config, progress), with_attributes(sources[0].attributes)
        writer.write_tables(_copied(selections, writer, settings, stack, schema), _origins(sources))
        if not writer.shards:
            where = f" matches --where {config.where}" if config.where else " is left"
            raise DatasetError(f"No face{where}: nothing was written.")
        writer.shards.sort(key=lambda entry: (SPLITS.index(entry.split), entry.name))
        names = {source.info.data_set for source in sources}
        info = writer.info(settings, _versions(sources), data_set=names.pop() if len(names) == 1 else "")
        write_bytes(folder / PREVIEW_FILE, picture_bytes(draw_preview(info, writer.files)))
        copy_origin([source.folder for source in sources], folder)
        writer.write(info)
    totals = info.totals
    return SelectResult(totals.faces, totals.photos, len(info.shards), totals.bytes, str(new))


def plan_select(
    outs: Sequence[StrPath], new: StrPath, config: SelectConfig | None = None, *, console: Console | None = None
) -> SelectResult:
    """Counts what `select` would take with the same arguments. Touches nothing; raises the same errors."""
    config = config or SelectConfig()
    require_empty(Path(new))
    sources = [SourceDataset(Path(out)) for out in outs]
    _settings(sources, config)
    with _progress(sources, console) as progress:
        counts = [len(selection.keys) for selection in select_samples(sources, config, progress)]
    return SelectResult(sum(counts), len(counts), 0, 0, str(new))


def _progress(sources: list[SourceDataset], console: Console | None) -> AbstractContextManager[Progress]:
    total = sum(source.info.totals.photos for source in sources)
    return (console or Console(quiet=True)).progress(total, "photographs")


def _settings(sources: list[SourceDataset], config: SelectConfig) -> dict[str, Any]:
    """The new dataset's settings, if those of the others allow them."""
    first = sources[0]
    for other in sources[1:]:
        require_same_attributes(first.attributes, str(first.folder), other.attributes, str(other.folder))
    converted = {
        SELECTED,
        *(["attributes"] if first.attributes.names else []),
        *(name for name in _CONVERSIONS if getattr(config, name)),
    }
    for other in sources[1:]:
        a, b = with_defaults(first.info.settings), with_defaults(other.info.settings)
        for name in dict.fromkeys([*a, *b]):
            if name not in converted and a.get(name) != b.get(name):
                raise DatasetError(
                    f"{first.folder} was prepared with {shown(name)} = {short(a.get(name))}, {other.folder} with "
                    f"{shown(name)} = {short(b.get(name))}.\n{_CONVERSIONS.get(name, 'Prepare one of them again')}."
                )
    for source in sources:
        for name, has in (("size", source.info.settings["size"]), ("channels", source.info.channels)):
            if (wanted := getattr(config, name) or has) > has:
                raise SettingsError(
                    f"select.{name} = {wanted}: the faces of {source.folder} have {name} = {has}. It cannot grow.\n"
                    f"Prepare the photographs again: facegan prep --set prep.{name}={wanted}"
                )
    available = [split for split in SPLITS if any(source.info.split_shards(split) for source in sources)]
    for split in config.splits:
        if split not in available:
            raise DatasetError(f"There is no split '{split}'. Available: {one_of(available or ['none'])}.")
    settings = first.info.settings
    selected = config.model_dump(include={"where", "limit"}) | {"splits": config.splits}
    return {
        **settings,
        "size": config.size or settings["size"],
        "channels": config.channels or first.info.channels,
        SELECTED: selected | {"from": [source.info.fingerprint for source in sources]},
    }


def _versions(sources: list[SourceDataset]) -> dict[str, str]:
    """Versions of the libraries that made the faces, several if the datasets differ."""
    versions = [source.info.versions for source in sources]
    names = dict.fromkeys(name for found in versions for name in found)
    return {name: ", ".join(dict.fromkeys(found.get(name, "none") for found in versions)) for name in names}


def _origins(sources: list[SourceDataset]) -> list[dict[str, Any]]:
    origins: list[dict[str, Any]] = []
    for source in sources:
        if source.info.detections_sha256:
            found = read_origins(source.folder / DETECTIONS_FILE)
            origins += [origin for origin in found if origin not in origins]
    return origins


class SourceDataset:
    """A dataset to select from. Keeps the last shard open; checks each shard's checksum once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.info = DatasetInfo.read(folder)
        check_photos(folder, self.info)
        self.attributes = attribute_schema(folder / PHOTOS_FILE)
        self._entries = {entry.name: entry for entry in self.info.shards}
        self._checked, self._samples = set[str](), dict[str, Sample]()
        self._name = ""
        self._shard: Shard | None = None

    def read(self, shard: str, key: str) -> tuple[bytes, bytes]:
        """A sample's image and JSON as they are in the shard."""
        opened = self._shard if shard == self._name and self._shard else self._open(shard)
        sample = self._samples.get(key)
        if sample is None or sample.meta is None:
            raise self._damaged(f"{PHOTOS_FILE} lists the sample {shown(key)}, which is not in {self.folder / shard}")
        return bytes(opened.read(sample.image)), bytes(opened.read(sample.meta))

    def _open(self, name: str) -> Shard:
        self.close()
        entry = self._entries.get(name)
        if entry is None:
            raise self._damaged(f"{PHOTOS_FILE} names the shard {name!r}, which {DATASET_FILE} does not list")
        if name not in self._checked:
            check_shard(self.folder, entry)
            self._checked.add(name)
        self._name, self._shard = name, Shard(self.folder / name)
        self._samples = {sample.key: sample for sample in self._shard.samples}
        return self._shard

    def _damaged(self, problem: str) -> DatasetError:
        return DatasetError(f"{problem}.\n{see_verify(self.folder)}")

    def close(self) -> None:
        if self._shard is not None:
            self._shard.close()
            self._shard = None


@dataclass(frozen=True)
class Selection:
    """A photograph, by its row of photos.parquet, and the keys of the samples that are taken."""

    source: SourceDataset
    row: dict[str, Any]
    keys: list[str]
    detections: pa.Table = field(default_factory=DETECTIONS.empty_table)  # rows of all its faces

    def read(self) -> list[tuple[bytes, bytes]]:
        """Image and JSON of each sample."""
        return [self.source.read(self.row["shard"], key) for key in self.keys]


def select_samples(sources: list[SourceDataset], config: SelectConfig, progress: Progress) -> Iterator[Selection]:
    """The photographs with matching faces, in order, each once."""
    where = Where(config.where, pa.schema([*SAMPLES, *sources[0].attributes])) if config.where else None
    seen: dict[str, Selection] = {}  # by path: the first dataset that has it
    left = config.limit
    for source in sources:
        check_detections(source.folder, source.info)
        if where and where.columns & _MEASURES - {"score"} and not source.info.detections_sha256:
            raise DatasetError(f"{source.folder} has no {DETECTIONS_FILE}, which --where {where.text} needs.")
        for batch, of_batch in with_detections(source.folder, read_batches(source.folder / PHOTOS_FILE)):
            places = _places(of_batch)
            for found in _matching(source, batch, of_batch, config.splits or list(SPLITS), where):
                if len(sources) > 1 and not _is_new(found, seen):
                    continue
                faces = of_batch.slice(*places.get(found.row["path"], (0, 0)))
                yield Selection(source, found.row, found.keys[:left], faces)
                if left is not None:
                    left -= len(found.keys[:left])
                if left == 0:
                    return
            progress.advance(len(batch))
        source.close()


def _places(detections: pa.Table) -> dict[str, tuple[int, int]]:
    """First row and number of rows of each photograph."""
    places: dict[str, tuple[int, int]] = {}
    for row, path in enumerate(detections["path"].to_pylist()):
        first, count = places.get(path, (row, 0))
        places[path] = first, count + 1
    return places


def _matching(
    source: SourceDataset, batch: pa.RecordBatch, detections: pa.Table, splits: list[str], where: Where | None
) -> Iterator[Selection]:
    wanted = [
        bool(keys) and split in splits
        for keys, split in zip(batch.column("keys").to_pylist(), batch.column("split").to_pylist(), strict=True)
    ]
    table = pa.Table.from_batches([batch]).filter(pa.array(wanted, pa.bool_())).combine_chunks()
    rows = table.to_pylist()
    if where is None:
        yield from (Selection(source, row, row["keys"]) for row in rows)
        return
    parents = np.repeat(np.arange(len(rows)), [len(row["keys"]) for row in rows])
    keys = [key for row in rows for key in row["keys"]]
    of_key = {key: row for row, key in enumerate(detections["key"].to_pylist()) if key}
    measured = pa.array([of_key.get(key) for key in keys], pa.int64())  # null without a detector
    of_sample = {
        "key": keys,
        "face": [int(further[1]) if (further := _FURTHER_FACE.search(key)) else 0 for key in keys],
        **{column.name: detections[column.name].take(measured).fill_null(0) for column in MEASURES},
    }
    spread = table.take(pa.array(parents))
    columns = {**of_sample, **{name: spread[name] for name in spread.column_names}}
    schema = pa.schema([*SAMPLES, *source.attributes])
    chosen: dict[int, list[str]] = {}
    for number in where.fits(pa.table(columns, schema=schema)).tolist():
        chosen.setdefault(int(parents[number]), []).append(keys[number])
    yield from (Selection(source, rows[i], taken) for i, taken in chosen.items())


def _is_new(found: Selection, seen: dict[str, Selection]) -> bool:
    """False if an earlier dataset has the same samples; raises DatasetError if it has others under their names."""
    path = found.row["path"]
    few = {"shard": found.row["shard"]}  # there may be millions of them
    first = seen.setdefault(path, Selection(found.source, few, found.keys))
    if first.source is found.source:
        return True
    if first.keys != found.keys or first.read() != found.read():
        raise DatasetError(
            f"{first.source.folder} and {found.source.folder} have different samples {shown(found.keys[0])} "
            f"(of {shown(path)}).\nSelect from one of them, or prepare one from a parent folder, so that paths differ."
        )
    return False


@dataclass
class _NewShard:
    """A shard being written, and the rows of its photographs."""

    name: str
    split: str
    writer: ShardWriter
    samples: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    detections: list[pa.Table] = field(default_factory=list)


def _copied(
    selections: Iterator[Selection],
    dataset: DatasetWriter,
    settings: dict[str, Any],
    stack: ExitStack,
    schema: pa.Schema,
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Copies samples into new shards, one per split at a time, and yields the rows of each once it is written."""
    writing: dict[str, _NewShard] = {}

    def close(shard: _NewShard) -> tuple[pa.Table, pa.Table]:
        stats = shard.writer.commit()
        if stats is not None:
            dataset.add_shard(shard.split, vars(stats))
        detections, taken = pa.concat_tables(shard.detections), {key for row in shard.rows for key in row["keys"]}
        keys = pa.array([key if key in taken else "" for key in detections["key"].to_pylist()], pa.string())
        detections = detections.set_column(detections.column_names.index("key"), "key", keys)
        return pa.Table.from_pylist(shard.rows, schema=schema), detections

    for selection in selections:
        split = selection.row["split"]
        shard = writing.get(split)
        # A photograph's faces stay together.
        if shard and shard.samples + len(selection.keys) > settings["shard_size"]:
            yield close(shard)
            shard = None
        if shard is None:
            name, folder = dataset.next_name(split), dataset.folder
            writer = stack.enter_context(ShardWriter(folder / name, folder / f".{name}{TEMPORARY}"))
            shard = writing[split] = _NewShard(name, split, writer)
        for key, (image, meta) in zip(selection.keys, selection.read(), strict=True):
            shard.writer.add(key, settings["format"], _converted(image, settings, key, selection.source), meta)
        shard.samples += len(selection.keys)
        shard.rows.append({**selection.row, "keys": selection.keys, "shard": shard.name})
        shard.detections.append(selection.detections)
    yield from (close(writing[split]) for split in SPLITS if split in writing)


def _converted(image: bytes, settings: dict[str, Any], key: str, source: SourceDataset) -> bytes:
    """The image with the new dataset's size and channels."""
    size, channels = settings["size"], settings["channels"]
    if (source.info.settings["size"], source.info.channels) == (size, channels):
        return image
    rgb = decode_image(image)
    if rgb is None:
        raise DatasetError(f"The face {shown(key)} cannot be decoded.\n{see_verify(source.folder, deep=True)}")
    small = cv2.resize(grey(rgb) if channels == 1 else rgb, (size, size), interpolation=cv2.INTER_AREA)
    return encode_image(small.reshape(size, size, channels), settings["format"])

"""`select`: a new dataset of some faces of one or several others, without detecting again."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from facegan.config import SelectConfig
from facegan.console import Console, Progress, shown
from facegan.errors import DamagedFile, DatasetError, SettingsError, one_of
from facegan.faces.crop import grey
from facegan.files import TEMPORARY, atomic_dir, parsing, require_empty, sha256_file, write_bytes, write_json
from facegan.manifests import known_datasets
from facegan.prep.inspect import copy_origin
from facegan.prep.preview import draw_preview
from facegan.prep.request import with_defaults
from facegan.shards.cards import write_cards
from facegan.shards.checksums import check_photos, check_shard, see_verify
from facegan.shards.format import (
    DATASET_FILE,
    PHOTOS_FILE,
    PREVIEW_FILE,
    SPLITS,
    DatasetInfo,
    ShardEntry,
    Totals,
    shard_name,
)
from facegan.shards.images import decode_image, encode_image
from facegan.shards.photos import SCHEMA, Fingerprint, read_batches, write_photos
from facegan.shards.query import SAMPLES, Where
from facegan.shards.reader import Sample, Shard
from facegan.shards.writer import ShardWriter

# Photographs of datasets that stand, and which of their faces a selection takes.

_FURTHER_FACE = re.compile(r"=f([0-9]{1,9})$")


@dataclass(frozen=True)
class Selection:
    """A photograph, and which of its samples are taken."""

    source: SourceDataset
    row: dict[str, Any]
    keys: list[str]

    def sample(self, key: str) -> tuple[bytes, bytes]:
        return self.source.read(self.row["shard"], key)


class SourceDataset:
    """One of the datasets to select from. Keeps open the shard that it read last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.info = DatasetInfo.read(folder)
        self._entries = {entry.name: entry for entry in self.info.shards}
        self._checked: set[str] = set()
        self._name = ""
        self._shard: Shard | None = None
        self._samples: dict[str, Sample] = {}

    def read(self, shard: str, key: str) -> tuple[bytes, bytes]:
        """A sample's image and JSON as they lie in the shard.

        Raises:
            DatasetError: the dataset is damaged.
        """
        if shard != self._name or self._shard is None:
            self._open(shard)
        sample = self._samples.get(key)
        if sample is None or sample.meta is None or self._shard is None:
            raise self._damaged(
                f"{PHOTOS_FILE} tells of the sample {shown(key)}, but {self.folder / shard} does not hold it"
            )
        return bytes(self._shard.read(sample.image)), bytes(self._shard.read(sample.meta))

    def _open(self, name: str) -> None:
        self.close()
        entry = self._entries.get(name)
        if entry is None:
            raise self._damaged(f"{PHOTOS_FILE} names the shard {name!r}, which {DATASET_FILE} does not list")
        if name not in self._checked:
            check_shard(self.folder, entry)
            self._checked.add(name)
        self._name, self._shard = name, Shard(self.folder / name)
        self._samples = {sample.key: sample for sample in self._shard.samples}

    def score(self, row: dict[str, Any], key: str) -> float:
        """The sample's own score. A row tells those of all faces found, of which some may have given no sample."""
        if len(set(row["scores"])) <= 1:
            return round(float(row["scores"][0]), 3) if row["scores"] else 0.0
        try:
            with parsing(shard := row["shard"]):
                return float(json.loads(self.read(shard, key)[1])["score"])
        except DamagedFile:
            raise self._damaged(f"{shown(key)}.json in {self.folder / row['shard']} tells no score") from None

    def _damaged(self, what: str) -> DatasetError:
        return DatasetError(f"{what}.\n{see_verify(self.folder)}")

    def close(self) -> None:
        if self._shard is not None:
            self._shard.close()
            self._shard = None


def select_samples(sources: list[SourceDataset], config: SelectConfig, progress: Progress) -> Iterator[Selection]:
    """The photographs with faces that fit, in order, each once."""
    where = Where(config.where) if config.where else None
    before: _Before = {}
    left = config.limit
    for source in sources:
        check_photos(source.folder, source.info)
        for batch in read_batches(source.folder / PHOTOS_FILE):
            for pick in _fitting(source, batch, config.splits or list(SPLITS), where):
                if len(sources) > 1 and not _is_new(pick, before):
                    continue
                yield Selection(source, pick.row, pick.keys[:left])
                if left is not None:
                    left -= len(pick.keys[:left])
                if left == 0:
                    return
            progress.advance(len(batch))
        source.close()


def _fitting(
    source: SourceDataset, batch: pa.RecordBatch, splits: list[str], where: Where | None
) -> Iterator[Selection]:
    gave = [len(keys) for keys in batch.column("keys").to_pylist()]
    wanted = [
        count > 0 and split in splits for count, split in zip(gave, batch.column("split").to_pylist(), strict=True)
    ]
    rows = pa.Table.from_batches([batch]).filter(pa.array(wanted, pa.bool_())).combine_chunks()
    as_python = rows.to_pylist()
    if where is None:
        yield from (Selection(source, row, row["keys"]) for row in as_python)
        return
    parents = np.repeat(np.arange(len(rows)), [len(row["keys"]) for row in as_python])
    keys = [key for row in as_python for key in row["keys"]]
    own = {
        "key": keys,
        "face": [int(found[1]) if (found := _FURTHER_FACE.search(key)) else 0 for key in keys],
        "score": [
            source.score(as_python[i], key) if "score" in where.columns else 0.0
            for i, key in zip(parents, keys, strict=True)
        ],
    }
    spread = rows.take(pa.array(parents))
    columns = {**own, **{name: spread[name] for name in SCHEMA.names}}
    chosen: dict[int, list[str]] = {}
    for number in where.fits(pa.table(columns, schema=SAMPLES)).tolist():
        chosen.setdefault(int(parents[number]), []).append(keys[number])
    yield from (Selection(source, as_python[i], taken) for i, taken in chosen.items())


_Before = dict[
    str, tuple[SourceDataset, str, list[str]]
]  # by path: the dataset that gave it first, its shard, its keys


def _is_new(pick: Selection, before: _Before) -> bool:
    """False where an earlier dataset gave just the same.

    Raises:
        DatasetError: it gave something else under the same name.
    """
    path, shard = pick.row["path"], pick.row["shard"]
    first, its_shard, keys = before.setdefault(path, (pick.source, shard, pick.keys))
    if first is pick.source:
        return True
    if keys != pick.keys or any(first.read(its_shard, key) != pick.sample(key) for key in keys):
        raise DatasetError(
            f"{first.folder} and {pick.source.folder} both hold {shown(pick.keys[0])} (of {shown(path)}), and "
            f"not the same.\n"
            "Select from one of them, or prepare one from a folder above, so that its paths differ."
        )
    return False


# Settings that may differ where select brings all faces to one, and how.
_REMEDIES = {
    "size": "Give --size to bring them to one size",
    "channels": "Give --set select.channels=1 to make all of them grey",
}
SELECTED = "selected"  # the entry in dataset.json's settings that tells what a dataset was selected from, and how


@dataclass(frozen=True)
class SelectResult:
    """What `select` made; of `plan_select`, what it would make (no shards, no bytes)."""

    samples: int
    photos: int
    shards: int
    bytes: int
    out: str

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def select(
    outs: Sequence[str | os.PathLike[str]],
    new: str | os.PathLike[str],
    config: SelectConfig | None = None,
    *,
    console: Console | None = None,
) -> SelectResult:
    """Copies the faces that fit into a dataset of its own, in the order of the datasets and of their rows.

    Images are copied byte for byte, or averaged by area to ``config.size`` and brought to ``config.channels`` (one, by
    `facegan.faces.crop.grey`, before they are averaged); the JSON stays as it is. The new dataset
    counts the photographs whose faces were taken, and no others. Nothing lies under ``new`` until all of it does.

    Args:
        outs: folders that ``facegan prep`` or ``facegan select`` wrote, with the same settings.
        new: the new dataset's folder; missing or empty.
        console: where progress goes; silent where None.

    Raises:
        SettingsError: the condition is none, a size is too large, or colours are asked of grey faces.
        DatasetError: the datasets do not go together, are damaged, or nothing in them fits.
        FaceganError: ``new`` is not empty.
        DiskError: ``new`` can't be written.
    """
    config, console, new = config or SelectConfig(), console or Console(quiet=True), Path(new)
    sources = [SourceDataset(Path(out)) for out in outs]
    settings = _settings(sources, config)
    with atomic_dir(new) as folder, _progress(sources, console) as progress, ExitStack() as stack:
        copying = _DatasetCopier(folder, settings, stack)
        write_photos(folder / PHOTOS_FILE, copying.tables(select_samples(sources, config, progress)))
        if not copying.entries:
            raise DatasetError(
                f"No face fits{f' --where {config.where}' if config.where else ''}: nothing was written."
            )
        info = copying.info(sources)
        paths = [(folder / entry.name, entry.samples) for entry in info.shards]
        sheet = draw_preview(paths, [], {}, info.totals.kept)
        write_bytes(folder / PREVIEW_FILE, cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1].tobytes())
        copy_origin([source.folder for source in sources], folder)
        write_cards(folder, info, known_datasets().get(info.data_set))
        write_json(folder / DATASET_FILE, info.model_dump(mode="json"))
    totals = info.totals
    return SelectResult(totals.faces, totals.photos, len(info.shards), totals.bytes, str(new))


def plan_select(
    outs: Sequence[str | os.PathLike[str]],
    new: str | os.PathLike[str],
    config: SelectConfig | None = None,
    *,
    console: Console | None = None,
) -> SelectResult:
    """Counts what `select` would take with the same arguments. Touches nothing; raises what `select` would."""
    config, console = config or SelectConfig(), console or Console(quiet=True)
    require_empty(Path(new))
    sources = [SourceDataset(Path(out)) for out in outs]
    _settings(sources, config)
    with _progress(sources, console) as progress:
        counts = Counter[str]()
        for pick in select_samples(sources, config, progress):
            counts.update(samples=len(pick.keys), photos=1)
    return SelectResult(counts["samples"], counts["photos"], 0, 0, str(new))


def _progress(sources: list[SourceDataset], console: Console) -> Any:
    return console.progress(sum(source.info.totals.photos for source in sources), "photographs")


def _settings(sources: list[SourceDataset], config: SelectConfig) -> dict[str, Any]:
    """The new dataset's settings.

    Raises:
        SettingsError: ``size`` is larger than a dataset's, or ``channels`` more than it has.
        DatasetError: the datasets' settings differ, or none has a split that was asked for.
    """
    first = sources[0]
    brought = {SELECTED, *(name for name in _REMEDIES if getattr(config, name))}
    for other in sources[1:]:
        a, b = with_defaults(first.info.settings), with_defaults(other.info.settings)
        for name in dict.fromkeys([*a, *b]):
            if name not in brought and a.get(name) != b.get(name):
                bring = _REMEDIES.get(name, "Prepare one of them anew")
                raise DatasetError(
                    f"{first.folder} was made with {shown(name)} = {_short(a.get(name))}, and {other.folder} with "
                    f"{shown(name)} = {_short(b.get(name))}, so they do not go together.\n{bring}."
                )
    for source in sources:
        if config.size and config.size > source.info.settings["size"]:
            raise SettingsError(
                f"--size {config.size}: the faces of {source.folder} have {source.info.settings['size']} pixels, and "
                "select only makes them smaller.\n"
                f"Larger ones come from the photographs: facegan prep --size {config.size}"
            )
        if config.channels and config.channels > source.info.channels:
            raise SettingsError(
                f"--set select.channels={config.channels}: the faces of {source.folder} are grey.\n"
                "Those with colours come from the photographs: facegan prep --set prep.channels=3"
            )
    there = [split for split in SPLITS if any(source.info.split_shards(split) for source in sources)]
    for split in config.splits:
        if split not in there:
            raise DatasetError(f"There is no split '{split}' to select from: there is {one_of(there or ['none'])}.")
    selected = {
        "where": config.where,
        "limit": config.limit,
        "splits": config.splits,
        "from": [source.info.fingerprint for source in sources],
    }
    settings = first.info.settings
    brought_to = {"size": config.size or settings["size"], "channels": config.channels or first.info.channels}
    return {**settings, **brought_to, SELECTED: selected}


def _short(value: Any) -> str:
    return shown(", ".join(str(item)[:12] for item in value) if isinstance(value, list) else value)


@dataclass
class _Open:
    """A shard being written, and the rows of its photographs."""

    name: str
    split: str
    writer: ShardWriter
    samples: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)


class _DatasetCopier:
    """Writes shards, one a split at a time, and keeps account of them."""

    def __init__(self, folder: Path, settings: dict[str, Any], stack: ExitStack) -> None:
        self.folder, self.settings, self.stack = folder, settings, stack
        self.entries: list[ShardEntry] = []
        self._photos = 0
        self._started = Counter[str]()

    def tables(self, picks: Iterator[Selection]) -> Iterator[pa.Table]:
        """Copies, and gives the rows of each shard once it is written."""
        writing: dict[str, _Open] = {}
        for pick in picks:
            split = pick.row["split"]
            shard = writing.get(split)
            if (
                shard and shard.samples + len(pick.keys) > self.settings["shard_size"]
            ):  # a photograph's faces stay together
                yield self._close(shard)
                shard = None
            if shard is None:
                shard = writing[split] = self._start(split)
            self._add(shard, pick)
        for split in SPLITS:
            if split in writing:
                yield self._close(writing[split])

    def _start(self, split: str) -> _Open:
        name = shard_name(split, self._started[split])
        self._started[split] += 1
        writer = self.stack.enter_context(ShardWriter(self.folder / name, self.folder / f".{name}{TEMPORARY}"))
        return _Open(name, split, writer)

    def _add(self, shard: _Open, pick: Selection) -> None:
        for key in pick.keys:
            image, meta = pick.sample(key)
            info = pick.source.info
            if (info.settings["size"], info.channels) != (self.settings["size"], self.settings["channels"]):
                image = _convert_image(image, self.settings, key, pick.source.folder)
            shard.writer.add(key, self.settings["format"], image, meta)
        shard.samples += len(pick.keys)
        shard.rows.append({**pick.row, "keys": pick.keys, "shard": shard.name})

    def _close(self, shard: _Open) -> pa.Table:
        written = shard.writer.commit()
        if written is not None:
            entry = {"name": shard.name, "split": shard.split, **vars(written)}
            self.entries.append(ShardEntry.model_validate(entry))
        self._photos += len(shard.rows)
        return pa.Table.from_pylist(shard.rows, schema=SCHEMA)

    def info(self, sources: list[SourceDataset]) -> DatasetInfo:
        photos = self.folder / PHOTOS_FILE
        entries = sorted(self.entries, key=lambda entry: (SPLITS.index(entry.split), entry.name))
        names = {source.info.data_set for source in sources}
        return DatasetInfo(
            data_set=names.pop() if len(names) == 1 else "",
            settings=self.settings,
            versions=_versions(sources),
            fingerprint=_fingerprint(photos),
            totals=Totals(
                photos=self._photos,
                kept=self._photos,
                rejected={},
                ignored={},
                faces=sum(entry.samples for entry in entries),
                bytes=sum(entry.bytes for entry in entries),
            ),
            shards=tuple(entries),
            photos_sha256=sha256_file(photos),
        )


def _convert_image(image: bytes, settings: dict[str, Any], key: str, folder: Path) -> bytes:
    """To the new dataset's size and channels."""
    rgb = decode_image(image)
    if rgb is None:
        raise DatasetError(f"The face {shown(key)} cannot be decoded.\n{see_verify(folder, deep=True)}")
    pixels, size = grey(rgb) if settings["channels"] == 1 else rgb, settings["size"]
    small = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)
    return encode_image(small.reshape(size, size, settings["channels"]), settings["format"])


def _versions(sources: list[SourceDataset]) -> dict[str, str]:
    """Versions of what made the faces; more than one where the datasets were made by several."""
    names = dict.fromkeys(name for source in sources for name in source.info.versions)
    return {
        name: ", ".join(dict.fromkeys(source.info.versions.get(name, "none") for source in sources)) for name in names
    }


def _fingerprint(photos: Path) -> str:
    fingerprint = Fingerprint()
    for batch in read_batches(photos, ["path", "bytes"]):
        fingerprint.add(pa.Table.from_batches([batch]))
    return str(fingerprint)

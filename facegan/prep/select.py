"""`select`: a new dataset of some faces of one or several others, without detecting again."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa

from facegan.config import SelectConfig
from facegan.console import Console, shown
from facegan.errors import DatasetError, SettingsError, one_of
from facegan.faces.grey import grey
from facegan.files import TEMPORARY, new_folder, refuse_filled, sha256_file, write_bytes, write_json
from facegan.manifests import known_datasets
from facegan.prep.picks import Pick, Standing, picked
from facegan.prep.pictures.original import copy_origin
from facegan.prep.pictures.preview import draw_preview
from facegan.prep.settings import with_defaults
from facegan.shards.cards import write_cards
from facegan.shards.images import decode_image, encode_image
from facegan.shards.layout import (
    DATASET_FILE,
    PHOTOS_FILE,
    PREVIEW_FILE,
    SPLITS,
    DatasetInfo,
    ShardEntry,
    Totals,
    shard_name,
)
from facegan.shards.photos import SCHEMA, Fingerprint, read_batches, write_photos
from facegan.shards.write import ShardWriter

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
    `facegan.faces.grey.grey`, before they are averaged); the JSON stays as it is. The new dataset
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
    sources = [Standing(Path(out)) for out in outs]
    settings = _settings(sources, config)
    with new_folder(new) as folder, _progress(sources, console) as progress, ExitStack() as stack:
        copying = _Copying(folder, settings, stack)
        write_photos(folder / PHOTOS_FILE, copying.tables(picked(sources, config, progress)))
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
    refuse_filled(Path(new))
    sources = [Standing(Path(out)) for out in outs]
    _settings(sources, config)
    with _progress(sources, console) as progress:
        counts = Counter[str]()
        for pick in picked(sources, config, progress):
            counts.update(samples=len(pick.keys), photos=1)
    return SelectResult(counts["samples"], counts["photos"], 0, 0, str(new))


def _progress(sources: list[Standing], console: Console) -> Any:
    return console.progress(sum(source.info.totals.photos for source in sources), "photographs")


def _settings(sources: list[Standing], config: SelectConfig) -> dict[str, Any]:
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


class _Copying:
    """Writes shards, one a split at a time, and keeps account of them."""

    def __init__(self, folder: Path, settings: dict[str, Any], stack: ExitStack) -> None:
        self.folder, self.settings, self.stack = folder, settings, stack
        self.entries: list[ShardEntry] = []
        self._photos = 0
        self._started = Counter[str]()

    def tables(self, picks: Iterator[Pick]) -> Iterator[pa.Table]:
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

    def _add(self, shard: _Open, pick: Pick) -> None:
        for key in pick.keys:
            image, meta = pick.sample(key)
            info = pick.source.info
            if (info.settings["size"], info.channels) != (self.settings["size"], self.settings["channels"]):
                image = _brought(image, self.settings, key, pick.source.folder)
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

    def info(self, sources: list[Standing]) -> DatasetInfo:
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


def _brought(image: bytes, settings: dict[str, Any], key: str, folder: Path) -> bytes:
    """To the new dataset's size and channels."""
    rgb = decode_image(image)
    if rgb is None:
        raise DatasetError(
            f"The face {shown(key)} can't be decoded.\nSee what else is wrong: facegan verify {folder} --deep"
        )
    pixels, size = grey(rgb) if settings["channels"] == 1 else rgb, settings["size"]
    small = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)
    return encode_image(small.reshape(size, size, settings["channels"]), settings["format"])


def _versions(sources: list[Standing]) -> dict[str, str]:
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

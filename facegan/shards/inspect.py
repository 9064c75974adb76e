"""Look into a dataset: one sample, histograms of scores and face sizes, and all faces as a folder of images."""

from __future__ import annotations

import io
import math
import re
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from facegan.console import Console, shown
from facegan.errors import DatasetError
from facegan.faces.crop import quad_side
from facegan.files import atomic_dir
from facegan.shards.checksums import check_shard, see_verify
from facegan.shards.format import PHOTOS_FILE, DatasetInfo, SampleMeta, ShardEntry
from facegan.shards.photos import read_batches
from facegan.shards.reader import Shard
from facegan.shards.verify import read_meta

MAX_READ = 20_000  # samples whose JSON is read for the face sizes of a large dataset
_MAX_OPENED = 200  # shards read for them
_SCORE_STEPS = 1000  # scores have three decimals
_BINS = 20
_SAFE_NAME = re.compile(r"[A-Za-z0-9_=-]{1,230}\.(png|jpg|webp)")


@dataclass(frozen=True)
class StoredSample:
    """One sample: ``image`` is the bytes of the file ``name``."""

    key: str
    split: str
    shard: str
    name: str
    image: bytes
    meta: SampleMeta


def find_sample(folder: Path, info: DatasetInfo, wanted: str) -> StoredSample:
    """A sample by its key, or the first one of a photograph by its path.

    Raises:
        DatasetError: there is none, the photograph was rejected, or the dataset is damaged.
    """
    key, shard = _key_and_shard(folder / PHOTOS_FILE, wanted)
    for entry in info.shards:
        if entry.name == shard:
            for sample in read_samples(folder, entry, keys={key}):
                return sample
    raise DatasetError(
        f"{folder / PHOTOS_FILE} lists {shown(key)} in {shown(shard)}, which does not contain it.\n{see_verify(folder)}"
    )


def _key_and_shard(photos: Path, wanted: str) -> tuple[str, str]:
    example = ""
    for batch in read_batches(photos, ["path", "reason", "keys", "shard"]):
        keys = batch.column("keys").flatten().to_pylist()
        example = example or (keys[0] if keys else "")
        if wanted not in keys and wanted not in batch.column("path").to_pylist():
            continue
        row = next(row for row in batch.to_pylist() if wanted in row["keys"] or wanted == row["path"])
        if not row["keys"]:
            raise DatasetError(f"{shown(wanted)} has no face: it was rejected as {shown(row['reason'])}.")
        return (wanted if wanted in row["keys"] else row["keys"][0]), row["shard"]
    like = f" An example of its keys: {shown(example)}" if example else ""
    raise DatasetError(f"{photos.parent} has no sample and no photograph {shown(wanted)}.{like}")


def find_rejected(folder: Path, wanted: str) -> dict[str, Any] | None:
    """The row of the photograph at the path ``wanted`` if it was rejected.

    Raises:
        DatasetError: the table cannot be read.
    """
    for batch in read_batches(folder / PHOTOS_FILE):
        paths = batch.column("path").to_pylist()
        if wanted in paths:
            row = batch.slice(paths.index(wanted), 1).to_pylist()[0]
            return row if row["outcome"] == "rejected" else None
    return None


def read_samples(
    folder: Path, entry: ShardEntry, *, keys: Collection[str] | None = None, numbers: list[int] | None = None
) -> Iterator[StoredSample]:
    """The samples of one shard, in order.

    Args:
        keys: only these.
        numbers: only those at these positions.

    Raises:
        DatasetError: the shard is damaged, or the JSON of a sample is invalid.
    """
    shard = Shard(folder / entry.name)
    try:
        for sample in shard.samples if numbers is None else [shard.samples[i] for i in numbers if i < len(shard)]:
            if keys is not None and sample.key not in keys:
                continue
            meta = read_meta(shard, sample)
            if isinstance(meta, str):
                raise DatasetError(
                    f"{shown(sample.key)}.json in {shard.path} {shown(meta)}.\n{see_verify(folder, deep=True)}"
                )
            image = bytes(shard.read(sample.image))
            yield StoredSample(sample.key, entry.split, entry.name, sample.image.name, image, meta)
    finally:
        shard.close()


# Histograms


@dataclass(frozen=True)
class Histogram:
    """Counts of values between ``edges`` (the last bin includes its upper edge): ``values`` of a ``total``."""

    title: str
    edges: list[float]
    counts: list[int]
    median: float
    values: int
    total: int

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "title"}

    @property
    def headline(self) -> str:
        part = f", {self.values:,} of {self.total:,} read" if self.values < self.total else f", {self.total:,} faces"
        return f"{self.title}: median {self.median:g}{part}"

    def bars(self) -> list[tuple[str, int]]:
        """Label and count of each bin from the first to the last that is not empty."""
        digits = 2 if self.edges[-1] <= 1 else 0
        first, end = self._filled
        return [
            (f"{self.edges[i]:.{digits}f} – {self.edges[i + 1]:.{digits}f}", self.counts[i]) for i in range(first, end)
        ]

    @property
    def limits(self) -> tuple[float, float]:
        """Outer edges of `bars`."""
        first, end = self._filled
        return self.edges[first], self.edges[end]

    @property
    def _filled(self) -> tuple[int, int]:
        filled = [i for i, count in enumerate(self.counts) if count]
        return filled[0], filled[-1] + 1


def summarise(folder: Path, info: DatasetInfo, console: Console) -> dict[str, Histogram]:
    """``scores`` of all faces found, from photos.parquet; ``face_sizes`` of the samples, from their JSON.

    Empty ones are left out, and, with a warning, those that cannot be read.
    """
    histograms = {}
    for name, measure in (("scores", _scores), ("face_sizes", _face_sizes)):
        try:
            histogram = measure(folder, info)
        except DatasetError as error:
            console.warn(*str(error).split("\n"))
            continue
        if histogram:
            histograms[name] = histogram
    return histograms


def _scores(folder: Path, info: DatasetInfo) -> Histogram | None:
    counts = np.zeros(_SCORE_STEPS + 1, np.int64)
    for batch in read_batches(folder / PHOTOS_FILE, ["faces", "scores"]):
        found = batch.filter(pa.array(batch.column("faces").to_numpy() > 0))  # others are below --min-score
        scores = found.column("scores").flatten().to_numpy(zero_copy_only=False)
        steps = np.rint(np.nan_to_num(scores).clip(0, 1) * _SCORE_STEPS).astype(np.int64)
        counts += np.bincount(steps, minlength=_SCORE_STEPS + 1)
    total = int(counts.sum())
    if total == 0:
        return None
    median = int(np.searchsorted(counts.cumsum(), (total + 1) // 2)) / _SCORE_STEPS
    width = _SCORE_STEPS // _BINS
    binned = counts[:-1].reshape(_BINS, width).sum(axis=1)
    binned[-1] += counts[-1]
    edges = [i / _BINS for i in range(_BINS + 1)]
    return Histogram("score of the faces found", edges, binned.tolist(), median, total, total)


def _face_sizes(folder: Path, info: DatasetInfo) -> Histogram | None:
    sides = np.array(
        [
            quad_side(np.array(sample.meta.quad))
            for entry, numbers in spread(info, MAX_READ, _MAX_OPENED)
            for sample in read_samples(folder, entry, numbers=numbers)
        ]
    )
    if not len(sides):
        return None
    edges = size_edges(float(sides.min()), float(sides.max()))
    counts = np.histogram(sides, edges)[0].tolist()
    median = round(float(np.median(sides)), 1)
    return Histogram("side of the crop in source pixels", edges, counts, median, len(sides), info.totals.faces)


def spread(info: DatasetInfo, most: int, most_shards: int) -> list[tuple[ShardEntry, list[int]]]:
    """Shards and positions in them of at most ``most`` samples, spread evenly."""
    shards = list(info.shards)
    total = sum(entry.samples for entry in shards)
    if total > most:
        shards = shards[:: math.ceil(len(shards) / most_shards)]
        total = sum(entry.samples for entry in shards)
    taken = min(total, most)
    wanted = np.arange(taken) * total // max(taken, 1)
    positions, first = [], 0
    for entry in shards:
        inside = wanted[(wanted >= first) & (wanted < first + entry.samples)] - first
        positions.append((entry, inside.tolist()))
        first += entry.samples
    return positions


def size_edges(least: float, most: float) -> list[float]:
    """Round edges around both: even steps, or half octaves if ``most`` is far larger."""
    if most > 8 * max(least, 1):
        first = math.floor(2 * math.log2(max(least, 1)))
        last = math.ceil(2 * math.log2(most))
        return [float(round(2 ** (i / 2))) if i > 0 else 0.0 for i in range(first, max(last, first + 1) + 1)]
    step = next(s for k in range(12) for s in (10**k, 2 * 10**k, 5 * 10**k) if (most - least) / s <= _BINS - 2)
    first = math.floor(least / step)
    return [float(i * step) for i in range(first, math.floor(most / step) + 2)]


def draw_summary(info: DatasetInfo, histograms: dict[str, Histogram], image_format: str) -> bytes:
    """The rejection reasons and the histograms, side by side as a picture."""
    # Without pyplot, which keeps figures alive and chooses a backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rejected = {reason: count for reason, count in info.totals.rejected.items() if count}
    figure = Figure(figsize=(5 * (len(histograms) + 1), 4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(histograms) + 1, squeeze=False)[0]
    for axis, histogram in zip(axes[1:], histograms.values(), strict=True):
        axis.stairs(histogram.counts, histogram.edges, fill=True)
        axis.set_xlim(histogram.limits)
        axis.set_title(histogram.headline, fontsize=9)
        axis.set_ylabel("faces")
    totals = info.totals
    axes[0].set_title(f"{totals.kept:,} of {totals.photos:,} photographs kept", fontsize=9)
    bars = axes[0].barh(list(rejected), list(rejected.values()), height=0.6, color="tab:red")
    axes[0].bar_label(bars, fmt="{:,.0f}", padding=3)
    axes[0].set_xlabel("photographs rejected")
    axes[0].set_xlim(0, 1.15 * max([*rejected.values(), 1]))
    axes[0].set_ylim(-0.5, max(len(rejected), 4) - 0.5)
    axes[0].xaxis.get_major_locator().set_params(integer=True)
    file = io.BytesIO()
    figure.savefig(file, format=image_format)
    return file.getvalue()


# A folder of images


def extract(folder: Path, target: Path, console: Console | None = None) -> int:
    """Write every face into ``target`` as KEY.png (or .jpg, .webp), with its bytes from the shards.

    Several splits get a folder each, and so do classes if a label is not 0. ``target`` appears when it is complete.

    Returns:
        The number of faces.

    Raises:
        FaceganError: ``target`` is not empty.
        DatasetError: the dataset is damaged.
        DiskError: the disk is full or write-protected.
    """
    info = DatasetInfo.read(folder)
    written, labels = 0, set[int]()
    bar = (console or Console(quiet=True)).progress(info.totals.faces, "faces")
    with atomic_dir(target) as staging, bar as progress:
        for entry in info.shards:
            check_shard(folder, entry)
            for sample in read_samples(folder, entry):
                _write(staging / sample.split / str(sample.meta.label), sample)
                labels.add(sample.meta.label)
                written += 1
            progress.advance(entry.samples)
        if labels <= {0}:
            for split in info.splits:
                _replace_by_child(staging / split, "0")
        if len(info.splits) == 1:
            _replace_by_child(staging, info.splits[0])
    return written


def _write(folder: Path, sample: StoredSample) -> None:
    if not _SAFE_NAME.fullmatch(sample.name):  # in a dataset from elsewhere it might lead out of the folder
        raise DatasetError(f"{shown(sample.name)} in {sample.shard} is not a file name that facegan writes.")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / sample.name).open("xb") as file:
        file.write(sample.image)


def _replace_by_child(folder: Path, child: str) -> None:
    aside = folder.with_name(f"{folder.name}.lifted")
    (folder / child).rename(aside)
    shutil.rmtree(folder)
    aside.rename(folder)

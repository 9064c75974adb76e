"""How scores and face sizes of a dataset are spread."""

from __future__ import annotations

import io
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from facegan.console import Console, shown
from facegan.errors import DatasetError
from facegan.faces.crop import quad_side
from facegan.files import atomic_dir
from facegan.shards.checksums import check_shard
from facegan.shards.format import PHOTOS_FILE, DatasetInfo, SampleMeta, ShardEntry
from facegan.shards.photos import read_batches
from facegan.shards.reader import Sample, Shard
from facegan.shards.verify import read_meta

# Samples of a dataset, one by one: by key, or all of them, or some spread evenly.


@dataclass(frozen=True)
class Found:
    """One sample. ``image`` is the file's bytes, ``name`` the file's name."""

    key: str
    split: str
    shard: str
    name: str
    image: bytes
    meta: SampleMeta


def find_sample(folder: Path, info: DatasetInfo, wanted: str) -> Found:
    """A sample by its key, or by the path of its photograph (then its first face).

    Raises:
        DatasetError: there is none, the photograph was rejected, or the dataset is damaged.
    """
    key, shard = _place(folder / PHOTOS_FILE, wanted)
    for entry in info.shards:
        if entry.name == shard:
            for found in read_samples(folder, entry, keys={key}):
                return found
    raise DatasetError(
        f"{folder / PHOTOS_FILE} tells of {shown(key)} in {shown(shard)}, which does not hold it.\n"
        f"See what else is wrong: facegan verify {folder}"
    )


def find_rejected(folder: Path, wanted: str) -> dict[str, Any] | None:
    """The row of the rejected photograph of that path; None where there is none.

    Raises:
        DatasetError: the table can't be read.
    """
    for batch in read_batches(folder / PHOTOS_FILE):
        if wanted in batch.column("path").to_pylist():
            row = batch.to_pylist()[batch.column("path").to_pylist().index(wanted)]
            return row if row["outcome"] == "rejected" else None
    return None


def _place(photos: Path, wanted: str) -> tuple[str, str]:
    """Key and shard."""
    example = ""
    for batch in read_batches(photos, ["path", "reason", "keys", "shard"]):
        keys = batch.column("keys").flatten().to_pylist()
        example = example or (keys[0] if keys else "")
        if wanted not in keys and wanted not in batch.column("path").to_pylist():
            continue
        row = next(row for row in batch.to_pylist() if wanted in row["keys"] or wanted == row["path"])
        if not row["keys"]:
            raise DatasetError(f"{shown(wanted)} gave no face: it was rejected as {shown(row['reason'])}.")
        return (wanted if wanted in row["keys"] else row["keys"][0]), row["shard"]
    like = f" Its keys are like {shown(example)}." if example else ""
    raise DatasetError(f"{photos.parent} holds no sample {shown(wanted)}, nor a photograph of that path.{like}")


def read_samples(
    folder: Path, entry: ShardEntry, *, keys: set[str] | None = None, numbers: list[int] | None = None
) -> Iterator[Found]:
    """The samples of one shard, in order.

    Args:
        keys: only these.
        numbers: only those at these places.

    Raises:
        DatasetError: the shard is damaged, or a sample's JSON does not fit.
    """
    shard = Shard(folder / entry.name)
    try:
        chosen = shard.samples if numbers is None else [shard.samples[i] for i in numbers if i < len(shard)]
        for sample in chosen:
            if keys is None or sample.key in keys:
                meta = _sound(folder, shard, sample)
                yield Found(sample.key, entry.split, entry.name, sample.image.name, _image(shard, sample), meta)
    finally:
        shard.close()


def _image(shard: Shard, sample: Sample) -> bytes:
    return bytes(shard.read(sample.image))


def _sound(folder: Path, shard: Shard, sample: Sample) -> SampleMeta:
    meta = read_meta(shard, sample)
    if isinstance(meta, str):
        raise DatasetError(
            f"{shown(sample.key)}.json in {shard.path} {shown(meta)}.\n"
            f"See what else is wrong: facegan verify {folder} --deep"
        )
    return meta


MOST_READ = 20_000  # samples whose JSON is read for the face sizes of a large dataset
_MOST_OPENED = 200  # shards that those lie in
_SCORE_STEPS = 1000  # scores have three decimals
_BINS = 20


@dataclass(frozen=True)
class Histogram:
    """Counts of values between ``edges`` (the last bin holds its upper edge), of ``values`` read out of ``total``."""

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
        """A label for each bin from the first to the last that holds something, and its count."""
        filled = [i for i, count in enumerate(self.counts) if count]
        digits = 2 if self.edges[-1] <= 1 else 0
        return [
            (f"{self.edges[i]:.{digits}f} – {self.edges[i + 1]:.{digits}f}", self.counts[i])
            for i in range(filled[0], filled[-1] + 1)
        ]


def summarise(folder: Path, info: DatasetInfo, console: Console) -> dict[str, Histogram]:
    """``scores`` of all faces found, from photos.parquet; ``face_sizes`` of the samples, from their JSON.

    What can't be read is warned of and left out, and so is what there is nothing of.
    """
    found = {}
    for name, measure in (("scores", _scores), ("face_sizes", _face_sizes)):
        try:
            histogram = measure(folder, info)
        except DatasetError as error:
            console.warn(*str(error).split("\n"))
            continue
        if histogram:
            found[name] = histogram
    return found


def _scores(folder: Path, info: DatasetInfo) -> Histogram | None:
    counts = np.zeros(_SCORE_STEPS + 1, np.int64)
    for batch in read_batches(folder / PHOTOS_FILE, ["faces", "scores"]):
        found = batch.filter(pa.array(batch.column("faces").to_numpy() > 0))  # others have a score below --min-score
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
            for entry, numbers in spread(info, MOST_READ, _MOST_OPENED)
            for sample in read_samples(folder, entry, numbers=numbers)
        ]
    )
    if not len(sides):
        return None
    edges = size_edges(float(sides.min()), float(sides.max()))
    counts = np.histogram(sides, edges)[0].tolist()
    median = round(float(np.median(sides)), 1)
    return Histogram("side of the crop in source pixels", edges, counts, median, len(sides), info.totals.faces)


def spread(info: DatasetInfo, most: int, most_shards: int) -> list[tuple[Any, list[int]]]:
    """Shards and places in them of at most so many samples, spread evenly; all where there are no more."""
    shards = list(info.shards)
    total = sum(entry.samples for entry in shards)
    if total > most:
        shards = shards[:: math.ceil(len(shards) / most_shards)]
        total = sum(entry.samples for entry in shards)
    taken = min(total, most)
    wanted = np.arange(taken) * total // max(taken, 1)
    places, first = [], 0
    for entry in shards:
        inside = wanted[(wanted >= first) & (wanted < first + entry.samples)] - first
        places.append((entry, inside.tolist()))
        first += entry.samples
    return places


def size_edges(least: float, most: float) -> list[float]:
    """Round edges that hold both: even steps, or where the largest is far larger, steps of half an octave."""
    if most > 8 * max(least, 1):
        first = math.floor(2 * math.log2(max(least, 1)))
        last = math.ceil(2 * math.log2(most))
        return [float(round(2 ** (i / 2))) if i > 0 else 0.0 for i in range(first, max(last, first + 1) + 1)]
    step = next(s for k in range(12) for s in (10**k, 2 * 10**k, 5 * 10**k) if (most - least) / s <= _BINS - 2)
    first = math.floor(least / step)
    return [float(i * step) for i in range(first, math.floor(most / step) + 2)]


def draw_summary(info: DatasetInfo, histograms: dict[str, Histogram], image_format: str) -> bytes:
    """The histograms, and why photographs were rejected, side by side as a picture."""
    # The object API: pyplot would keep figures alive and pick a backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rejected = {reason: count for reason, count in info.totals.rejected.items() if count}
    figure = Figure(figsize=(5 * (len(histograms) + 1), 4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(histograms) + 1, squeeze=False)[0]
    for axis, histogram in zip(axes[1:], histograms.values(), strict=True):
        axis.stairs(histogram.counts, histogram.edges, fill=True)
        labels = histogram.bars()
        axis.set_xlim(_ends(histogram, len(labels)))
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


def _ends(histogram: Histogram, shown: int) -> tuple[float, float]:
    first = next(i for i, count in enumerate(histogram.counts) if count)
    return histogram.edges[first], histogram.edges[first + shown]


# Faces as a plain folder of images, for programs that read no shards.

_SAFE_NAME = re.compile(r"[A-Za-z0-9_=-]{1,230}\.(png|jpg|webp)")


def extract(folder: Path, target: Path, console: Console | None = None) -> int:
    """Writes every face of a dataset into ``target`` as KEY.png (or .jpg, .webp), its bytes as they are in the shards.

    In a folder ``SPLIT`` where there are several splits, and in one ``LABEL`` where there are labels but 0. Nothing
    lies under ``target`` until all of it does.

    Returns:
        how many there are.

    Raises:
        FaceganError: ``target`` is not empty.
        DatasetError: the dataset is damaged.
        DiskError: the disk is full, or may not be written.
    """
    info = DatasetInfo.read(folder)
    written, labels = 0, set[int]()
    bar = (console or Console(quiet=True)).progress(info.totals.faces, "faces")
    with atomic_dir(target) as whole, bar as progress:
        for entry in info.shards:
            check_shard(folder, entry)
            for sample in read_samples(folder, entry):
                _write(whole / sample.split / str(sample.meta.label), sample)
                labels.add(sample.meta.label)
                written += 1
            progress.advance(entry.samples)
        if labels <= {0}:
            for split in info.splits:
                _lift(whole / split, "0")
        if len(info.splits) == 1:
            _lift(whole, info.splits[0])
    return written


def _write(folder: Path, sample: Found) -> None:
    if not _SAFE_NAME.fullmatch(sample.name):  # of a dataset from elsewhere: it might lead out of the folder
        raise DatasetError(f"{shown(sample.name)} in {sample.shard} is no name that facegan gives a face.")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / sample.name
    with path.open("xb") as file:
        file.write(sample.image)


def _lift(folder: Path, inner: str) -> None:
    """Puts a folder's only folder in its place."""
    aside = folder.with_name(f"{folder.name}.lifted")
    (folder / inner).rename(aside)
    shutil.rmtree(folder)
    aside.rename(folder)

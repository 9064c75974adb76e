"""Look into a dataset: one sample, histograms of scores and face sizes, and all faces as a folder of images."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from facegan.console import Console, shown
from facegan.errors import DatasetError
from facegan.faces.crop import quad_side
from facegan.files import atomic_dir, make_folder
from facegan.shards.checksums import check_shard, see_verify
from facegan.shards.detections import SCHEMA as DETECTIONS
from facegan.shards.detections import read_detections
from facegan.shards.format import DETECTIONS_FILE, PHOTOS_FILE, DatasetInfo, SampleMeta, ShardEntry
from facegan.shards.photos import read_batches
from facegan.shards.reader import Shard
from facegan.shards.verify import read_meta

_MAX_READ = 20_000  # samples whose JSON is read for the face sizes of a large dataset
_MAX_OPENED = 200  # shards read for them
_BINS = 20
_ACROSS = 3  # diagrams in a row
# Columns of detections.parquet, with headings.
MEASURES = {
    "outside": "share of the aligned crop outside the photograph",
    "sharpness": "sharpness (variance of the Laplacian)",
    "brightness": "brightness (0 to 255)",
    "contrast": "contrast (standard deviation of grey)",
    "yaw": "yaw in degrees",
    "pitch": "pitch in degrees",
    "roll": "roll in degrees",
}
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


def find_row(folder: Path, wanted: str) -> dict[str, Any]:
    """The row of photos.parquet with this path or one of whose samples has this key; else DatasetError."""
    example = ""
    for batch in read_batches(folder / PHOTOS_FILE):
        both = zip(batch.column("path").to_pylist(), batch.column("keys").to_pylist(), strict=True)
        for number, (path, keys) in enumerate(both):
            if wanted == path or wanted in keys:
                return batch.slice(number, 1).to_pylist()[0]
            example = example or (f" An example of its keys: {shown(keys[0])}" if keys else "")
    raise DatasetError(f"{folder} has no sample and no photograph {shown(wanted)}.{example}")


def find_sample(folder: Path, info: DatasetInfo, wanted: str) -> StoredSample:
    """A sample by its key, or the first one of a photograph by its path; else DatasetError."""
    row = find_row(folder, wanted)
    if not row["keys"]:
        raise DatasetError(f"{shown(wanted)} has no face: it was rejected as {shown(row['reason'])}.")
    key = wanted if wanted in row["keys"] else row["keys"][0]
    for entry in info.shards:
        if entry.name == row["shard"] and (sample := next(read_samples(folder, entry, key=key), None)):
            return sample
    raise DatasetError(
        f"{folder / PHOTOS_FILE} lists {shown(key)} in {shown(row['shard'])}, which does not contain it.\n"
        f"{see_verify(folder)}"
    )


def read_samples(
    folder: Path, entry: ShardEntry, *, key: str | None = None, numbers: Iterable[int] | None = None
) -> Iterator[StoredSample]:
    """The samples of one shard, in order: all, the one with a key, or those at some positions."""
    with contextlib.closing(Shard(folder / entry.name)) as shard:
        for sample in shard.samples if numbers is None else [shard.samples[i] for i in numbers if i < len(shard)]:
            if key not in (None, sample.key):
                continue
            meta = read_meta(shard, sample)
            if isinstance(meta, str):
                raise DatasetError(
                    f"{shown(sample.key)}.json in {shard.path} {shown(meta)}.\n{see_verify(folder, deep=True)}"
                )
            image = bytes(shard.read(sample.image))
            yield StoredSample(sample.key, entry.split, entry.name, sample.image.name, image, meta)


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
    quantiles: tuple[float, float, float]  # at 5, 50 and 95 %

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "title"}

    @property
    def headline(self) -> str:
        part = f", {self.values:,} of {self.total:,} read" if self.values < self.total else f", {self.total:,} faces"
        return f"{self.title}: median {self.median:g}{part}"

    @property
    def _filled(self) -> slice:
        """From the first to the last bin that is not empty."""
        filled = [i for i, count in enumerate(self.counts) if count]
        return slice(filled[0], filled[-1] + 1)

    @property
    def limits(self) -> tuple[float, float]:
        """Outer edges of `bars`."""
        return self.edges[self._filled.start], self.edges[self._filled.stop]

    def bars(self) -> list[tuple[str, int]]:
        """Label and count of each bin from the first to the last that is not empty."""
        digits = 2 if self.edges[-1] <= 1 else 0
        labels = [f"{low:.{digits}f} – {high:.{digits}f}" for low, high in itertools.pairwise(self.edges)]
        return list(zip(labels, self.counts, strict=True))[self._filled]


def summarise(folder: Path, info: DatasetInfo, console: Console) -> dict[str, Histogram]:
    """``scores`` of all faces found, from photos.parquet; ``face_sizes`` of the samples, from their JSON; and each of
    their `MEASURES`, from detections.parquet.

    Empty ones are left out, and, with a warning, those that cannot be read.
    """
    histograms: dict[str, Histogram] = {}
    for measure in (_scores, _face_sizes, _measured):
        try:
            histograms.update(measure(folder, info))
        except DatasetError as error:
            console.warn(*str(error).split("\n"))
    return histograms


def _scores(folder: Path, info: DatasetInfo) -> Iterator[tuple[str, Histogram]]:
    scores = []
    for batch in read_batches(folder / PHOTOS_FILE, ["faces", "scores"]):
        found = batch.filter(pa.array(batch.column("faces").to_numpy() > 0))  # others are below --min-score
        scores.append(found.column("scores").flatten().to_numpy(zero_copy_only=False))
    values = np.nan_to_num(np.concatenate([np.zeros(0), *scores])).clip(0, 1).round(3)  # as they were written
    if len(values):
        edges = [i / _BINS for i in range(_BINS + 1)]
        yield "scores", _histogram("score of the faces found", edges, values, 3, len(values))


def _face_sizes(folder: Path, info: DatasetInfo) -> Iterator[tuple[str, Histogram]]:
    samples = (
        sample
        for entry, numbers in spread(info, _MAX_READ, _MAX_OPENED)
        for sample in read_samples(folder, entry, numbers=numbers)
    )
    sides = np.array([quad_side(np.array(sample.meta.quad)) for sample in samples])
    if len(sides):
        edges = size_edges(float(sides.min()), float(sides.max()))
        yield "face_sizes", _histogram("side of the crop in source pixels", edges, sides, 1, info.totals.faces)


def _measured(folder: Path, info: DatasetInfo) -> Iterator[tuple[str, Histogram]]:
    batches = read_detections(folder / DETECTIONS_FILE) if info.detections_sha256 else ()
    batches = [batch.filter(pa.array(map(bool, batch["key"].to_pylist()))) for batch in batches]
    of_samples = pa.Table.from_batches(batches, DETECTIONS)
    for name, title in MEASURES.items() if len(of_samples) else ():
        values = of_samples[name].to_numpy()
        edges = np.linspace(values.min(), max(values.max(), values.min() + 1e-3), _BINS + 1).round(6).tolist()
        yield name, _histogram(title, edges, values, 3, len(values))


def _histogram(title: str, edges: list[float], values: np.ndarray, digits: int, total: int) -> Histogram:
    counts, median = np.histogram(values, edges)[0].tolist(), round(float(np.median(values)), digits)
    low, middle, high = (round(float(value), digits) for value in np.quantile(values, (0.05, 0.5, 0.95)))
    return Histogram(title, edges, counts, median, len(values), total, (low, middle, high))


def spread(info: DatasetInfo, most: int, most_shards: int) -> list[tuple[ShardEntry, list[int]]]:
    """Shards and positions in them of at most ``most`` samples, spread evenly."""
    shards = list(info.shards)
    if sum(entry.samples for entry in shards) > most:
        shards = shards[:: math.ceil(len(shards) / most_shards)]
    *firsts, total = itertools.accumulate((entry.samples for entry in shards), initial=0)
    taken = min(total, most)
    wanted = np.arange(taken) * total // max(taken, 1)
    parts = np.split(wanted, np.searchsorted(wanted, firsts[1:]))
    return [(entry, (part - first).tolist()) for entry, first, part in zip(shards, firsts, parts, strict=False)]


def size_edges(least: float, most: float) -> list[float]:
    """Round edges around both: even steps, or half octaves if ``most`` is far larger."""
    if most > 8 * max(least, 1):
        first = math.floor(2 * math.log2(max(least, 1)))
        last = math.ceil(2 * math.log2(most))
        edges = [2 ** (i / 2) if i > 0 else 0.0 for i in range(first, max(last, first + 1) + 1)]
        return [float(math.floor(edges[0])), *(float(round(edge)) for edge in edges[1:-1]), float(math.ceil(edges[-1]))]
    step = next(s for k in range(12) for s in (10**k, 2 * 10**k, 5 * 10**k) if (most - least) / s <= _BINS - 2)
    first = math.floor(least / step)
    return [float(i * step) for i in range(first, math.floor(most / step) + 2)]


def draw_summary(info: DatasetInfo, histograms: dict[str, Histogram], image_format: str) -> bytes:
    """The rejection reasons and the histograms as one picture."""
    # Without pyplot, which keeps figures alive and chooses a backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rejected = {reason: count for reason, count in info.totals.rejected.items() if count}
    across = min(_ACROSS, len(histograms) + 1)
    down = math.ceil((len(histograms) + 1) / across)
    figure = Figure(figsize=(5 * across, 4 * down), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for axis in axes[len(histograms) + 1 :]:
        axis.set_axis_off()
    for axis, histogram in zip(axes[1:], histograms.values(), strict=False):
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
    """Write every face into ``target`` as KEY.png (or .jpg, .webp), bytes as in the shards, and return how many.

    Several splits get a folder each, and so do classes if a label is not 0. ``target`` appears when it is complete.
    """
    info = DatasetInfo.read(folder)
    written, labels = 0, set[int]()
    bar = (console or Console(quiet=True)).progress(info.totals.faces, "faces")
    with atomic_dir(target) as staging, bar as progress:
        tops = {split: staging / split if len(info.splits) > 1 else staging for split in info.splits}
        for entry in info.shards:
            check_shard(folder, entry)
            for sample in read_samples(folder, entry):
                if not _SAFE_NAME.fullmatch(sample.name):  # in a dataset from elsewhere it might lead out of the folder
                    raise DatasetError(f"{shown(sample.name)} in {sample.shard} is no file name that facegan writes.")
                into = make_folder(tops[sample.split] / str(sample.meta.label))
                with (into / sample.name).open("xb") as file:
                    file.write(sample.image)
                labels.add(sample.meta.label)
                written += 1
            progress.advance(entry.samples)
        if labels <= {0}:
            for top in tops.values():  # its only folder takes its place
                aside = (top / "0").rename(top.with_name(f"{top.name}.lifted"))
                top.rmdir()
                aside.rename(top)
    return written

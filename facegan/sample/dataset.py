"""Samples as a dataset on disk, which all that reads those of ``facegan prep`` reads as well."""

from __future__ import annotations

import hashlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from facegan.config import SampleConfig
from facegan.console import Console
from facegan.files import TEMPORARY, atomic_dir, sha256_file, write_json
from facegan.plugins import Trust
from facegan.sample.generate import (
    Latents,
    Pixels,
    in_threads,
    make_latents,
    numbered,
    open_generator,
    sample_batches,
    save_png,
    tiled,
)
from facegan.sample.images import SAMPLES, generator_file
from facegan.shards.cards import write_cards
from facegan.shards.format import (
    DATASET_FILE,
    GENERATED,
    PHOTOS_FILE,
    PREVIEW_FILE,
    DatasetInfo,
    ShardEntry,
    Totals,
    sample_json,
    sample_key,
    shard_name,
)
from facegan.shards.images import encode_image
from facegan.shards.photos import SCHEMA, Fingerprint, write_photos
from facegan.shards.writer import ShardWriter

_SPLIT, _FORMAT = "train", "png"
_SHOWN = 64  # in preview.png
_VERSIONS_OF = ("facegan", "numpy", "pyarrow", "torch")


@dataclass(frozen=True)
class Written:
    """One shard, the rows of photos.parquet that tell of it, and its first images."""

    entry: ShardEntry
    rows: pa.Table
    first: Pixels


def write_shards(
    run: Path,
    folder: Path,
    config: SampleConfig | None = None,
    *,
    device: str = "auto",
    console: Console | None = None,
    trust_code: Trust = False,
) -> DatasetInfo:
    """A dataset of one split, ``train``, in the format of ``facegan prep``; marked as generated in dataset.json's
    settings and in its cards. The folder appears when all of it is in it.

    A sample's ``path`` is its name (`Latents.name`), its ``sha256`` that of its image; no detector has looked at it, so
    ``box`` and ``keypoints`` are empty, and ``quad`` is the whole image. The same generator, latents, device and
    versions give the same bytes. Memory does not grow with the number of samples.

    Raises:
        FaceganError: ``folder`` is there, and not empty; else what `write_grid` raises.
    """
    config = config or SampleConfig()
    generator = open_generator(run, device, trust_code)
    latents = make_latents(config, generator.spec, SAMPLES)
    written: list[Written] = []
    with atomic_dir(folder) as room, (console or Console(quiet=True)).progress(len(latents), "samples") as progress:

        def write(piece: tuple[int, Pixels]) -> Written:
            first, images = piece
            return _write_shard(room, first // config.shard_size, images, latents, first)

        with in_threads(write, numbered(sample_batches(generator, latents), config.shard_size)) as shards:
            for shard in shards:
                written.append(shard)
                progress.advance(shard.entry.samples)
        write_photos(room / PHOTOS_FILE, (shard.rows for shard in written))
        settings = {
            "size": generator.spec.size,
            "channels": generator.spec.channels,
            "format": _FORMAT,
            "shard_size": config.shard_size,
            GENERATED: _origin(run, config),
        }
        info = _info(room, written, settings)
        save_png(room / PREVIEW_FILE, tiled(np.concatenate([shard.first for shard in written])[:_SHOWN]))
        write_cards(room, info, None)
        write_json(room / DATASET_FILE, info.model_dump(mode="json"))
    return info


def _write_shard(room: Path, number: int, images: Pixels, latents: Latents, first: int) -> Written:
    name, rows = shard_name(_SPLIT, number), list[dict[str, Any]]()
    _, height, width, _ = images.shape
    quad = [[0.0, 0.0], [0.0, float(height)], [float(width), float(height)], [float(width), 0.0]]
    with ShardWriter(room / name, room / f".{name}{TEMPORARY}") as shard:
        for i, pixels in enumerate(images, first):
            image = encode_image(pixels, _FORMAT)
            path = f"{latents.name(i)}.{_FORMAT}"
            key, sha256 = sample_key(path.encode()), hashlib.sha256(image).hexdigest()
            about = {"path": path, "sha256": sha256, "width": width, "height": height}
            shard.add(key, _FORMAT, image, sample_json(**about, box=[], keypoints=[], score=0.0, quad=quad))
            row = {**about, "bytes": len(image), "outcome": "kept", "reason": "", "faces": 0, "scores": [], "box": []}
            rows.append({**row, "keys": [key], "split": _SPLIT, "shard": name})
        total = shard.commit(flushed=False)  # all is flushed together when the folder is whole
    if total is None:
        raise ValueError("a shard of no images")
    entry = ShardEntry.model_validate({"name": name, "split": _SPLIT, **vars(total)})
    # A copy: a view would keep all of the shard's pixels.
    return Written(entry, pa.Table.from_pylist(rows, schema=SCHEMA), images[: _SHOWN if number == 0 else 0].copy())


def _origin(run: Path, config: SampleConfig) -> dict[str, Any]:
    """What drew the samples, by which latents: sums and numbers, and no path."""
    return {
        "generator": sha256_file(generator_file(run)),
        "seed": config.seed,
        "seeds": config.seeds,
        "latents": sha256_file(Path(config.latents)) if config.latents else "",
    }


def _info(room: Path, written: list[Written], settings: dict[str, Any]) -> DatasetInfo:
    entries = tuple(shard.entry for shard in written)
    count, fingerprint = sum(entry.samples for entry in entries), Fingerprint()
    for shard in written:
        fingerprint.add(shard.rows)
    return DatasetInfo(
        settings=settings,
        versions={name: importlib.metadata.version(name) for name in _VERSIONS_OF},
        fingerprint=str(fingerprint),
        totals=Totals(
            photos=count, kept=count, rejected={}, ignored={}, faces=count, bytes=sum(entry.bytes for entry in entries)
        ),
        shards=entries,
        photos_sha256=sha256_file(room / PHOTOS_FILE),
    )

"""Samples as a dataset on disk, in the format of ``facegan prep``."""

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
from facegan.files import TEMPORARY, atomic_dir, sha256_file
from facegan.nets.weights import FILE_NAME
from facegan.plugins import Trust
from facegan.sample.generate import (
    Pixels,
    in_threads,
    make_latents,
    open_generator,
    rebatch,
    sample_batches,
    save_png,
    tile,
)
from facegan.shards.dataset import DatasetWriter
from facegan.shards.format import GENERATED, PREVIEW_FILE, DatasetInfo, SampleRecord, sample_key, shard_name
from facegan.shards.images import encode_image
from facegan.shards.photos import SCHEMA
from facegan.shards.writer import ShardStats, ShardWriter

_SPLIT, _FORMAT = "train", "png"
_PREVIEWED = 64  # samples in preview.png
_VERSIONS_OF = ("facegan", "numpy", "pyarrow", "torch")


@dataclass(frozen=True)
class WrittenShard:
    """
    Attributes:
        rows: of its samples in photos.parquet.
        preview: its first images.
    """

    name: str
    stats: ShardStats
    rows: pa.Table
    preview: Pixels


def write_shards(
    run: Path,
    folder: Path,
    config: SampleConfig | None = None,
    *,
    device: str = "auto",
    console: Console | None = None,
    trust_code: Trust = False,
) -> DatasetInfo:
    """Write a dataset with the split ``train``, marked as generated in dataset.json's settings and in its cards. The
    folder appears once it is complete.

    A sample's ``sha256`` is that of its image, ``box`` and ``keypoints`` are empty, and ``quad`` is the whole image.
    The same generator, latents, device and versions give the same bytes. Memory does not grow with the number of
    samples.

    Raises:
        FaceganError: ``folder`` is not empty; otherwise as `write_grid`.
    """
    config = config or SampleConfig()
    generator = open_generator(run, device, trust_code)
    latents = make_latents(config, generator.spec)
    seeds, written = config.seed_list, list[WrittenShard]()
    with atomic_dir(folder) as staging, (console or Console(quiet=True)).progress(len(latents), "samples") as progress:

        def write(part: tuple[int, Pixels]) -> WrittenShard:
            first, images = part
            numbers = range(first, first + len(images))
            names = [f"sample-{i:06d}-seed-{seeds[i]}" if seeds else f"sample-{i:06d}" for i in numbers]
            return _write_shard(staging, first // config.shard_size, images, names)

        with in_threads(write, rebatch(sample_batches(generator, latents), config.shard_size)) as shards:
            for shard in shards:
                written.append(shard)
                progress.advance(shard.stats.samples)
        writer = DatasetWriter(staging)
        for shard in written:
            writer.add_shard(shard.name, _SPLIT, vars(shard.stats))
        writer.write_photos(shard.rows for shard in written)
        settings = {
            "size": generator.spec.size,
            "channels": generator.spec.channels,
            "format": _FORMAT,
            "shard_size": config.shard_size,
            GENERATED: _origin(run, config),
        }
        info = writer.info(settings, {name: importlib.metadata.version(name) for name in _VERSIONS_OF})
        save_png(staging / PREVIEW_FILE, tile(np.concatenate([shard.preview for shard in written])[:_PREVIEWED]))
        writer.write(info)
    return info


def _write_shard(folder: Path, number: int, images: Pixels, names: list[str]) -> WrittenShard:
    shard, rows = shard_name(_SPLIT, number), list[dict[str, Any]]()
    _, height, width, _ = images.shape
    quad = [[0.0, 0.0], [0.0, float(height)], [float(width), float(height)], [float(width), 0.0]]
    with ShardWriter(folder / shard, folder / f".{shard}{TEMPORARY}") as writer:
        for name, pixels in zip(names, images, strict=True):
            image = encode_image(pixels, _FORMAT)
            path = f"{name}.{_FORMAT}"
            key, sha256 = sample_key(path.encode()), hashlib.sha256(image).hexdigest()
            about = {"path": path, "sha256": sha256, "width": width, "height": height}
            writer.add(key, _FORMAT, image, SampleRecord(**about, quad=quad).to_json())
            row = {**about, "bytes": len(image), "outcome": "kept", "reason": "", "faces": 0, "scores": [], "box": []}
            rows.append({**row, "keys": [key], "split": _SPLIT, "shard": shard})
        stats = writer.commit(flushed=False)  # atomic_dir flushes all files together
    if stats is None:
        raise ValueError("a shard of no images")
    # A copy: a view would keep all pixels of the shard.
    preview = images[: _PREVIEWED if number == 0 else 0].copy()
    return WrittenShard(shard, stats, pa.Table.from_pylist(rows, schema=SCHEMA), preview)


def _origin(run: Path, config: SampleConfig) -> dict[str, Any]:
    """The generator and the latents of the samples, as checksums and numbers without paths."""
    return {
        "generator": sha256_file(run / FILE_NAME if run.is_dir() else run),
        "seed": config.seed,
        "seeds": config.seeds,
        "latents": sha256_file(Path(config.latents)) if config.latents else "",
    }

"""Samples as files: one picture, a folder of single images, or a dataset in the format of ``facegan prep``."""

from __future__ import annotations

import hashlib
import importlib.metadata
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from facegan.config import SampleConfig
from facegan.console import shown
from facegan.errors import SettingsError
from facegan.files import TEMPORARY, atomic_dir, make_folder, sha256_file
from facegan.nets import NetSpec
from facegan.nets.weights import FILE_NAME
from facegan.sample.generate import (
    Pixels,
    SampleRequest,
    in_threads,
    png_bytes,
    rebatch,
    refuse_large_picture,
    sample_batches,
    save_png,
    tile,
)
from facegan.sample.latents import Latents, make_latents
from facegan.shards.dataset import DatasetWriter
from facegan.shards.detections import SAMPLES
from facegan.shards.format import GENERATED, PREVIEW_FILE, DatasetInfo, SampleRecord, sample_key, shard_name
from facegan.shards.images import encode_image
from facegan.shards.photos import SCHEMA
from facegan.shards.writer import ShardStats, ShardWriter

_FILES_PER_TASK = 64
_SPLIT, _FORMAT = "train", "png"
_PREVIEWED = 64  # samples in preview.png
_VERSIONS_OF = ("facegan", "numpy", "pyarrow", "torch")


def grid_latents(config: SampleConfig, spec: NetSpec, step: Tensor | None = None) -> Latents:
    """Raises SettingsError if they do not fit the generator, or are too many for one picture."""
    latents = make_latents(config, spec, step=step)
    refuse_large_picture(latents.count, spec)
    return latents


def write_grid(request: SampleRequest, out: Path) -> int:
    """One picture with all samples, about square; returns their number."""
    generator = request.load()
    latents = grid_latents(request.config, generator.spec, request.step(generator.spec))
    make_folder(out.absolute().parent)
    save_png(out, tile(np.concatenate(list(sample_batches(generator, latents)))))
    return latents.count


def write_pictures(request: SampleRequest, folder: Path) -> int:
    """000000.png, 000001.png, … in a folder that appears once it is complete; returns their number.

    Memory does not grow with the number of samples.

    Raises:
        FaceganError: ``folder`` is not empty.
    """
    generator = request.load()
    latents = make_latents(request.config, generator.spec, step=request.step(generator.spec))
    with atomic_dir(folder) as staging, request.console.progress(latents.count, "samples") as progress:

        def write(part: tuple[int, Pixels]) -> int:
            first, pictures = part
            for number, picture in enumerate(pictures, first):
                (staging / f"{number:06d}.png").write_bytes(png_bytes(picture))
            return len(pictures)

        parts = rebatch(sample_batches(generator, latents), _FILES_PER_TASK)
        with closing(in_threads(write, parts)) as written:
            for count in written:
                progress.advance(count)
    return latents.count


def write_shards(request: SampleRequest, folder: Path) -> DatasetInfo:
    """A dataset with the split ``train``, marked as generated in dataset.json's settings and in its cards. The folder
    appears once it is complete.

    A sample's ``sha256`` is that of its image, ``box`` and ``keypoints`` are empty, ``quad`` is the whole image, and
    its attributes are those that it was drawn to have.
    The same generator, latents, device and versions give the same bytes. Memory does not grow with the number of
    samples.

    Raises:
        FaceganError: ``folder`` is not empty.
    """
    run, config, generator = request.run, request.config, request.load()
    digest = sha256_file(run / FILE_NAME if run.is_dir() else run)  # now: a training may replace the file
    latents = make_latents(config, generator.spec, step=request.step(generator.spec))
    seeds, rows = config.seed_list, list[pa.Table]()
    with atomic_dir(folder) as staging, request.console.progress(latents.count, "samples") as progress:

        def write(part: tuple[int, Pixels]) -> tuple[ShardStats, pa.Table]:
            first, images = part
            numbers = range(first, first + len(images))
            names = [f"sample-{i:06d}-seed-{seeds[i]}" if seeds else f"sample-{i:06d}" for i in numbers]
            if first == 0:
                save_png(staging / PREVIEW_FILE, tile(images[:_PREVIEWED]))
            columns = _attributes(generator.spec, latents.rows(first, len(images)))
            return _write_shard(staging, shard_name(_SPLIT, first // config.shard_size), images, names, columns)

        writer = DatasetWriter(staging)
        parts = rebatch(sample_batches(generator, latents), config.shard_size)
        with closing(in_threads(write, parts)) as shards:
            for stats, table in shards:
                writer.add_shard(_SPLIT, vars(stats))
                rows.append(table)
                progress.advance(stats.samples)
        writer.write_tables((table, None) for table in rows)
        settings = {
            "size": generator.spec.size,
            "channels": generator.spec.channels,
            "format": _FORMAT,
            "shard_size": config.shard_size,
            GENERATED: {  # checksums and numbers without paths
                "generator": digest,
                "seed": config.seed,
                "seeds": config.seeds,
                "latents": sha256_file(Path(config.latents)) if config.latents else "",
                **config.asked,
                **config.changes,
            },
        }
        info = writer.info(settings, {name: importlib.metadata.version(name) for name in _VERSIONS_OF})
        writer.write(info)
    return info


def _write_shard(
    folder: Path, shard: str, images: Pixels, names: list[str], columns: pa.Table
) -> tuple[ShardStats, pa.Table]:
    """Size and checksums of the shard, and its samples' rows of photos.parquet; ``columns``: their attributes."""
    rows = list[dict[str, Any]]()
    _, height, width, _ = images.shape
    quad = [[0.0, 0.0], [0.0, float(height)], [float(width), float(height)], [float(width), 0.0]]
    with ShardWriter(folder / shard, folder / f".{shard}{TEMPORARY}") as writer:
        for name, pixels, values in zip(names, images, columns.to_pylist() or [{}] * len(names), strict=True):
            attributes = {name: 2 * value - 1 if isinstance(value, bool) else value for name, value in values.items()}
            image, path = encode_image(pixels, _FORMAT), f"{name}.{_FORMAT}"
            key, sha256 = sample_key(path.encode()), hashlib.sha256(image).hexdigest()
            about = {"path": path, "sha256": sha256, "width": width, "height": height}
            writer.add(key, _FORMAT, image, SampleRecord(**about, quad=quad, attributes=attributes).to_json())
            row = {**about, "bytes": len(image), "outcome": "kept", "reason": "", "faces": 0, "scores": [], "box": []}
            rows.append({**row, "keys": [key], "duplicate_of": "", "identity": "", "split": _SPLIT, "shard": shard})
        stats = writer.commit(flushed=False)  # atomic_dir flushes all files together
    if stats is None:
        raise ValueError("a shard of no images")
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    for field, values in zip(columns.schema, columns.columns, strict=True):
        table = table.append_column(field, values)
    return stats, table


def _attributes(spec: NetSpec, inputs: Tensor) -> pa.Table:
    """Columns of the conditions that these samples are drawn for."""
    if not spec.condition:
        return pa.table({})
    if clash := {*map(str.lower, spec.condition.names)} & {*SAMPLES.names}:
        raise SettingsError(f"The generator's attribute {shown(min(clash))} is a column of every dataset. Use --dir.")
    values = spec.condition.values_of(inputs[:, spec.latent :])
    return pa.table(
        values if spec.condition.classes else {name: [v > 0 for v in column] for name, column in values.items()}
    )

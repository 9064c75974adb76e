"""Our batches beside webdataset's own pipeline over the same shards, with as many workers as we have threads."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from facegan.bench.pairs import Bench, in_pairs
from facegan.console import Console
from facegan.machine import usable_cpus
from facegan.shards.layout import DatasetInfo
from facegan.stream import FaceShards


def bench_stream(shards: Path, *, images: int, batch: int, workers: int | None, pairs: int, console: Console) -> Bench:
    """Decoding each time (``cache="off"``) beside webdataset; the rate from the cache stands in the notes."""
    workers = workers or usable_cpus()
    faces = FaceShards(shards)
    urls = [str(shards / entry.name) for entry in DatasetInfo.read(shards).split_shards("train")]
    workers = min(workers, len(urls))  # webdataset gives each worker whole shards
    rates = in_pairs(
        lambda: _ours(faces, "off", images, batch), lambda: _by_hand(urls, workers, images, batch), pairs, console
    )
    cached = _ours(faces, "ram", 20 * images, batch)
    what = f"batches of {batch}, {images:,} images of {faces.size}×{faces.size}, decoded each time"
    hand = f"webdataset's pipeline, {workers} workers"
    return Bench(what, hand, "images/s", *rates, {"from_ram": round(cached)})


def _ours(faces: FaceShards, cache: str, images: int, batch: int) -> float:
    batches = faces.batches(batch, cache=cache)
    next(batches)
    start, done = time.perf_counter(), 0
    while done < images:
        done += len(next(batches))
    rate = done / (time.perf_counter() - start)
    batches.close()
    return rate


def _to_tensor(image: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _by_hand(urls: list[str], workers: int, images: int, batch: int) -> float:
    from webdataset.compat import WebDataset, WebLoader

    pipeline: Any = WebDataset  # its fluid methods are added at run time
    faces = (
        pipeline(urls, shardshuffle=len(urls), empty_check=False)
        .shuffle(2000)
        .decode("rgb8")
        .to_tuple("png;jpg;webp")
        .map_tuple(_to_tensor)
        .batched(batch)
        .repeat()
    )
    loader = iter(WebLoader(faces, batch_size=None, num_workers=workers))
    next(loader)
    start, done = time.perf_counter(), 0
    while done < images:
        done += len(next(loader)[0])
    return done / (time.perf_counter() - start)

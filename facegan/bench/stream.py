"""Our batches against webdataset's pipeline over the same shards, with as many workers as we use threads."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from facegan.bench.baseline import Bench, interleaved
from facegan.console import Console
from facegan.errors import FaceganError
from facegan.shards.format import DATASET_FILE, DatasetInfo, shard_name
from facegan.stream import Batches, FaceShards
from facegan.system import usable_cpus

_CACHED = 20  # times as many images from a cache, which is faster
START_SAMPLES = 200_000
_CACHE_VARIABLE = "XDG_CACHE_HOME"


def bench_stream(shards: Path, *, images: int, batch: int, workers: int | None, pairs: int, console: Console) -> Bench:
    """First epochs against webdataset; other measurements are in the notes.

    Raises:
        DatasetError: ``shards`` is not a dataset.
        FaceganError: an isolated process failed.
    """
    with _own_cache():
        return _bench(shards, images, batch, workers or usable_cpus(), pairs, console)


@contextlib.contextmanager
def _own_cache() -> Iterator[None]:
    """An empty user cache, so that the user's neither helps nor changes."""
    before = os.environ.get(_CACHE_VARIABLE)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[_CACHE_VARIABLE] = folder
        try:
            yield
        finally:
            os.environ.pop(_CACHE_VARIABLE)
            if before is not None:
                os.environ[_CACHE_VARIABLE] = before


def _bench(shards: Path, images: int, batch: int, workers: int, pairs: int, console: Console) -> Bench:
    faces, info = FaceShards(shards), DatasetInfo.read(shards)
    urls = [str(shards / entry.name) for entry in info.split_shards("train")]
    their_workers = min(workers, len(urls))  # webdataset gives each worker whole shards
    # Untimed, as webdataset's start is: the first allocation of memory is slow.
    _first_epochs(faces, 1, batch, workers)
    rates = interleaved(
        lambda: _first_epochs(faces, images, batch, workers),
        lambda: _webdataset(urls, faces.channels, their_workers, images, batch),
        pairs,
        console,
    )
    kept = {kind: _later(faces, kind, images * (1 if kind == "off" else _CACHED), batch, workers) for kind in _KINDS}
    by_hand = sorted(rates[1])[len(rates[1]) // 2]
    notes: dict[str, Any] = {
        "batch": batch,
        **{f"{name}_images_per_second": round(kept[kind]) for kind, name in _KINDS.items()},
        "from_ram_ratio": round(kept["ram"] / by_hand, 1),
        **_isolated("start", shards, batch),
        **_isolated("memory", shards, batch),
        "torch": metadata.version("torch"),
        "webdataset": metadata.version("webdataset"),
    }
    what = f"batches of {batch} on the CPU, first epochs, {images:,} images or more of {faces.size}×{faces.size}"
    return Bench(what, f"webdataset's pipeline, {their_workers} workers", "images/s", *rates, notes)


_KINDS = {"off": "decoded_each_time", "ram": "from_ram"}


def _first_epochs(faces: FaceShards, images: int, batch: int, workers: int) -> float:
    """Whole epochs, each with an empty cache."""
    done, start = 0, time.perf_counter()
    while done < images:
        batches = faces.batches(batch, cache="ram", workers=workers)
        done += _take(batches, len(faces))
        batches.close()
    return done / (time.perf_counter() - start)


def _later(faces: FaceShards, cache: str, images: int, batch: int, workers: int) -> float:
    """Images per second after the first epoch."""
    batches = faces.batches(batch, cache=cache, workers=workers)
    _take(batches, 1 if cache == "off" else len(faces) + batch)
    start = time.perf_counter()
    rate = _take(batches, images) / (time.perf_counter() - start)
    batches.close()
    return rate


def _take(batches: Batches, images: int) -> int:
    done = 0
    while done < images:
        done += len(next(batches))
    return done


def _isolated(what: str, shards: Path, batch: int) -> dict[str, Any]:
    """A measurement in its own process, with its own user cache."""
    with tempfile.TemporaryDirectory() as cache:
        if what == "start":
            shards = _repeat_shards(shards, Path(cache) / "many")
            _run_isolated(what, shards, batch, cache)  # makes the index
        return _run_isolated(what, shards, batch, cache)


def _run_isolated(what: str, shards: Path, batch: int, cache: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "facegan.bench.isolated", what, str(shards), str(batch)]
    environment = {**os.environ, _CACHE_VARIABLE: cache}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise FaceganError(f"Measuring {what} failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return json.loads(done.stdout)


def _repeat_shards(shards: Path, folder: Path) -> Path:
    """A dataset of at least `START_SAMPLES` samples that links to the same shards repeatedly."""
    folder.mkdir()
    info = json.loads((shards / DATASET_FILE).read_bytes())
    entries = [entry for entry in info["shards"] if entry["split"] == "train"]
    listed: list[dict[str, Any]] = []
    samples = 0
    while samples < START_SAMPLES:
        entry = entries[len(listed) % len(entries)]
        name = shard_name("train", len(listed))
        (folder / name).symlink_to((shards / entry["name"]).resolve())
        listed.append({**entry, "name": name})
        samples += entry["samples"]
    (folder / DATASET_FILE).write_text(json.dumps({**info, "shards": listed}))
    return folder


def _to_tensor(image: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.array(np.atleast_3d(image).transpose(2, 0, 1), order="C"))


def _webdataset(urls: list[str], channels: int, workers: int, images: int, batch: int) -> float:
    from webdataset.compat import WebDataset, WebLoader

    pipeline: Any = WebDataset  # its methods are added at run time
    faces = (
        pipeline(urls, shardshuffle=len(urls), empty_check=False)
        .shuffle(2000)
        .decode("rgb8" if channels == 3 else "l8")
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

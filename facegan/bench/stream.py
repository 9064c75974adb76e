"""Our batches against webdataset's pipeline over the same shards, with as many workers as we use threads.

``python -m facegan.bench.stream start|memory SHARDS BATCH`` measures in a fresh process and prints JSON.
"""

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
from facegan.console import Console, counted, print_json
from facegan.errors import FaceganError
from facegan.shards.format import DATASET_FILE, DatasetInfo, shard_name
from facegan.stream import Batches, FaceShards
from facegan.system import kilobytes, proc_fields, usable_cpus

_CACHED = 20  # times as many images from a cache, which is faster
_CACHES = {"off": "decoded_each_time", "ram": "from_ram"}
START_SAMPLES = 200_000
MEMORY_STEPS = 5_000


def bench_stream(shards: Path, images: int, batch: int, workers: int | None, pairs: int, console: Console) -> Bench:
    """First epochs against webdataset; other measurements are in the notes."""
    threads = workers or usable_cpus()
    with _empty_cache():
        faces, info = FaceShards(shards, workers=threads), DatasetInfo.read(shards)
        urls = [str(shards / entry.name) for entry in info.split_shards("train")]
        their_workers = min(threads, len(urls))  # webdataset gives each worker whole shards
        # Untimed, as webdataset's start is: the first allocation of memory is slow.
        _first_epochs(faces, 1, batch)
        rates = interleaved(
            lambda: _first_epochs(faces, images, batch),
            lambda: _webdataset(urls, faces.channels, their_workers, images, batch),
            pairs,
            console,
        )
        counts = {"off": images, "ram": images * _CACHED}
        kept = {cache: _later(faces, cache, count, batch) for cache, count in counts.items()}
        with tempfile.TemporaryDirectory() as folder:
            many = str(_repeat_shards(shards, Path(folder) / "many"))
            _in_new_process("start", many, str(batch))  # makes the index
            start = _in_new_process("start", many, str(batch))
        memory = _in_new_process("memory", str(shards), str(batch))
    notes: dict[str, Any] = {
        "batch": batch,
        **{f"{name}_images_per_second": round(kept[cache]) for cache, name in _CACHES.items()},
        "from_ram_ratio": round(kept["ram"] / sorted(rates[1])[len(rates[1]) // 2], 1),
        **start,
        **memory,
        "torch": metadata.version("torch"),
        "webdataset": metadata.version("webdataset"),
    }
    what = f"batches of {batch} on the CPU, first epochs, {images:,} images or more of {faces.size}×{faces.size}"
    return Bench(what, f"webdataset's pipeline, {counted(their_workers, 'worker')}", "images/s", *rates, notes)


@contextlib.contextmanager
def _empty_cache() -> Iterator[None]:
    """The user's own cache neither helps nor changes; new processes inherit this one."""
    variable = "XDG_CACHE_HOME"
    before = os.environ.get(variable)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[variable] = folder
        try:
            yield
        finally:
            os.environ.pop(variable)
            os.environ |= {variable: before} if before is not None else {}


def _first_epochs(faces: FaceShards, images: int, batch: int) -> float:
    """Whole epochs, each with an empty cache."""
    done, start = 0, time.perf_counter()
    while done < images:
        with contextlib.closing(faces.batches(batch, cache="ram")) as batches:
            done += _take(batches, len(faces))
    return done / (time.perf_counter() - start)


def _later(faces: FaceShards, cache: str, images: int, batch: int) -> float:
    """Images per second after the first epoch."""
    with contextlib.closing(faces.batches(batch, cache=cache)) as batches:
        _take(batches, 1 if cache == "off" else len(faces) + batch)
        start = time.perf_counter()
        return _take(batches, images) / (time.perf_counter() - start)


def _take(batches: Batches, images: int) -> int:
    done = 0
    while done < images:
        done += len(next(batches))
    return done


def _in_new_process(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "facegan.bench.stream", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FaceganError(f"Measuring {arguments[0]} failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return json.loads(done.stdout)


def _start(shards: str, batch: int) -> dict[str, Any]:
    """Seconds from the imports to the first batch."""
    begin = time.perf_counter()
    faces = FaceShards(shards)
    opened = time.perf_counter() - begin
    with contextlib.closing(faces.batches(batch)) as batches:
        next(batches)
        seconds = time.perf_counter() - begin
    times = {"start_open_seconds": opened, "start_to_first_batch_seconds": seconds}
    return {"start_samples": len(faces)} | {name: round(value, 3) for name, value in times.items()}


def _memory(shards: str, batch: int) -> dict[str, Any]:
    """Memory of a RAM cache, and its growth over `MEMORY_STEPS` batches."""
    faces = FaceShards(shards)
    with contextlib.closing(faces.batches(batch, cache="off")) as warm:
        _take(warm, 20 * batch)
    faces.release()
    before = _resident()
    with contextlib.closing(faces.batches(batch, cache="ram")) as batches:
        _take(batches, 2 * len(faces) + 20 * batch)
        filled = _resident()
        _take(batches, MEMORY_STEPS * batch)
        after = _resident()
    return {
        "ram_bytes_a_face": round((filled - before) / len(faces)),
        "pixel_bytes_a_face": faces.size**2 * faces.channels,
        "memory_steps": MEMORY_STEPS,
        "memory_growth_percent": round(100 * (after / filled - 1), 3),
    }


def _resident() -> int:
    """Resident bytes of this process, including mapped shards. Linux only."""
    return kilobytes(proc_fields(Path("/proc/self/status"))["VmRSS"])


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


if __name__ == "__main__":
    print_json({"start": _start, "memory": _memory}[sys.argv[1]](sys.argv[2], int(sys.argv[3])))

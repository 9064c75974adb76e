"""Measurements in a fresh process: ``python -m facegan.bench.isolated start|memory SHARDS BATCH`` prints JSON."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from facegan.console import print_json
from facegan.stream import FaceShards

STEPS = 5_000


def start(shards: str, batch: int) -> dict[str, Any]:
    """Seconds from the imports to the first batch."""
    begin = time.perf_counter()
    faces = FaceShards(shards)
    opened = time.perf_counter() - begin
    batches = faces.batches(batch)
    next(batches)
    seconds = time.perf_counter() - begin
    batches.close()
    return {
        "start_samples": len(faces),
        "start_open_seconds": round(opened, 3),
        "start_to_first_batch_seconds": round(seconds, 3),
    }


def memory(shards: str, batch: int) -> dict[str, Any]:
    """Memory of a RAM cache, and its growth over `STEPS` batches."""
    faces = FaceShards(shards)
    warm = faces.batches(batch, cache="off")
    for _ in range(20):
        next(warm)
    warm.close()
    faces.release()
    before = _resident()
    batches = faces.batches(batch, cache="ram")
    for _ in range(2 * len(faces) // batch + 20):
        next(batches)
    filled = _resident()
    for _ in range(STEPS):
        next(batches)
    after = _resident()
    batches.close()
    return {
        "ram_bytes_a_face": round((filled - before) / len(faces)),
        "pixel_bytes_a_face": faces.size**2 * faces.channels,
        "memory_steps": STEPS,
        "memory_growth_percent": round(100 * (after / filled - 1), 3),
    }


def _resident() -> int:
    """Resident bytes of this process, including mapped shards. Linux only."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))


if __name__ == "__main__":
    print_json({"start": start, "memory": memory}[sys.argv[1]](sys.argv[2], int(sys.argv[3])))

"""What a dataset contains, in forms that tests compare."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from facegan.shards.images import decode_image
from facegan.shards.reader import Shard


def digest(out: Path) -> dict[str, str]:
    """SHA-256 of every file of a dataset but its bookkeeping."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file() and ".facegan" not in path.parts)
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rows(out: Path) -> list[dict]:
    return pq.read_table(out / "photos.parquet", use_threads=False).to_pylist()


def reasons(out: Path) -> dict[str, str]:
    """Path → reason for rejection, empty if kept."""
    return {row["path"]: row["reason"] for row in rows(out)}


def samples(shard_path: Path) -> list[tuple[np.ndarray, dict]]:
    """Pixels and JSON of each sample."""
    shard = Shard(shard_path)
    found = []
    for sample in shard.samples:
        pixels = decode_image(shard.read(sample.image))
        assert pixels is not None
        assert sample.meta is not None
        found.append((pixels, json.loads(bytes(shard.read(sample.meta)))))
    return found

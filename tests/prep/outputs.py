"""What a dataset contains, in forms that tests compare."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow.parquet as pq


def digest(out: Path) -> dict[str, str]:
    """SHA-256 of every file of a dataset but its bookkeeping."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file() and ".facegan" not in path.parts)
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rows(out: Path) -> list[dict]:
    return pq.read_table(out / "photos.parquet", use_threads=False).to_pylist()


def reasons(out: Path) -> dict[str, str]:
    """Path → reason for rejection, empty if kept."""
    return {row["path"]: row["reason"] for row in rows(out)}

"""What a chunk leaves on disk, and how a later run finds it: shard, rows, and last a marker.

Workers leave a chunk unflushed, with its marker under a temporary name, and take the next one; `commit` flushes the
files and gives the marker its name. So no worker waits for a disk.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from facegan.config import PrepConfig
from facegan.errors import DamagedFile
from facegan.faces.detect import Detector
from facegan.files import TEMPORARY, disk_errors, fsync, parsing, sha256_file
from facegan.prep.chunk import Chunk, Thumbnail, process_chunk
from facegan.prep.sources.base import Reader
from facegan.shards.writer import ShardStats

CHUNKS, REPAIRS = "chunks", "repairs"  # folders in .facegan; numbers start at 0 in both


@dataclass(frozen=True)
class ChunkWork:
    """A chunk, the digest of everything that decides its bytes, and its settings."""

    chunk: Chunk
    inputs: str
    config: PrepConfig


@dataclass(frozen=True)
class ChunkMarker:
    """A finished `ChunkResult`, without its rows, of which there may be millions: those stay on disk."""

    number: int
    inputs: str  # of the `ChunkWork`; a marker with other inputs is out of date
    photos: int
    kept: int
    faces: int
    rejected: dict[str, int]  # photographs by reason
    shard: ShardStats | None
    rejects: list[Thumbnail]
    crashes: list[str]
    rows_sha256: str
    no_decoder: int = 0
    unreachable: str = ""


@dataclass(frozen=True)
class ChunkOutcome:
    """A chunk that is ready to be committed."""

    chunk: ChunkMarker
    started: float  # seconds of the monotonic clock, which all processes of a machine share
    finished: float
    peak_bytes: int  # largest memory of its worker until then
    node: str = ""  # of a Ray cluster


_MARKER = TypeAdapter(ChunkMarker)


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.tar"


def rows_path(folder: Path, number: int) -> Path:
    """One JSON object per photograph and line: the columns of photos.parquet without ``split`` and ``shard``."""
    return folder / f"{number:06d}.jsonl"


def marker_path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.json"


def _uncommitted_marker_path(folder: Path, number: int) -> Path:
    return folder / f".{number:06d}.marker{TEMPORARY}"


def make_chunk(folder: Path, work: ChunkWork, reader: Reader, detector: Detector) -> ChunkMarker:
    """Make a chunk in ``folder``, ready to be committed. It replaces files of an earlier run."""
    number = work.chunk.number
    shard = shard_path(folder, number)
    with disk_errors(folder):
        marker_path(folder, number).unlink(missing_ok=True)  # a marker never refers to other files
        temporary = folder / f".{number:06d}.{os.getpid()}{TEMPORARY}"
        result = process_chunk(work.chunk, work.config, reader, detector, shard, temporary)
        if result.shard is None:
            shard.unlink(missing_ok=True)
    rows = "".join(json.dumps(vars(row), ensure_ascii=False) + "\n" for row in result.rows).encode()
    marker = ChunkMarker(
        number=number,
        inputs=work.inputs,
        photos=len(result.rows),
        kept=sum(row.outcome == "kept" for row in result.rows),
        faces=sum(len(row.keys) for row in result.rows),
        rejected=dict(Counter(row.reason for row in result.rows if row.reason)),
        rows_sha256=hashlib.sha256(rows).hexdigest(),
        **{name: value for name, value in vars(result).items() if name != "rows"},
    )
    _write_uncommitted(folder, marker, rows)
    return marker


def import_chunk(folder: Path, marker: ChunkMarker, shard: bytes | None, rows: bytes) -> None:
    """Write a chunk that was made elsewhere to ``folder``, ready to be committed."""
    with disk_errors(folder):
        marker_path(folder, marker.number).unlink(missing_ok=True)
        shard_path(folder, marker.number).unlink(missing_ok=True)
        if shard is not None:
            shard_path(folder, marker.number).write_bytes(shard)
    _write_uncommitted(folder, marker, rows)


def _write_uncommitted(folder: Path, marker: ChunkMarker, rows: bytes) -> None:
    with disk_errors(folder):
        rows_path(folder, marker.number).write_bytes(rows)
        _uncommitted_marker_path(folder, marker.number).write_bytes(json.dumps(asdict(marker)).encode())


def commit(folder: Path, marker: ChunkMarker) -> None:
    """Flush a chunk's files to disk, then give its marker its name: a power cut leaves all of the chunk or nothing."""
    uncommitted = _uncommitted_marker_path(folder, marker.number)
    with disk_errors(folder):
        if marker.shard:
            fsync(shard_path(folder, marker.number))
        fsync(rows_path(folder, marker.number))
        fsync(uncommitted)
        uncommitted.replace(marker_path(folder, marker.number))
        fsync(folder)


def committed(folder: Path, number: int, inputs: str) -> ChunkMarker | None:
    """The chunk as an earlier run made it from the same inputs; None if it must be made (again)."""
    marker = marker_path(folder, number)
    try:
        with parsing(marker):
            found = _MARKER.validate_json(marker.read_bytes())
        if found.inputs != inputs or sha256_file(rows_path(folder, number)) != found.rows_sha256:
            return None
        if found.shard and shard_path(folder, number).stat().st_size != found.shard.bytes:
            return None
    except (OSError, DamagedFile):
        return None
    return found

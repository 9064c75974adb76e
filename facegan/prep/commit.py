"""What a finished chunk leaves among the chunks, and how a later start finds it: shard, rows, and last a marker.

Workers leave a chunk unflushed, its marker under a temporary name, and take the next; `commit` flushes all that and
gives the marker its name. So no worker waits for a disk.
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
from facegan.files import TEMPORARY, disk_errors, fsync, parsing, read_json, sha256_file
from facegan.prep.chunk import Chunk, ChunkResult, Thumbnail, process_chunk
from facegan.prep.sources.base import Reader
from facegan.shards.writer import ShardStats

CHUNKS, REPAIRS = "chunks", "repairs"  # folders of them, in a dataset's state folder; both count from 0


@dataclass(frozen=True)
class ChunkWork:
    """A chunk, and the digest of all that its bytes follow from."""

    chunk: Chunk
    inputs: str


@dataclass(frozen=True)
class ChunkMarker:
    """A chunk's marker: its counts and sums. The rows stay on disk, for there may be millions.

    Attributes:
        number: the chunk's.
        inputs: of the `ChunkWork`; a marker with another one is of no use.
        kept: photographs that gave samples.
        rejected: photographs by reason.
        shard: None where nothing was kept.
        rejects: for the preview.
        crashes: faults of our own.
        rows_sha256: of the file of rows.
        no_decoder: photographs of a format that no installed library decodes.
        unreachable: why the first photograph could not be had that could not.
    """

    number: int
    inputs: str
    photos: int
    kept: int
    faces: int
    rejected: dict[str, int]
    shard: ShardStats | None
    rejects: list[Thumbnail]
    crashes: list[str]
    rows_sha256: str
    no_decoder: int = 0
    unreachable: str = ""


@dataclass(frozen=True)
class ChunkOutcome:
    """A chunk that is ready to be committed, and what it took.

    Times are by the system's monotonic clock, which all processes of a machine share; ``peak_bytes`` is the most memory
    that its worker has used until then.
    """

    chunk: ChunkMarker
    started: float
    finished: float
    peak_bytes: int
    node: str = ""


_COMMITTED = TypeAdapter(ChunkMarker)


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.tar"


def rows_path(folder: Path, number: int) -> Path:
    """A JSON object a line, for every photograph one: the columns of photos.parquet but ``split`` and ``shard``."""
    return folder / f"{number:06d}.jsonl"


def marker_path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.json"


def make_chunk(folder: Path, work: ChunkWork, config: PrepConfig, reader: Reader, detector: Detector) -> ChunkMarker:
    """Processes a chunk and leaves it in ``folder``, to be committed; what an earlier run left there is replaced."""
    number = work.chunk.number
    shard, marker = shard_path(folder, number), marker_path(folder, number)
    temporary = folder / f".{number:06d}.{os.getpid()}{TEMPORARY}"
    with disk_errors(folder):
        marker.unlink(missing_ok=True)  # a marker never stands beside a shard or rows that are not its own
        result = process_chunk(work.chunk, config, reader, detector, shard, temporary)
        if result.shard is None:
            shard.unlink(missing_ok=True)
    rows = "".join(json.dumps(vars(row), ensure_ascii=False) + "\n" for row in result.rows).encode()
    done = _summary(work, result, hashlib.sha256(rows).hexdigest())
    _write_uncommitted(folder, done, rows)
    return done


def import_chunk(folder: Path, done: ChunkMarker, shard: bytes | None, rows: bytes) -> None:
    """Leaves a chunk that was made elsewhere in ``folder``, to be committed."""
    marker, path = marker_path(folder, done.number), shard_path(folder, done.number)
    with disk_errors(folder):
        marker.unlink(missing_ok=True)
        if shard is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(shard)
    _write_uncommitted(folder, done, rows)


def _write_uncommitted(folder: Path, done: ChunkMarker, rows: bytes) -> None:
    with disk_errors(folder):
        rows_path(folder, done.number).write_bytes(rows)
        _uncommitted(folder, done.number).write_bytes(json.dumps(asdict(done)).encode())


def _uncommitted(folder: Path, number: int) -> Path:
    """A marker that does not count yet."""
    return folder / f".{number:06d}.marker{TEMPORARY}"


def commit(folder: Path, done: ChunkMarker) -> None:
    """Makes a chunk that was left in ``folder`` outlive a power cut, and only then marks it."""
    marker = _uncommitted(folder, done.number)
    with disk_errors(folder):
        if done.shard:
            fsync(shard_path(folder, done.number))
        fsync(rows_path(folder, done.number))
        fsync(marker)
        marker.replace(marker_path(folder, done.number))
        fsync(folder)


def _summary(work: ChunkWork, result: ChunkResult, rows_sha256: str) -> ChunkMarker:
    return ChunkMarker(
        number=work.chunk.number,
        inputs=work.inputs,
        photos=len(result.rows),
        kept=sum(row.outcome == "kept" for row in result.rows),
        faces=sum(len(row.keys) for row in result.rows),
        rejected=dict(Counter(row.reason for row in result.rows if row.reason)),
        shard=result.shard,
        rejects=result.rejects,
        crashes=result.crashes,
        rows_sha256=rows_sha256,
        no_decoder=result.no_decoder,
        unreachable=result.unreachable,
    )


def committed(folder: Path, number: int, inputs: str) -> ChunkMarker | None:
    """What an earlier run made of a chunk with these inputs, or None where it must be done (again)."""
    try:
        with parsing(marker_path(folder, number)):
            found = _COMMITTED.validate_python(read_json(marker_path(folder, number)))
        if found.inputs != inputs or sha256_file(rows_path(folder, number)) != found.rows_sha256:
            return None
        if found.shard and shard_path(folder, number).stat().st_size != found.shard.bytes:
            return None
    except (OSError, DamagedFile):
        return None
    return found

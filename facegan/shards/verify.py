"""Is the dataset on disk the one that dataset.json tells of?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from facegan.console import Console
from facegan.errors import DatasetError
from facegan.files import sha256_file
from facegan.shards.index import Shard
from facegan.shards.layout import DATASET_FILE, PHOTOS_FILE, DatasetInfo, ShardEntry
from facegan.shards.photos import read_columns


@dataclass(frozen=True)
class Problem:
    """One thing that does not hold. ``shard`` is the file's name."""

    shard: str
    problem: str


@dataclass(frozen=True)
class Verification:
    """What `verify` found. ``ok`` where nothing is wrong."""

    shards: int
    samples: int
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(folder: Path, console: Console | None = None) -> Verification:
    """Checks every checksum and count of a dataset, and that dataset.json, tars and photos.parquet agree.

    Raises:
        DatasetError: dataset.json itself is missing or can't be read.
    """
    info = DatasetInfo.read(folder)
    problems: list[Problem] = []
    keys: dict[str, list[str]] = {}
    with (console or Console(quiet=True)).progress(len(info.shards), "shards") as progress:
        for entry in info.shards:
            try:
                keys[entry.name] = _check_shard(folder / entry.name, entry)
            except DatasetError as error:
                problems.append(Problem(entry.name, str(error)))
            progress.advance(1)
    listed = {entry.name for entry in info.shards}
    problems += [
        Problem(path.name, f"The shard {path} is not listed in {DATASET_FILE}.")
        for path in sorted(folder.glob("*-*.tar"))
        if path.name not in listed
    ]
    problems += [Problem(PHOTOS_FILE, text) for text in _check_photos(folder, info, keys)]
    return Verification(len(info.shards), sum(map(len, keys.values())), tuple(problems))


def _check_shard(path: Path, entry: ShardEntry) -> list[str]:
    """The shard's keys.

    Raises:
        DatasetError: what is wrong with it.
    """
    if not path.is_file():
        raise DatasetError(f"The shard {path} is missing.")
    size = path.stat().st_size
    if size != entry.bytes:
        raise DatasetError(f"The shard {path} has {size:,} bytes; {DATASET_FILE} says {entry.bytes:,}.")
    if sha256_file(path) != entry.sha256:
        raise DatasetError(f"The shard {path} was altered: its SHA-256 is not that of {DATASET_FILE}.")
    shard = Shard(path)
    keys = [sample.key for sample in shard.samples]
    shard.close()
    if len(keys) != entry.samples:
        raise DatasetError(f"The shard {path} holds {len(keys)} samples; {DATASET_FILE} says {entry.samples}.")
    if len(set(keys)) != len(keys):
        raise DatasetError(f"The shard {path} holds a key twice.")
    return keys


def _check_photos(folder: Path, info: DatasetInfo, keys: dict[str, list[str]]) -> list[str]:
    path = folder / PHOTOS_FILE
    if not path.is_file():
        return [f"{path} is missing."]
    if sha256_file(path) != info.photos_sha256:
        return [f"{path} was altered: its SHA-256 is not that of {DATASET_FILE}."]
    problems = []
    rows = read_columns(path, ["outcome", "keys", "shard"]).to_pylist()
    outcomes = [row["outcome"] for row in rows]
    if len(rows) != info.totals.photos or outcomes.count("kept") != info.totals.kept:
        problems.append(
            f"{path} has {len(rows)} photographs, {outcomes.count('kept')} of them kept; "
            f"{DATASET_FILE} says {info.totals.photos} and {info.totals.kept}."
        )
    told: dict[str, list[str]] = {}
    for row in rows:
        if row["keys"]:
            told.setdefault(row["shard"], []).extend(row["keys"])
    problems += [
        f"{path} and the shard {name} do not hold the same keys."
        for name in keys
        if sorted(told.get(name, [])) != sorted(keys[name])
    ]
    return problems

"""What was made from a dataset, found by the fingerprints and checksums that files record of their origin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from facegan.errors import DatasetError, SettingsError
from facegan.files import sha256_file
from facegan.run_dir import RECORD, read_facts
from facegan.shards.format import DATASET_FILE, GENERATED, DatasetInfo

SELECTED = "selected"  # entry of dataset.json's settings: the condition, and the datasets it was applied to
_Record = tuple[str, Path, list[Any], Callable[[], set[str]]]


def made_from(folder: Path, is_origin: Callable[[str], bool]) -> list[dict[str, str]]:
    """``kind`` and ``path`` of runs, exports, and datasets of samples or selected faces below a folder: made from
    datasets whose fingerprints are origins, made from those, and so on. Single pictures have no record."""
    if not folder.is_dir():
        raise SettingsError(f"--runs {folder} is not a folder. Name the one with your runs, samples and exports.")
    left, found, digests = list(_records(folder)), list[dict[str, str]](), set[str]()
    while new := [one for one in left if any(text in digests or is_origin(text) for text in map(str, one[2]))]:
        found += [{"kind": kind, "path": str(path)} for kind, path, *_ in new]
        digests = digests.union(*(results() for *_, results in new))
        left = [one for one in left if one not in new]
    return sorted(found, key=lambda made: (made["kind"], made["path"]))


def _records(folder: Path) -> Iterator[_Record]:
    """Kind and folder, digests of the origins, and those by which other records name it."""
    for path in folder.rglob("*.json"):
        where, facts = path.parent, read_facts(path)
        if path.name == RECORD:
            origins = [_at(facts, "dataset", "fingerprint"), _at(facts, "init", "sha256")]
            yield "run", where, origins, lambda run=where: set(map(sha256_file, run.rglob("*.safetensors")))
        elif path.name == "config.json":
            yield "export", where, [_at(facts, "files", "generator.safetensors", "sha256")], set
        elif path.name == DATASET_FILE:
            with suppress(DatasetError):  # StyleGAN's has that name too
                info = DatasetInfo.read(where)
                results = {info.fingerprint, *(info.faces_fingerprints(split)[-1] for split in info.splits)}
                chosen, drawn = _at(info.settings, SELECTED, "from"), _at(info.settings, GENERATED, "generator")
                kind, origins = ("selection", chosen) if isinstance(chosen, list) else ("samples", [drawn])
                yield kind, where, origins, lambda found=results: found


def _at(facts: Any, *names: str) -> Any:
    """The value at ``names`` in nested objects; None if there is none."""
    for name in names:
        facts = facts.get(name) if isinstance(facts, dict) else None
    return facts

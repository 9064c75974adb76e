"""Which split a photograph belongs to: by a data set's own numbers, by the source, or by a hash of its path."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from facegan.console import shown
from facegan.errors import SettingsError, SourceError
from facegan.manifests import known_datasets, split_of
from facegan.shards.layout import SPLITS, readable_path

SplitOf = Callable[[bytes, str], str]  # path in the dataset, the source's own part → split


def shares(setting: str) -> tuple[float, ...] | None:
    """``"0.9,0.05,0.05"`` → the shares of train, val and test; None for a split by name.

    Raises:
        SettingsError: numbers that are no shares.
    """
    if not any(character.isdigit() for character in setting):
        return None
    try:
        found = tuple(float(part) for part in setting.split(","))
    except ValueError:
        found = ()
    if not 2 <= len(found) <= 3 or not all(0 <= share <= 1 for share in found) or abs(sum(found) - 1) > 1e-6:
        raise SettingsError(f"--split {setting}: shares are two or three numbers of sum 1, such as 0.9,0.05,0.05.")
    return found


def splitter(setting: str) -> SplitOf:
    """The rule behind ``--split``."""
    parts = shares(setting)
    if parts is not None:
        return lambda path, _: by_hash(path, parts)
    if setting == "source":
        return _by_source
    if setting == "celeba":
        return _by_celeba
    return lambda path, part: "train"


def by_hash(path: bytes, parts: tuple[float, ...]) -> str:
    """The path's SHA-256 as a number in [0, 1), laid along the shares: the same whatever photographs are added."""
    at = int.from_bytes(hashlib.sha256(path).digest()[:8]) / 2**64
    for split, part in zip(SPLITS, parts, strict=False):
        if at < part:
            return split
        at -= part
    return SPLITS[len(parts) - 1]


def _by_source(path: bytes, part: str) -> str:
    if part not in SPLITS:
        raise SourceError(
            f"--split source: the source does not say whether {shown(readable_path(path))} is for train, val or test.\n"
            f"Choose shares, such as --split 0.9,0.05,0.05."
        )
    return part


def _by_celeba(path: bytes, part: str) -> str:
    return split_of(known_datasets()["celeba-aligned"], path)

"""Lists about photographs, CelebA's of attributes and of the split and that of --identity; and the rules of --split."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from facegan.console import shown
from facegan.errors import SettingsError, SourceError
from facegan.files import human_bytes
from facegan.manifests import known_datasets, split_of
from facegan.prep.attributes import AttributeList
from facegan.prep.photo_index import PhotoIndex
from facegan.prep.sources.base import ATTRIBUTES_FILES, MultiSource, Source, read_split, source_errors
from facegan.prep.sources.parquet import Table
from facegan.shards.format import SPLITS, has_photo_suffix, readable_path

ATTRIBUTES, SPLIT = "--attributes", "--split source"  # options that a list can stand for
_MAX_BYTES = 64 << 20  # CelebA's own have up to 27 MB


@dataclass
class Lists:
    """Which lists of a source a run uses."""

    uses: dict[str, str] = field(default_factory=dict)  # path in the source → "used as …", or "not used: …" and why
    options: set[str] = field(default_factory=set)  # that they stand for
    sha256: str = ""  # of the list of attributes

    @classmethod
    def use(cls, source: Source, index: PhotoIndex, wanted: Collection[str], unpacked: Callable[[], Source]) -> Lists:
        """Gives the photographs of an index the attributes and parts that lists in its source have for them.

        A list is used if it has a line for every new photograph; of several, the one nearest to the top. Lists in
        several archives are not looked for. Raises SourceError if the source cannot be read.

        ``wanted``: ``ATTRIBUTES``, ``SPLIT`` or both. ``unpacked`` gives the source for random access.
        """
        lists, found = cls(), sorted(index.ignored.lists.values(), key=lambda e: (e.name.count(b"/"), e.name))
        if not found or not wanted or isinstance(source, MultiSource):
            return lists
        with source_errors(source.where), contextlib.closing(unpacked().reader()) as reader:
            for entry in found:
                option = ATTRIBUTES if entry.name.endswith(ATTRIBUTES_FILES) else SPLIT
                if option in wanted and option not in lists.options:
                    path = shown(readable_path(entry.name))
                    try:
                        if entry.size > _MAX_BYTES:
                            raise SourceError(f"it has more than {human_bytes(_MAX_BYTES)}.")
                        lists._take(option, path, reader.read(entry), index)
                        lists.uses[path] = f"used as with {option}"
                    except (SourceError, OSError) as error:
                        lists.uses[path] = f"not used: {str(error).rstrip('.')}"
        return lists

    def take_columns(self, source: Table, index: PhotoIndex) -> None:
        """Those of a Parquet source that are attributes."""
        with source_errors(source.where):
            attributes, left_out = source.attributes()
        for why in sorted({*left_out.values()}):
            names = [shown(name) for name, problem in left_out.items() if problem == why]
            self.uses[f"columns {', '.join(names)}"] = f"not used as attributes: {why}"
        if names := attributes.values.column_names:
            index.set_attributes(attributes)
            self.uses[f"columns {', '.join(map(shown, names))}"] = f"used as with {ATTRIBUTES}"
            self.options, self.sha256 = self.options | {ATTRIBUTES}, attributes.sha256

    def _take(self, option: str, path: str, data: bytes, index: PhotoIndex) -> None:
        """Raises SourceError if the list is damaged or lacks a photograph."""
        rows = io.BytesIO(data)
        if attributes := AttributeList.read(path, rows) if option == ATTRIBUTES else None:
            missing = index.set_attributes(attributes)[1]
        else:
            missing = index.set_listed("part", read_split(rows, path))
        if missing:
            raise SourceError(f"it has no line for {shown(missing)}.")
        self.options.add(option)
        self.sha256 = attributes.sha256 if attributes else self.sha256


def read_identities(where: str) -> dict[bytes, str]:
    """Paths or file names, and whom they show: CelebA's identity_CelebA.txt (``000001.jpg 2880``), or a CSV of both.

    A first line without a photograph names the columns; an empty person is unknown. Raises SourceError for other files.
    """
    try:
        lines = Path(where).read_bytes().decode("utf-8-sig", "surrogateescape").split("\n")
        rows = list(csv.reader(lines)) if "," in lines[0] else [line.rsplit(maxsplit=1) for line in lines]
    except (OSError, csv.Error) as error:
        why = f"{where} cannot be read ({error})"
        raise SourceError(f"{why}. --identity takes identity_CelebA.txt, or a CSV of path and person.") from None
    found: dict[bytes, str] = {}
    for number, row in enumerate(rows, 1):
        both = row if len(row) == 2 else ("", "")
        path, person = (part.strip().encode("utf-8", "surrogateescape") for part in both)
        if not row or (number == 1 and path and not has_photo_suffix(path)):
            continue
        if not path:
            raise SourceError(f"Line {number} of {where} must have a path and a person.")
        if found.setdefault(path, readable_path(person)) != readable_path(person):
            raise SourceError(f"Line {number} of {where} has another person for {shown(readable_path(path))}.")
    if not found:
        raise SourceError(f"{where} names no photograph. --identity takes identity_CelebA.txt, or a CSV of both.")
    return found


# --split: by CelebA's own numbers, by the source's own parts, or by a hash of the path or of the person.


def shares(setting: str) -> tuple[float, ...] | None:
    """``"0.9,0.05,0.05"`` → shares of train, val and test; None for a split by name."""
    if not any(character.isdigit() for character in setting):
        return None
    try:
        found = tuple(float(part) for part in setting.split(","))
    except ValueError:
        found = ()
    if not 2 <= len(found) <= 3 or not all(0 <= share <= 1 for share in found) or abs(sum(found) - 1) > 1e-6:
        raise SettingsError(f"--split {setting} is invalid. Shares are two or three numbers of sum 1: 0.9,0.05,0.05.")
    return found


def splitter(setting: str) -> Callable[[bytes, str], str]:
    """The rule behind ``--split``: path in the dataset, the source's own part → split."""
    parts = shares(setting)
    if parts is not None:
        return lambda path, _: by_hash(path, parts)
    if setting == "source":
        return _by_source
    if setting == "celeba":
        return lambda path, _: split_of(known_datasets()["celeba-aligned"], path)
    return lambda path, _: "train"


def by_hash(path: bytes, parts: tuple[float, ...]) -> str:
    """The path's SHA-256 as a number in [0, 1), compared with the cumulated shares. Other photographs do not matter."""
    at = int.from_bytes(hashlib.sha256(path).digest()[:8]) / 2**64
    for split, part in zip(SPLITS, parts, strict=False):
        if at < part:
            return split
        at -= part
    return SPLITS[len(parts) - 1]


def _by_source(path: bytes, part: str) -> str:
    if part not in SPLITS:
        raise SourceError(
            f"--split source: the source does not say if {shown(readable_path(path))} is for train, val or test.\n"
            f"Choose shares, such as --split 0.9,0.05,0.05."
        )
    return part

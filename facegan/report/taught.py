"""What a run was trained on, as far as it can still be looked at from here."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facegan.errors import DatasetError
from facegan.manifests import completeness, known_datasets
from facegan.remote import is_url
from facegan.report.pictures import Picture, picture_file
from facegan.report.runs import Run
from facegan.shards.layout import DATASET_FILE, PREVIEW_FILE, DatasetInfo

_MEANINGS = {
    "unreadable": "no image, or a damaged one",
    "truncated": "rows are missing",
    "too_large": "over the limit of pixels",
    "too_small": "smaller than its crop",
    "no_face": "no face was found",
    "low_score": "a face, but an uncertain one",
    "bad_keypoints": "eyes and mouth in no order that a face has",
    "several_faces": "more than one face",
    "off_edge": "too much of the crop lies outside",
    "blurry": "less sharp than asked for",
    "duplicate": "the same file as another",
    "unreachable": "its server stayed away",
    "crashed": "its decoder died of it",
}
_SETTINGS = ("size", "channels", "crop", "margin", "detector", "faces", "min_score", "split")


@dataclass(frozen=True)
class Taught:
    """The dataset of a run.

    Attributes:
        path: as the run was told it; "" for faces in memory.
        why: why no more can be said than what run.json tells; "" where all can.
        rejected: reason, meaning and count, the most frequent first.
        terms: what may be done with the photographs, where facegan knows them.
    """

    path: str
    faces: int
    size: int
    channels: int
    why: str = ""
    photos: int = 0
    kept: int = 0
    rejected: list[tuple[str, str, int]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    of: str = ""
    terms: str = ""
    preview: Picture | None = None

    @property
    def name(self) -> str:
        return Path(self.path).name or "faces in memory"


def taught(run: Run) -> Taught:
    told = run.record["dataset"]
    found: dict[str, Any] = {name: told[name] for name in ("path", "faces", "size", "channels") if name in told}
    found = {"channels": 3, **found}
    path = str(told["path"])
    info, why = _dataset(path)
    if info is None:
        return Taught(**found, why=why)
    if not _is_same(info, told["fingerprint"]):
        why = f"{path} has changed since this run began: what stands there now is another dataset."
        return Taught(**found, why=why)
    known = known_datasets().get(info.data_set)
    rejected = sorted(((count, reason) for reason, count in info.totals.rejected.items() if count), reverse=True)
    return Taught(
        **found,
        photos=info.totals.photos,
        kept=info.totals.kept,
        rejected=[(reason, _MEANINGS.get(reason, ""), count) for count, reason in rejected],
        settings={name: info.settings[name] for name in _SETTINGS if name in info.settings},
        of=completeness(known, info.totals.photos) if known else "",
        terms=known.terms if known else "",
        preview=picture_file(Path(path) / PREVIEW_FILE),
    )


def _dataset(path: str) -> tuple[DatasetInfo | None, str]:
    if not path:
        return None, "The faces lay in memory: nothing more is known of them."
    if is_url(path) or not _is_file(Path(path) / DATASET_FILE):
        return None, f"{path} can’t be looked at from here, so what was kept and rejected is not shown."
    try:
        return DatasetInfo.read(Path(path)), ""
    except DatasetError as error:
        return None, str(error)


def _is_file(path: Path) -> bool:
    with suppress(OSError):  # of a name that no file can have
        return path.is_file()
    return False


def _is_same(info: DatasetInfo, fingerprint: str) -> bool:
    """Whether one of its splits is what the run saw, whose fingerprint is of the shards' sums."""
    for split in info.splits:
        sums = "".join(shard.sha256 for shard in info.split_shards(split))
        if fingerprint in (hashlib.sha256(f"{sums}{end}".encode()).hexdigest() for end in ("", " 1")):
            return True
    return False

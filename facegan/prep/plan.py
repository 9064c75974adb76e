"""What is to be done: which photographs are new, how they are cut into chunks, and whether settings agree."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegan.config import PrepConfig
from facegan.errors import DatasetError, ModelError, SettingsError, SourceError
from facegan.faces.detectors import check_detector
from facegan.faces.models import cache_folder, check_model, find_model, known_models, resolve_model
from facegan.files import sha256_file
from facegan.prep.chunk import Chunk
from facegan.prep.commit import Work
from facegan.prep.sources import Entry, Listing, Source, common_folder
from facegan.shards.layout import PHOTO_SUFFIXES, PHOTOS_FILE, DatasetInfo, readable_path
from facegan.shards.photos import read_known

_MODELS_OF = {"mediapipe": ("short", "full"), "mediapipe-short": ("short",), "mediapipe-full": ("full",)}
_VERSIONS_OF = ("facegan", "mediapipe", "numpy", "opencv-contrib-python", "pillow", "pyarrow", "simplejpeg")


@dataclass(frozen=True)
class Plan:
    """What one run adds to a dataset."""

    before: DatasetInfo | None
    settings: dict[str, Any]
    versions: dict[str, str]
    models: tuple[Path, ...]
    found: int  # photographs in the source, --limit taken into account
    gone: list[str]  # accounted for, but no longer in the source
    ignored: dict[str, int]
    fingerprint: str
    work: tuple[Work, ...]

    @property
    def new(self) -> int:
        return sum(len(work.chunk.entries) for work in self.work)


def find_models(config: PrepConfig, model: Path | None, fetch: bool = True) -> tuple[Path, ...]:
    """The detector models a run needs, each checked where facegan knows its sum; none but for MediaPipe's detectors.

    Args:
        fetch: get those that are missing; else only say where they will lie.
    """
    if config.detector not in _MODELS_OF:
        if model is not None:
            raise SettingsError(f"--model {model} is for MediaPipe: leave it out with --detector {config.detector}.")
        check_detector(config)
        return ()
    known = known_models()
    if model is None:
        wanted = [known[name] for name in _MODELS_OF[config.detector]]
        return tuple(resolve_model(m) if fetch else find_model(m) or cache_folder() / m.file for m in wanted)
    if not model.is_file():
        raise ModelError(f"There is no model {model}. See: facegan models")
    for entry in known.values():
        if entry.file == model.name:
            check_model(model, entry)
    return (model,)


def effective_settings(config: PrepConfig, models: tuple[Path, ...]) -> dict[str, Any]:
    """The settings that change bytes, as dataset.json holds them."""
    sums = {model.file: model.sha256 for model in known_models().values()}
    # By the manifest where facegan knows them: those were checked, or are still to be fetched.
    return {**config.model_dump(), "models": [sums.get(model.name) or sha256_file(model) for model in models]}


def check_settings(old: dict[str, Any], new: dict[str, Any], out: Path) -> None:
    """
    Raises:
        DatasetError: names the first setting that differs, both values, and the way out.
    """
    old = {name: PrepConfig.default(name) for name in PrepConfig.model_fields} | old  # made before a setting was there
    for name in [*new, *(name for name in old if name not in new)]:
        if old.get(name) != new.get(name):
            option = "--" + name.replace("_", "-").replace("models", "model")
            raise DatasetError(
                f"{out} was made with {option} {_short(old.get(name))}, and this is {option} {_short(new.get(name))}.\n"
                f"Choose another folder, or make it anew (what is in it is deleted) with --force."
            )


def _short(value: Any) -> str:
    return ", ".join(item[:12] for item in value) if isinstance(value, list) else str(value)


def list_photographs(source: Source) -> Listing:
    """
    Raises:
        SourceError: there are none.
    """
    listing = source.list()
    if not listing.entries:
        raise SourceError(_no_photographs(source.path, listing))
    return listing


def make_plan(
    listing: Listing,
    out: Path,
    config: PrepConfig,
    models: tuple[Path, ...],
    before: DatasetInfo | None,
    limit: int | None,
) -> Plan:
    """Finds what of the source the dataset does not hold yet.

    Raises:
        SourceError: a new photograph lies outside the folder which the first prep fixed.
        DatasetError: a photograph has changed since it was added.
    """
    known = _read_known(out) if before else {}
    root = _root(listing, known)
    found = [_below(root, entry) for entry in listing.entries][:limit]
    new = []
    for path, entry in found:
        text = readable_path(path)
        if text not in known:
            new.append((path, entry))
        elif known[text] != entry.size:
            raise DatasetError(
                f"{text} has changed since it was added to {out}: {known[text]:,} bytes then, {entry.size:,} now.\n"
                f"Put the old one back, give the new one another name, or make the dataset anew with --force."
            )
    everything = {readable_path(entry.name.removeprefix(root)) for entry in listing.entries}
    settings, versions = effective_settings(config, models), library_versions()
    sizes = {**known, **{readable_path(path): entry.size for path, entry in new}}
    return Plan(
        before=before,
        settings=settings,
        versions=versions,
        models=models,
        found=len(found),
        gone=[path for path in known if path not in everything],
        ignored=dict(sorted(listing.ignored.items())),
        fingerprint=_digest(sorted(sizes.items())),
        work=tuple(_cut(new, config.shard_size, settings, versions)),
    )


def _no_photographs(path: Path, listing: Listing) -> str:
    others = ", ".join(f"{count:,} {suffix}" for suffix, count in listing.ignored.most_common(5))
    return (
        f"{path} holds no photographs" + (f" (but {others})" if others else "") + ".\n"
        f"Photographs are files that end in {' '.join(sorted(PHOTO_SUFFIXES))}."
    )


def _read_known(out: Path) -> dict[str, int]:
    path = out / PHOTOS_FILE
    try:
        return read_known(path)
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{path} can't be read ({error}), so nothing can be added to {out}.\nMake it anew with --force."
        ) from None


def _root(listing: Listing, known: dict[str, int]) -> bytes:
    """The folder below which paths are told: the deepest common one at first, later the one that was it then.

    It follows from the paths themselves, so that nothing but dataset.json has to be kept: an archive and a folder of
    the same photographs give the same dataset.
    """
    names = [entry.name for entry in listing.entries]
    candidates: dict[bytes, int] = {}
    for name in names if known else []:
        at = -1
        while True:
            if readable_path(name[at + 1 :]) in known:
                candidates[name[: at + 1]] = candidates.get(name[: at + 1], 0) + 1
            at = name.find(b"/", at + 1)
            if at < 0:
                break
    if candidates:
        return max(sorted(candidates), key=lambda prefix: candidates[prefix])
    return common_folder(names)


def _below(root: bytes, entry: Entry) -> tuple[bytes, Entry]:
    if not entry.name.startswith(root):
        raise SourceError(
            f"{readable_path(entry.name)} lies outside {readable_path(root)}, the folder that the first prep fixed.\n"
            f"Prepare it into a dataset of its own, or make this one anew with --force."
        )
    return entry.name.removeprefix(root), entry


def _cut(
    photos: list[tuple[bytes, Entry]], shard_size: int, settings: dict[str, Any], versions: dict[str, str]
) -> list[Work]:
    photos = sorted(photos, key=lambda photo: photo[0])
    rules = _digest([settings, versions])
    work = []
    for number, start in enumerate(range(0, len(photos), shard_size)):
        chunk = Chunk(number, tuple(photos[start : start + shard_size]))
        inputs = _digest([rules, *([readable_path(path), entry.size] for path, entry in chunk.entries)])
        work.append(Work(chunk, inputs))
    return work


def _digest(value: Any) -> str:
    return hashlib.sha256(
        json.dumps(value, ensure_ascii=False, sort_keys=True).encode("utf-8", "surrogateescape")
    ).hexdigest()


def library_versions() -> dict[str, str]:
    """Versions of all that decides about bytes."""
    return {name: importlib.metadata.version(name) for name in _VERSIONS_OF}


def estimate(new: int, source_bytes: int, config: PrepConfig, workers: int) -> tuple[float, int]:
    """About how many seconds and bytes a run will take: 3 ms a photograph and 10 ms a megabyte of it, a process."""
    bytes_a_pixel = {"png": 3.0, "jpg": 0.9, "webp": 1.8}[config.format]
    tar = 2 * 512 + 1024 + 256  # two headers, JSON, rounding up to blocks
    seconds = (new * 0.003 + source_bytes * 1e-8) / workers + 2.0
    return seconds, int(new * (config.size**2 * bytes_a_pixel + tar))

"""What one run of prep is asked for, its detector models, and its settings as dataset.json stores them.

A dataset is continued only with the settings it was started with; `check_settings` compares them.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from facegan.config import PrepConfig
from facegan.config.resources import PhotosConfig
from facegan.console import shown
from facegan.errors import DatasetError, ModelError, SettingsError, suggest
from facegan.faces.decode import heic_is_installed
from facegan.faces.detect import cache_folder, check_model, find_model, load_plugin, resolve_model
from facegan.manifests import known_models
from facegan.shards.format import GENERATED

StrPath = str | os.PathLike[str]
PHOTO_SECONDS = 60.0  # decoding and detecting take milliseconds; a photograph that takes longer hangs


@dataclass(frozen=True)
class PrepareRequest:
    """One run of prep: which photographs, into which dataset, by which settings, with which resources."""

    source: StrPath  # see `facegan.prep.sources.open_source`
    out: StrPath  # the dataset's folder, created if missing, or an fsspec URL (``s3://bucket/faces``)
    settings: PrepConfig = field(default_factory=PrepConfig)  # everything that decides the bytes of the dataset
    photos: PhotosConfig = field(default_factory=PhotosConfig)  # how the photographs are read, by how many processes
    repair: bool = False  # rebuild damaged shards and retry photographs that could not be fetched; add none
    force: bool = False  # delete the dataset in ``out`` and prepare again
    note_source: bool = True  # record in ``out/.facegan`` where the photographs are, for ``facegan inspect``
    engine: Literal["local", "ray"] = "local"  # processes here, or tasks on a Ray cluster (the extra ``ray``)
    ray_address: str | None = None  # an existing cluster; None starts one on this machine
    photo_seconds: float = PHOTO_SECONDS  # a photograph that takes longer, reading not included, is ``crashed``

    def __post_init__(self) -> None:
        if self.repair and self.force:
            raise SettingsError("--repair and --force exclude each other: one rebuilds the dataset, one deletes it.")
        if self.repair and self.photos.exclude:
            raise SettingsError("--exclude has no effect with --repair, which adds none. Use facegan forget.")

    @classmethod
    def of(cls, source: StrPath, out: StrPath, options: dict[str, Any]) -> Self:
        """A request from fields of this class, of `PrepConfig` and of `PhotosConfig` (``size=32, workers=4``)."""
        values = {
            name: os.fspath(value) if isinstance(value, os.PathLike) else value
            for name, value in options.items()
            if value is not None
        }
        config = values.pop("settings", None) or PrepConfig()
        changed = {name: values.pop(name) for name in PrepConfig.model_fields if name in values}
        settings = PrepConfig.of(config.model_dump() | changed)
        photos = PhotosConfig.pop_from(values)
        others = [one.name for one in dataclasses.fields(cls)[4:]]  # but source, out, settings and photos
        for name in values.keys() - others:
            known = [*others, *PrepConfig.model_fields, *PhotosConfig.model_fields]
            raise SettingsError(f"prepare() has no option {name}.{suggest(name, known)}")
        return cls(source, out, settings, photos, **values)


_SHOWN = 100  # characters of a setting in messages
_MODELS_OF = {"mediapipe": ("short", "full"), "mediapipe-short": ("short",), "mediapipe-full": ("full",)}
_VERSIONS_OF = ("facegan", "mediapipe", "numpy", "opencv-contrib-python", "pillow", "pyarrow", "simplejpeg")


def find_models(config: PrepConfig, model: str = "", fetch: bool = True) -> tuple[Path, ...]:
    """The detector models of a run, checked against the known checksums; empty unless the detector is MediaPipe's.

    ``fetch`` downloads missing models and imports a custom detector; without it the paths are where models will be.
    """
    if config.detector not in _MODELS_OF:
        if model:
            raise SettingsError(f"--model {model} is for MediaPipe. Leave it out with --detector {config.detector}.")
        if fetch and ":" in config.detector:
            load_plugin(config.detector)  # now, not in every worker
        return ()
    known, path = known_models(), Path(model)
    if not model:
        wanted = [known[name] for name in _MODELS_OF[config.detector]]
        return tuple(resolve_model(m) if fetch else find_model(m) or cache_folder() / m.file for m in wanted)
    if not path.is_file():
        raise ModelError(f"There is no model {model}. Run facegan models to see those that are available.")
    for entry in known.values():
        if entry.file == path.name:
            check_model(path, entry)
    return (path,)


def check_settings(old: dict[str, Any], new: dict[str, Any], out: Path, from_lists: Collection[str] = ()) -> None:
    """Raises DatasetError if a setting differs: it names the first one, both values, and the way out. ``from_lists``
    are settings that lists in the source decided."""
    advice = "Use another OUT, or add --force to delete it and prepare again."
    if old.get(GENERATED):
        raise DatasetError(f"{out} contains faces from facegan sample, not photographs.\n{advice}")
    old = with_defaults(old)
    for name in [*new, *(name for name in old if name not in new)]:
        if old.get(name, "") != new.get(name, ""):
            option = f"--{short(name).replace('_', '-').replace('models', 'model')} "
            option = "--set prep.channels=" if name == "channels" else option
            before, now = (f"{option}{short(settings.get(name, '')) or 'none'}" for settings in (old, new))
            if name in from_lists:
                without = " ".join(f"--{setting} none" for setting in from_lists)
                advice += f"\nLists in the source decide this. {without} leaves them out."
            raise DatasetError(f"{out} was prepared with {before}; this command asks for {now}.\n{advice}")


def with_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """A dataset's settings, completed by those that are newer than the dataset."""
    defaults = {name: PrepConfig.default(name) for name in PrepConfig.model_fields}
    return {**defaults, "margin": 1.0, "split": "none", "attributes": ""} | settings


def stored_config(settings: dict[str, Any]) -> PrepConfig:
    """The settings by which the faces of a dataset were cut."""
    values = {name: value for name, value in with_defaults(settings).items() if name in PrepConfig.model_fields}
    return PrepConfig.of(values | ({} if values["crop"] in ("aligned", "box") else {"margin": "auto"}))


def short(value: Any) -> str:
    """A setting's value for messages, checksums cut short."""
    text = shown(", ".join(str(item)[:12] for item in value) if isinstance(value, list) else value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide bytes."""
    names = (*_VERSIONS_OF, "pillow-heif") if heic_is_installed() else _VERSIONS_OF
    return {name: importlib.metadata.version(name) for name in names}

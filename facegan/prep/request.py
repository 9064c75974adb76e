"""What one run of prep is asked for, its detector models and attributes, and its settings as dataset.json stores them.

A dataset is continued only with the settings it was started with; `check_settings` compares them.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from facegan.config import PrepConfig
from facegan.config.resources import PhotosConfig, count_or_none
from facegan.console import shown
from facegan.errors import DatasetError, ModelError, SettingsError, SourceError, suggest
from facegan.faces.detect import cache_folder, check_detector, check_model, find_model, resolve_model
from facegan.files import sha256_file
from facegan.manifests import known_models
from facegan.remote import MOST_REQUESTS
from facegan.shards.format import GENERATED

PHOTO_SECONDS = 60.0  # decoding and detecting take milliseconds; a photograph that takes longer hangs


@dataclass(frozen=True)
class PrepareRequest:
    """One run of prep: which photographs, into which dataset, by which settings, with which resources.

    Attributes:
        source: a folder, archive, table or array of photographs, by path or fsspec URL; several of them; or
            ``torchvision:NAME`` (see `facegan.prep.sources.open_source`).
        out: the dataset's folder, created if missing, or an fsspec URL (``s3://bucket/faces``).
        settings: everything that decides the bytes of the dataset.
        model: a detector model (``.tflite``) to use instead of the known ones.
        attributes: CelebA's list_attr_celeba.txt; a photograph's attributes go into the JSON of its samples.
        limit: only the first photographs, by name.
        download: torchvision may download what is missing.
        follow_links: a folder's symbolic links are followed.
        max_unpacked_ratio: largest ratio of unpacked bytes to file size for archives, arrays and tables.
        repair: rebuild missing or altered shards of ``out`` and retry photographs that could not be fetched; add none.
        force: delete the dataset in ``out`` and prepare again.
        note_source: record in ``out/.facegan`` where the photographs are, for ``facegan inspect``.
        workers: processes; None for one per usable CPU, or fewer if memory is short; 0 works in this process.
        engine: local processes, or tasks on a Ray cluster (the extra ``ray``).
        ray_address: an existing cluster; None starts one on this machine.
        photo_seconds: a photograph that takes longer, reading not included, is ``crashed``.
        fetch_ahead: concurrent requests of a process for photographs that are fetched one by one, 1 to 100.
    """

    source: str | os.PathLike[str]
    out: str | os.PathLike[str]
    settings: PrepConfig = field(default_factory=PrepConfig)
    model: Path | None = None
    attributes: Path | None = None
    limit: int | None = None
    download: bool = False
    follow_links: bool = True
    max_unpacked_ratio: int = PhotosConfig.default("max_unpacked_ratio")
    repair: bool = False
    force: bool = False
    note_source: bool = True
    workers: int | None = None
    engine: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    photo_seconds: float = PHOTO_SECONDS
    fetch_ahead: int = PhotosConfig.default("fetch_ahead")

    def __post_init__(self) -> None:
        if self.repair and self.force:
            raise SettingsError("--repair and --force exclude each other: one rebuilds the dataset, one deletes it.")
        if not 1 <= self.fetch_ahead <= MOST_REQUESTS:
            raise SettingsError(f"fetch_ahead = {self.fetch_ahead} is not available. Choose 1 to {MOST_REQUESTS}.")

    @classmethod
    def of(cls, source: str | os.PathLike[str], out: str | os.PathLike[str], options: dict[str, Any]) -> Self:
        """A request from fields of this class and of `PrepConfig` (``size=32, workers=4``).

        Raises:
            SettingsError: an option is unknown, or its value is invalid.
        """
        fields = {one.name for one in dataclasses.fields(cls)} - {"source", "out"}
        for name in options.keys() - fields - PrepConfig.model_fields.keys():
            raise SettingsError(f"prepare() has no option {name}.{suggest(name, [*fields, *PrepConfig.model_fields])}")
        request: dict[str, Any] = {name: value for name, value in options.items() if name in fields}
        settings = {name: value for name, value in options.items() if name not in fields}
        if settings:
            config = request.get("settings", PrepConfig())
            request["settings"] = PrepConfig.of(config.model_dump() | settings)
        return cls(source, out, **request)

    @classmethod
    def of_config(cls, source: str, out: str, photos: PhotosConfig, settings: PrepConfig, **more: Any) -> Self:
        """A request from the settings of ``[prep]``, and fields that are not among them (``repair``, ``engine``)."""
        return cls(
            source,
            out,
            settings,
            model=Path(photos.model) if photos.model else None,
            attributes=Path(photos.attributes) if photos.attributes else None,
            workers=count_or_none(photos.workers),
            limit=photos.limit,
            download=photos.download,
            follow_links=photos.follow_links,
            max_unpacked_ratio=photos.max_unpacked_ratio,
            fetch_ahead=photos.fetch_ahead,
            **more,
        )


_MAX_ATTRIBUTES = 62  # bits of SQLite's integers


@dataclass(frozen=True)
class Attributes:
    """CelebA's list_attr_celeba.txt (Liu et al. 2015, "Deep Learning Face Attributes in the Wild").

    Its first line is the number of photographs, its second the attributes' names; each other line is a photograph's
    file name and 1 or −1 for each attribute.
    """

    path: Path
    names: tuple[str, ...]
    sha256: str

    def rows(self) -> Iterator[tuple[bytes, int]]:
        """File name, and its attributes as bits, the first one lowest.

        Raises:
            SourceError: a line has another form.
        """
        with self.path.open("rb") as file:
            next(file)
            next(file)
            for number, line in enumerate(file, 3):
                if not line.strip():
                    continue
                name, *values = line.split()
                if len(values) != len(self.names) or set(values) - {b"1", b"-1"}:
                    raise SourceError(f"Line {number} of {self.path} must have {len(self.names)} values of 1 or -1.")
                yield name, sum(1 << i for i, value in enumerate(values) if value == b"1")


def open_attributes(path: Path) -> Attributes:
    """
    Raises:
        SourceError: the file is missing, or is not a list of attributes.
    """
    try:
        with path.open("rb") as file:
            count, names = file.readline(1000), file.readline(10_000).decode().split()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} cannot be read ({error}). --attributes takes list_attr_celeba.txt.") from None
    if not count.strip().isdigit() or not 0 < len(names) <= _MAX_ATTRIBUTES:
        raise SourceError(f"{path} is not a list of attributes. --attributes takes CelebA's list_attr_celeba.txt.")
    return Attributes(path, tuple(names), sha256_file(path))


def attribute_values(names: tuple[str, ...], bits: int) -> dict[str, int]:
    """1 or −1 by name, as in the file."""
    return {name: 1 if bits >> i & 1 else -1 for i, name in enumerate(names)}


_MODELS_OF = {"mediapipe": ("short", "full"), "mediapipe-short": ("short",), "mediapipe-full": ("full",)}
_VERSIONS_OF = ("facegan", "mediapipe", "numpy", "opencv-contrib-python", "pillow", "pyarrow", "simplejpeg")


def find_models(config: PrepConfig, model: Path | None, fetch: bool = True) -> tuple[Path, ...]:
    """The detector models of a run, checked against the known checksums; empty unless the detector is MediaPipe's.

    Args:
        fetch: download missing models and import a custom detector; otherwise return where the models will be.
    """
    if config.detector not in _MODELS_OF:
        if model is not None:
            raise SettingsError(f"--model {model} is for MediaPipe. Leave it out with --detector {config.detector}.")
        if fetch:
            check_detector(config)
        return ()
    known = known_models()
    if model is None:
        wanted = [known[name] for name in _MODELS_OF[config.detector]]
        return tuple(resolve_model(m) if fetch else find_model(m) or cache_folder() / m.file for m in wanted)
    if not model.is_file():
        raise ModelError(f"There is no model {model}. Run facegan models to see those that are available.")
    for entry in known.values():
        if entry.file == model.name:
            check_model(model, entry)
    return (model,)


def effective_settings(
    config: PrepConfig, models: tuple[Path, ...], attributes: Attributes | None = None
) -> dict[str, Any]:
    """The settings that decide bytes, as dataset.json stores them."""
    known = {model.file: model.sha256 for model in known_models().values()}
    # Known models have been checked against the manifest, or will be when they are downloaded.
    sums = [known.get(model.name) or sha256_file(model) for model in models]
    return {**config.model_dump(), "models": sums, "attributes": attributes.sha256 if attributes else ""}


def check_settings(old: dict[str, Any], new: dict[str, Any], out: Path) -> None:
    """
    Raises:
        DatasetError: names the first setting that differs, both values, and the way out.
    """
    advice = "Use another OUT, or add --force to delete it and prepare again."
    if old.get(GENERATED):
        raise DatasetError(f"{out} contains faces from facegan sample, not photographs.\n{advice}")
    old = with_defaults(old)
    for name in [*new, *(name for name in old if name not in new)]:
        if old.get(name) != new.get(name):
            before, now = (_as_option(name, settings.get(name)) for settings in (old, new))
            raise DatasetError(f"{out} was prepared with {before}; this command asks for {now}.\n{advice}")


def with_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """A dataset's settings, completed by those that are newer than the dataset."""
    defaults = {name: PrepConfig.default(name) for name in PrepConfig.model_fields}
    return {**defaults, "attributes": ""} | settings


def _as_option(name: str, value: Any) -> str:
    if name == "channels":
        return f"--set prep.channels={shown(value)}"
    return f"--{shown(name).replace('_', '-').replace('models', 'model')} {short(value)}"


def short(value: Any) -> str:
    """A setting's value for messages, checksums cut short."""
    return shown(", ".join(str(item)[:12] for item in value) if isinstance(value, list) else value)


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide bytes."""
    return {name: importlib.metadata.version(name) for name in _VERSIONS_OF}

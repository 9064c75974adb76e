"""The settings of a run as dataset.json holds them, and whether they agree with those a dataset was begun with."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegan.config import PrepConfig
from facegan.console import shown
from facegan.errors import DatasetError, ModelError, SettingsError, SourceError
from facegan.faces.detect import cache_folder, check_detector, check_model, find_model, resolve_model
from facegan.files import sha256_file
from facegan.manifests import known_models
from facegan.shards.format import GENERATED

# ``--attributes``: what CelebA's list_attr_celeba.txt says of each photograph goes into its sample's JSON.
#
# The file's first line is the number of photographs, the second names the attributes, and every other one is a
# photograph's file name and 1 or −1 for each attribute (Liu et al. 2015, "Deep Learning Face Attributes in the Wild").

_MOST = 62  # what SQLite's integers hold as bits


@dataclass(frozen=True)
class Attributes:
    """A file of attributes: their names, and the file's SHA-256."""

    path: Path
    names: tuple[str, ...]
    sha256: str

    def rows(self) -> Iterator[tuple[bytes, int]]:
        """File name, and the attributes that it has as bits, the first one lowest.

        Raises:
            SourceError: a line that is none of such a file.
        """
        with self.path.open("rb") as file:
            next(file)
            next(file)
            for number, line in enumerate(file, 3):
                if not line.strip():
                    continue
                name, *values = line.split()
                if len(values) != len(self.names) or set(values) - {b"1", b"-1"}:
                    raise SourceError(f"Line {number} of {self.path} has not {len(self.names)} values of 1 or -1.")
                yield name, sum(1 << i for i, value in enumerate(values) if value == b"1")


def open_attributes(path: Path) -> Attributes:
    """
    Raises:
        SourceError: the file is not there, or is no list of attributes.
    """
    try:
        with path.open("rb") as file:
            count, names = file.readline(1000), file.readline(10_000).decode().split()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} can't be read ({error}). Name CelebA's list_attr_celeba.txt.") from None
    if not count.strip().isdigit() or not 0 < len(names) <= _MOST:
        raise SourceError(f"{path} is no list of attributes. Name CelebA's list_attr_celeba.txt.")
    return Attributes(path, tuple(names), sha256_file(path))


def attribute_values(names: tuple[str, ...], bits: int) -> dict[str, int]:
    """1 or −1 by name, as the file has it."""
    return {name: 1 if bits >> i & 1 else -1 for i, name in enumerate(names)}


_MODELS_OF = {"mediapipe": ("short", "full"), "mediapipe-short": ("short",), "mediapipe-full": ("full",)}
_VERSIONS_OF = ("facegan", "mediapipe", "numpy", "opencv-contrib-python", "pillow", "pyarrow", "simplejpeg")


def find_models(config: PrepConfig, model: Path | None, fetch: bool = True) -> tuple[Path, ...]:
    """The detector models a run needs, each checked where facegan knows its sum; none but for MediaPipe's detectors.

    Args:
        fetch: get those that are missing, and import a detector of the user's own; else only say where the former will
            lie.
    """
    if config.detector not in _MODELS_OF:
        if model is not None:
            raise SettingsError(f"--model {model} is for MediaPipe: leave it out with --detector {config.detector}.")
        if fetch:
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


def effective_settings(
    config: PrepConfig, models: tuple[Path, ...], attributes: Attributes | None = None
) -> dict[str, Any]:
    """The settings that change bytes, as dataset.json holds them."""
    sums = {model.file: model.sha256 for model in known_models().values()}
    # By the manifest where facegan knows them: those were checked, or are still to be fetched.
    found = [sums.get(model.name) or sha256_file(model) for model in models]
    return {**config.model_dump(), "models": found, "attributes": attributes.sha256 if attributes else ""}


def check_settings(old: dict[str, Any], new: dict[str, Any], out: Path) -> None:
    """
    Raises:
        DatasetError: names the first setting that differs, both values, and the way out.
    """
    if old.get(GENERATED):
        raise DatasetError(
            f"{out} holds faces that facegan sample drew, and no photographs. Choose another folder,\n"
            "or make it anew (what is in it is deleted) with --force."
        )
    old = with_defaults(old)
    for name in [*new, *(name for name in old if name not in new)]:
        if old.get(name) != new.get(name):
            before, now = (_as_given(name, settings.get(name)) for settings in (old, new))
            raise DatasetError(
                f"{out} was made with {before}, and this is {now}.\n"
                f"Choose another folder, or make it anew (what is in it is deleted) with --force."
            )


def with_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """A dataset's settings, with those that were not there yet when it was made."""
    defaults = {name: PrepConfig.default(name) for name in PrepConfig.model_fields}
    return {**defaults, "attributes": ""} | settings


def _as_given(name: str, value: Any) -> str:
    """A setting as people give it: all but one have options."""
    if name == "channels":
        return f"--set prep.channels={shown(value)}"
    return f"--{shown(name).replace('_', '-').replace('models', 'model')} {_short(value)}"


def _short(value: Any) -> str:
    return shown(", ".join(str(item)[:12] for item in value) if isinstance(value, list) else value)


def library_versions() -> dict[str, str]:
    """Versions of all that decides about bytes."""
    return {name: importlib.metadata.version(name) for name in _VERSIONS_OF}

"""The settings of a run as dataset.json holds them, and whether they agree with those a dataset was begun with."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

from facegan.config import PrepConfig
from facegan.console import shown
from facegan.errors import DatasetError, ModelError, SettingsError
from facegan.faces.detectors import check_detector
from facegan.faces.models import cache_folder, check_model, find_model, known_models, resolve_model
from facegan.files import sha256_file
from facegan.prep.attributes import Attributes
from facegan.shards.layout import GENERATED

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

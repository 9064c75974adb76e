"""Facts about known data sets and models, from ``manifests/*.toml``."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from facegan.console import shown
from facegan.errors import SourceError
from facegan.files import packaged, parse_toml

_NOT_DATASETS = ("models", "web")  # `facegan.web` reads the latter
_SAME_NAMES = 0.99  # share of a source's names that must belong to a known data set


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_min_length=1)


class _Weights(_Entry):
    title: str
    bytes: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    licence: str


class DetectorModel(_Weights):
    """One model of ``manifests/models.toml``."""

    name: str
    file: str = Field(pattern=r"^[\w.-]+\.tflite$")
    input_px: int = Field(gt=0)


class ModelWheel(_Entry):
    """The published wheel that contains the models: pip's requirement, and the folder inside."""

    requirement: str = Field(pattern=r"^[\w-]+==[\w.]+$")
    python_version: str
    folder: str


class NetworkWeights(_Weights):
    """The published weights of a network for metrics."""

    file: str = Field(pattern=r"^[\w.-]+\.(pth|safetensors)$")
    url: str = Field(pattern=r"^https://")


class KnownSplit(_Entry):
    """One split of a data set; ``first`` and ``last`` file if they are numbered."""

    photographs: int = Field(gt=0)
    first: int | None = None
    last: int | None = None


class KnownDataset(_Entry):
    """A data set that facegan knows by name."""

    name: str  # the manifest's file name without .toml
    title: str
    photographs: int = Field(gt=0)
    people: bool  # whether they show people, whose consent matters
    file_name: str | None = None  # a regular expression, whose one group is the file number
    prep_split: Literal["celeba", "source"]  # the recommended facegan prep --split
    torchvision: str  # its class in torchvision.datasets
    where: str  # to get it
    licence: Literal["other", "unknown", "mit", "cc-by-sa-3.0"]  # as on Hugging Face's hub; "other" has licence_name
    licence_name: str | None = Field(default=None, pattern=r"^[a-z0-9-]+$")
    terms: str  # the authors', in a sentence or two
    citation: str = Field(pattern=r"(?s)^@\w+\{.*\}$")  # BibTeX
    splits: dict[Literal["train", "val", "test"], KnownSplit] = Field(min_length=1)  # in the authors' order

    def number(self, name: bytes) -> int | None:
        """The file number in the last part of a photograph's path; None if it is not in this data set."""
        pattern = (self.file_name or "(?!)").encode()  # re caches compiled patterns
        match = re.fullmatch(pattern, name.rpartition(b"/")[2])
        number = int(match[1]) if match else 0
        return number if 1 <= number <= self.photographs else None


def _read(name: str) -> dict[str, Any]:
    return parse_toml((packaged("manifests") / f"{name}.toml").read_text(encoding="utf-8"), f"{name}.toml")


@functools.cache
def known_models() -> dict[str, DetectorModel]:
    """Detector models by their short name (``short``, ``full``)."""
    return {name: DetectorModel(name=name, **entry) for name, entry in _read("models")["models"].items()}


@functools.cache
def model_wheel() -> ModelWheel:
    return ModelWheel(**_read("models")["wheel"])


@functools.cache
def network_weights(name: Literal["inception", "clip"]) -> NetworkWeights:
    return NetworkWeights(**_read("models")["networks"][name])


@functools.cache
def known_datasets() -> dict[str, KnownDataset]:
    """Data sets by name (``celeba-aligned``, ``mnist``, …)."""
    names = sorted(path.stem for path in packaged("manifests").glob("*.toml") if path.stem not in _NOT_DATASETS)
    return {name: KnownDataset(name=name, **_read(name)) for name in names}


def recognise(names: Iterable[bytes], count: int) -> KnownDataset | None:
    """The data set to which at least 99 % of the file names belong.

    Less than half of it, numbered from 1 without large gaps, could be anyone's photographs and is not recognised.
    ``count``: of the names, which are not read if there are more than any known data set has.
    """
    numbered = [known for known in known_datasets().values() if known.file_name is not None]
    candidates = [known for known in numbered if 0 < count * _SAME_NAMES <= known.photographs]
    read = list(names) if candidates else []
    for known in candidates:
        numbers = [number for name in read if (number := known.number(name)) is not None]
        is_large = len(read) >= known.photographs / 2 or len(read) <= max(numbers, default=0) / 2
        if is_large and len(read) - len(numbers) <= len(read) * (1 - _SAME_NAMES):
            return known
    return None


def completeness(known: KnownDataset, count: int) -> str:
    """``"16,100 of 202,599 photographs of CelebA aligned"``."""
    return f"{count:,} of {known.photographs:,} photographs of {known.title}"


def split_of(known: KnownDataset, name: bytes) -> str:
    """The split of a photograph, by the file number in the last part of its path."""
    number = known.number(name)
    for split, files in known.splits.items():
        if number is not None and files.last is not None and number <= files.last:
            return split
    photo = shown(name.decode("utf-8", "backslashreplace"))
    if known.file_name is None:
        raise SourceError(f"The files of {known.title} are not numbered: {photo} has no split. Use --split source.")
    why = f"{photo} has no file number of {known.title} (1 to {known.photographs:,}), so it is in none of its splits."
    raise SourceError(f"{why}\nRemove it from the source, or choose another --split.")

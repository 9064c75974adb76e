"""Facts about source data sets and detector models, as ``manifests/*.toml`` states them."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from facegan.console import shown
from facegan.errors import SourceError
from facegan.files import packaged, parse_toml

_MODELS = "models"
_NO_DATASETS = (_MODELS, "web")  # manifests that tell of no data set; `facegan.web` reads the latter
_SAME_NAMES = 0.99  # of a source's names, for it to be taken for a known data set


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_min_length=1)


class DetectorModel(_Entry):
    """One model of ``manifests/models.toml``."""

    name: str
    file: str = Field(pattern=r"^[\w.-]+\.tflite$")
    title: str
    bytes: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    licence: str
    input_px: int = Field(gt=0)


class ModelWheel(_Entry):
    """The published wheel that carries the models: what pip is asked for, and the folder inside."""

    requirement: str = Field(pattern=r"^[\w-]+==[\w.]+$")
    python_version: str
    folder: str


class NetworkWeights(_Entry):
    """The published weights of a network that metrics see by."""

    file: str = Field(pattern=r"^[\w.-]+\.(pth|safetensors)$")
    title: str
    bytes: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    licence: str
    url: str = Field(pattern=r"^https://")


class KnownSplit(_Entry):
    """One split of a data set: how many photographs, and where files are numbered the first and last of them."""

    photographs: int = Field(gt=0)
    first: int | None = None
    last: int | None = None

    @model_validator(mode="after")
    def _numbers_agree(self) -> Self:
        if (self.first is None) != (self.last is None):
            raise ValueError("'first' and 'last' file number go together")
        if self.first is not None and self.last is not None and self.last - self.first + 1 != self.photographs:
            raise ValueError(f"files {self.first} to {self.last} are not {self.photographs} photographs")
        return self


class OfficialFile(_Entry):
    """A file as its authors publish it."""

    name: str
    md5: str = Field(pattern=r"^[0-9a-f]{32}$")


class KnownDataset(_Entry):
    """A data set that facegan knows by name.

    Attributes:
        name: the manifest's file name without ``.toml``.
        photographs: how many there are.
        width: of every photograph, in pixels; ``height`` likewise.
        people: whether they show people, whose consent matters.
        file_name: a regular expression for its files' names, whose one group is the file number.
        prep_split: what ``facegan prep --split`` should be for it.
        torchvision: its class in ``torchvision.datasets``.
        where: where to get it.
        licence: the identifier that Hugging Face's hub uses; ``licence_name`` where that is ``other``.
        terms: what its authors allow, in a sentence or two.
        citation: as BibTeX.
        classes: the meaning of each label.
        splits: in the authors' order.
        files: their sums.
    """

    name: str
    title: str
    photographs: int = Field(gt=0)
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    people: bool
    file_name: str | None = None
    prep_split: Literal["celeba", "source"]
    torchvision: str
    where: str
    licence: Literal["other", "unknown", "mit", "cc-by-sa-3.0"]
    licence_name: str | None = Field(default=None, pattern=r"^[a-z0-9-]+$")
    terms: str
    citation: str = Field(pattern=r"(?s)^@\w+\{.*\}$")
    classes: tuple[str, ...] = ()
    splits: dict[Literal["train", "val", "test"], KnownSplit] = Field(min_length=1)
    files: tuple[OfficialFile, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if sum(split.photographs for split in self.splits.values()) != self.photographs:
            raise ValueError(f"the splits of {self.name} do not add up to {self.photographs} photographs")
        if (self.licence == "other") != (self.licence_name is not None):
            raise ValueError("a licence has a name of its own just where it is 'other'")
        at = 0
        for split in self.splits.values():
            if (split.first is None) != (self.file_name is None):
                raise ValueError("splits have file numbers just where there is a 'file_name' to read them from")
            if split.first is not None and split.first != at + 1:
                raise ValueError(f"a split of {self.name} begins with file {split.first}, not {at + 1}")
            at = split.last or 0
        if self.file_name is not None and re.compile(self.file_name).groups != 1:
            raise ValueError(f"'file_name' of {self.name} needs one group, the file number")
        return self

    def number(self, name: bytes) -> int | None:
        """The file number of a photograph by the last part of its path; None where it has none of this data set."""
        match = _pattern(self.file_name).fullmatch(name.rpartition(b"/")[2]) if self.file_name is not None else None
        number = int(match[1]) if match else 0
        return number if 1 <= number <= self.photographs else None


@functools.cache
def _pattern(text: str) -> re.Pattern[bytes]:
    return re.compile(text.encode())


def _read(name: str) -> dict[str, Any]:
    return parse_toml((packaged("manifests") / f"{name}.toml").read_text(encoding="utf-8"), f"{name}.toml")


@functools.cache
def known_models() -> dict[str, DetectorModel]:
    """The detector models that facegan knows, by their short name (``short``, ``full``)."""
    return {name: DetectorModel(name=name, **entry) for name, entry in _read(_MODELS)["models"].items()}


@functools.cache
def model_wheel() -> ModelWheel:
    return ModelWheel(**_read(_MODELS)["wheel"])


@functools.cache
def network_weights(name: Literal["inception", "clip"]) -> NetworkWeights:
    return NetworkWeights(**_read(_MODELS)["networks"][name])


@functools.cache
def known_datasets() -> dict[str, KnownDataset]:
    """The data sets that facegan knows, by name (``celeba-aligned``, ``mnist``, …)."""
    names = sorted(path.stem for path in packaged("manifests").glob("*.toml") if path.stem not in _NO_DATASETS)
    return {name: KnownDataset(name=name, **_read(name)) for name in names}


def recognise(names: Iterable[bytes], count: int) -> KnownDataset | None:
    """The data set whose files are named like these, or None.

    At least 99 % of the names have to be of the data set. Less than half of it, numbered from 1 without large gaps,
    could be anyone's photographs: that is not recognised.

    Args:
        names: paths of photographs in a source; not read where there are more than a known data set has.
        count: how many there are.
    """
    numbered = [known for known in known_datasets().values() if known.file_name is not None]
    candidates = [known for known in numbered if 0 < count * _SAME_NAMES <= known.photographs]
    read = list(names) if candidates else []
    return next((known for known in candidates if _is_named_like(known, read, count)), None)


def _is_named_like(known: KnownDataset, names: list[bytes], count: int) -> bool:
    strangers = highest = 0
    for name in names:
        number = known.number(name)
        if number is not None:
            highest = max(highest, number)
            continue
        strangers += 1
        if strangers > count * (1 - _SAME_NAMES):
            return False
    return count >= known.photographs / 2 or count <= highest / 2


def completeness(known: KnownDataset, count: int) -> str:
    """``"16,100 of 202,599 photographs of CelebA aligned"``."""
    return f"{count:,} of {known.photographs:,} photographs of {known.title}"


def split_of(known: KnownDataset, name: bytes) -> str:
    """The split that a photograph belongs to, by the file number in the last part of its path.

    Raises:
        SourceError: its name has no number of this data set.
    """
    number = known.number(name)
    for split, files in known.splits.items():
        if number is not None and files.last is not None and number <= files.last:
            return split
    said = shown(name.decode("utf-8", "backslashreplace"))
    if known.file_name is None:
        raise SourceError(
            f"{known.title} has no numbered files, so {said} has no split by its name: use --split source."
        )
    raise SourceError(
        f"{said} has no file number of {known.title} (1 to {known.photographs:,}), so it is in none of its splits.\n"
        f"Take it out of the source, or choose another --split."
    )

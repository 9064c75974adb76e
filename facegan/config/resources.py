"""Where a command finds its files, and what it runs on: settings that change no result, beside those that do."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from facegan.config.base import Positive, Settings
from facegan.config.evaluate import EvalConfig
from facegan.config.prep import PrepConfig
from facegan.config.sample import ExportConfig
from facegan.config.train import TrainConfig
from facegan.remote import FETCH_AHEAD, MOST_REQUESTS, is_url
from facegan.unpack import MAX_RATIO


def _workers(value: str) -> str:
    if value != "auto" and (not (value.isascii() and value.isdigit()) or int(value) < 1):
        raise ValueError(f"--workers {value}: it has to be auto, or a whole number from 1 up.")
    return value


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value, re.ASCII):
        raise ValueError(f"--device {value} is not offered: choose auto, cpu, cuda, cuda:N or mps.")
    return value


def _local(value: str) -> str:
    if is_url(value):
        raise ValueError(
            f"prep.out = {value}: a recipe makes its dataset in a folder of this machine.\n"
            "Make one behind a URL with facegan prep, and train on it by a recipe with train.shards and no [prep]."
        )
    return value


Workers = Annotated[str, Field(coerce_numbers_to_str=True), AfterValidator(_workers)]


class PhotosConfig(Settings):
    """What ``[prep]`` says beside `PrepConfig`: which photographs, and where their faces go."""

    section: ClassVar[str] = "prep"
    MACHINE: ClassVar[frozenset[str]] = frozenset(
        {"workers", "download", "fetch_ahead", "max_unpacked_ratio"}
    )  # change no result

    source: str = Field(
        description="the photographs, as facegan prep takes them: a folder, an archive, a table, an array, a URL, "
        "torchvision:NAME; or portraits:N[:SEED], drawn into the run's folder"
    )
    out: Annotated[str, AfterValidator(_local)] = Field(
        default="", description="the dataset's folder, where it is not to be DIR/faces: several recipes may share one"
    )
    limit: Positive | None = Field(default=None, description="only the first N photographs, by name")
    model: str = Field(default="", description="a detector model (.tflite) of one's own")
    attributes: str = Field(default="", description="CelebA's list_attr_celeba.txt: into each sample's JSON")
    download: bool = Field(default=False, description="torchvision:NAME may fetch what is missing")
    follow_links: bool = Field(default=True, description="a folder's symbolic links count as what they lead to")
    max_unpacked_ratio: Positive = Field(
        default=MAX_RATIO,
        description="an archive, array or table that unpacks to more than so many times its size, and to more than "
        "512 MiB, is refused; photographs reach 3 times; changes no result",
    )
    workers: Workers = Field(
        default="auto", description="processes: auto (all CPUs, if memory allows) or a number; changes no result"
    )
    fetch_ahead: Annotated[int, Field(ge=1, le=MOST_REQUESTS)] = Field(
        default=FETCH_AHEAD,
        description="photographs behind URLs that a process asks for at once; 1: one after another; changes no result",
    )


class FacesConfig(Settings):
    """What ``[train]`` says beside `TrainConfig`: on which faces, from which weights, and by what means."""

    section: ClassVar[str] = "train"
    MACHINE: ClassVar[frozenset[str]] = frozenset({"device", "cache", "workers"})  # change no result, but last bits

    shards: str = Field(
        default="", description="a dataset's folder or URL, in a recipe without [prep]; else that of [prep]"
    )
    split: Literal["train", "val", "test"] = Field(default="train", description="which part of the dataset")
    init: str = Field(default="", description="trained weights to start from: a generator's file, a checkpoint, a run")
    device: Annotated[str, AfterValidator(_device)] = Field(
        default="auto", description="auto, cpu, cuda, cuda:N or mps; changes last bits alone"
    )
    cache: Literal["auto", "gpu", "ram", "off"] = Field(
        default="auto", description="where decoded faces stay; changes no result"
    )
    workers: Workers = Field(
        default="auto", description="threads that decode: auto (all CPUs) or a number; changes no result"
    )


class EvalResources(Settings):
    """Files and the device of an evaluation: they decide which metrics are available, not their values."""

    section: ClassVar[str] = "eval"
    MACHINE: ClassVar[frozenset[str]] = frozenset({"device"})  # changes no result, but last bits

    inception_weights: str = Field(
        default="", description="a file of Inception's weights; else they are looked for, and fetched once"
    )
    clip_weights: str = Field(
        default="",
        description="a file of CLIP's weights; else looked for, and fetched once where its metrics are named",
    )
    statistics: str = Field(default="", description="an .npz with mu and sigma of others, that the FID is to")
    device: Annotated[str, AfterValidator(_device)] = Field(
        default="auto", description="auto, cpu, cuda, cuda:N or mps; changes last bits alone"
    )


class ReportConfig(Settings):
    """What ``[report]`` says: a page of the run, made last."""

    section: ClassVar[str] = "report"

    explore: bool = Field(
        default=False, description="a folder whose page draws new faces, instead of one file; needs facegan[onnx]"
    )


SECTIONS: dict[str, tuple[type[Settings], ...]] = {
    "prep": (PhotosConfig, PrepConfig),
    "train": (FacesConfig, TrainConfig),
    "eval": (EvalResources, EvalConfig),
    "export": (ExportConfig,),
    "report": (ReportConfig,),
}
# Settings that name a file or folder of this machine, unless they are URLs or the like.
FILES = {
    "prep": ("source", "model", "attributes"),
    "train": ("shards", "init"),
    "eval": ("inception_weights", "clip_weights", "statistics"),
}


def names_of(section: str) -> list[str]:
    """All settings of a section."""
    return [name for config in SECTIONS[section] for name in config.model_fields]

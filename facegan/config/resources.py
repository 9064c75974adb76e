"""Files, devices and processes of the commands: settings that hardly change a result. And the sections of recipes."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from facegan.config.base import Fraction, Positive, Settings, setting
from facegan.config.evaluate import EvalConfig
from facegan.config.prep import PrepConfig
from facegan.config.sample import ExportConfig
from facegan.config.train import TrainConfig
from facegan.remote import FETCH_AHEAD, MOST_REQUESTS
from facegan.unpack import MAX_RATIO


def _matching(pattern: str, problem: str) -> AfterValidator:
    """Accepts values of a pattern; ``problem``: the error, with ``{}`` for the value."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value, re.ASCII):
            raise ValueError(problem.format(value))
        return value

    return AfterValidator(check)


_WORKERS = "--workers {} must be auto, or a whole number"
_UNKNOWN_DEVICE = "--device {} is not available. Choose auto, cpu, cuda, cuda:N or mps."
_REMOTE = (
    "prep.out = {}: a recipe writes its dataset to a folder of this machine.\n"
    "Run facegan prep for a dataset at a URL, and name it as train.shards in a recipe without [prep]."
)
Processes = Annotated[str, Field(coerce_numbers_to_str=True), _matching(r"auto|\d+", f"{_WORKERS}.")]
Threads = Annotated[str, Field(coerce_numbers_to_str=True), _matching(r"auto|0*[1-9]\d*", f"{_WORKERS} of at least 1.")]
Device = Annotated[str, _matching(r"auto|cpu|mps|cuda(:\d+)?", _UNKNOWN_DEVICE)]
NO_ATTRIBUTES = "none"  # even if the source has a list of them
_DEVICE = "auto, cpu, cuda, cuda:N or mps; results differ in the last bits only"


def count_or_none(workers: str) -> int | None:
    """``auto`` is None."""
    return None if workers == "auto" else int(workers)


class PhotosConfig(Settings):
    """How ``facegan prep`` reads photographs."""

    section: ClassVar[str] = "prep"
    options: ClassVar[str] = (
        "model limit exclude attributes missing_attributes identity detections download follow_links workers min_yield"
    )

    limit: Positive | None = setting(None, "use only the first N photographs, sorted by name", "photographs")
    exclude: str = setting("", "a file with the paths of photographs to leave out, one a line", "path")
    model: str = setting("", "your own detector model, a .tflite file", "path")
    attributes: str = setting(
        "",
        "a table of photographs and numbers: CelebA's list_attr_celeba, CSV or Parquet; none; by default the source's",
        "path",
    )
    missing_attributes: Literal["error", "skip"] = setting(
        "error", "skip: leave out photographs that the list lacks, until a longer one has them"
    )
    identity: str = setting(
        "",
        "identity_CelebA.txt, or a CSV of path and person: recorded; --split by shares keeps a person together",
        "path",
    )
    detections: str = setting(
        "", "a dataset of these photographs whose detections are used instead of detecting again; same result", "path"
    )
    download: bool = setting(False, "download missing files of torchvision:NAME")
    follow_links: bool = setting(True, "follow symbolic links in a folder")
    max_unpacked_ratio: Positive = setting(
        MAX_RATIO,
        "an archive, array or table that unpacks to more than this many times its size, and to more than 512 MiB, is "
        "refused; photographs reach 3; does not change the result",
    )
    workers: Processes = setting(
        "auto",
        "auto (all CPUs, if memory allows) or a number; 0: in this process; does not change the result",
        "processes",
    )
    fetch_ahead: int = setting(
        FETCH_AHEAD,
        "photographs at URLs that a process requests at once; does not change the result",
        "photographs",
        ge=1,
        le=MOST_REQUESTS,
    )
    min_yield: Fraction = setting(0.2, "stop before a run that would keep a smaller share; 0: never", "share of 1")


class RecipePaths(Settings):
    """The arguments of ``facegan prep``, as settings of a recipe."""

    section: ClassVar[str] = "prep"

    source: str = setting(
        ...,
        "the photographs, as facegan prep takes them: a folder, an archive, a table, an array, a URL, "
        "torchvision:NAME; or portraits:N[:SEED], drawn into the experiment's folder",
        "path or URL",
    )
    out: Annotated[str, _matching(r"(?s)(?!.*://).*", _REMOTE)] = setting(
        "", "the dataset's folder if it is not DIR/faces: several recipes can share one"
    )


class FacesConfig(Settings):
    """On which faces and device ``facegan train`` runs, and from which weights it starts."""

    section: ClassVar[str] = "train"

    shards: str = setting(
        "",
        "a dataset that facegan prep wrote: its folder or URL; or tar files, or pipe:COMMAND; in a recipe, only "
        "without [prep]",
        "path or URL",
    )
    split: Literal["train", "val", "test"] = setting("train", "part of the dataset")
    init: str = setting("", "trained weights to start from: a generator's file, a checkpoint or a run", "path")
    device: Device = setting("auto", _DEVICE)
    cache: Literal["auto", "gpu", "ram", "off"] = setting(
        "auto", "where decoded faces are kept; does not change the result"
    )
    log: Literal["none", "wandb", "mlflow"] = setting("none", "tracker that gets the log and the grids, too")
    workers: Threads = setting("auto", "auto (all CPUs) or a number; does not change the result", "threads")


class EvalResources(Settings):
    """Files and the device of an evaluation: they decide which metrics are available, not their values."""

    section: ClassVar[str] = "eval"

    inception_weights: str = setting(
        "",
        "weights for fid, kid, inception_score, precision and recall: torch-fidelity's file, or a .safetensors of its "
        "tensors; by default found locally or downloaded once",
        "path",
    )
    clip_weights: str = setting(
        "",
        "weights for fid_clip and kid_clip: a .safetensors as OpenCLIP publishes OpenAI's; by default found locally, "
        "or downloaded once (605 MB) if --metrics names them",
        "path",
    )
    statistics: str = setting("", "an .npz with mu and sigma of another data set, as the reference of the FID", "path")
    device: Device = setting("auto", _DEVICE)


class ReportConfig(Settings):
    """What ``facegan report`` writes."""

    section: ClassVar[str] = "report"

    explore: bool = setting(
        False, "write a folder with a page that draws new faces, instead of one file; needs facegan[onnx]"
    )


SECTIONS: dict[str, tuple[type[Settings], ...]] = {
    "prep": (RecipePaths, PhotosConfig, PrepConfig),
    "train": (FacesConfig, TrainConfig),
    "eval": (EvalResources, EvalConfig),
    "export": (ExportConfig,),
    "report": (ReportConfig,),
}
# Settings that name a file or folder of this machine, unless they are URLs or the like.
PATHS = {
    section: [name for config in configs for name in config.model_fields if config.unit(name).startswith("path")]
    for section, configs in SECTIONS.items()
}


def names_of(section: str) -> list[str]:
    """All settings of a section."""
    return [name for config in SECTIONS[section] for name in config.model_fields]

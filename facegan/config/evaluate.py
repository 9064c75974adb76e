"""Settings of ``facegan eval``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from facegan.config.base import Positive, Settings
from facegan.errors import one_of, suggest

# The metrics of `facegan eval`, by name: what each says, which way is better, what it needs.

# "as real": neither less nor more, but as real faces have it.
Better = Literal["less", "more", "as real"]


@dataclass(frozen=True)
class Metric:
    """
    Attributes:
        what: in a few words, for people.
        least_images: on either side; of fewer it can't be computed.
    """

    name: str
    better: Better
    what: str
    least_images: int = 2


_ALL = (
    Metric("fid", "less", "Fréchet distance of Inception features"),
    Metric("kid", "less", "kernel distance of Inception features"),
    Metric("inception_score", "as real", "Inception Score, made for ImageNet's classes", least_images=10),
    Metric("precision", "more", "share of samples among real faces (Inception)", least_images=4),
    Metric("recall", "more", "share of real faces among samples (Inception)", least_images=4),
    Metric("fid_clip", "less", "Fréchet distance of CLIP's features"),
    Metric("kid_clip", "less", "kernel distance of CLIP's features"),
    Metric("swd", "less", "sliced Wasserstein distance of patches, × 1000", least_images=1),
    Metric("frechet_random", "less", "Fréchet distance of a random net's features"),
    Metric("density", "as real", "how densely real faces lie about samples", least_images=6),
    Metric("coverage", "more", "share of real faces that have samples near", least_images=6),
    Metric("ms_ssim", "as real", "how alike random pairs of samples are"),
    Metric("one_face", "more", "share in which the detector finds one face", least_images=1),
    Metric("keypoints", "less", "distance of where eyes, noses, mouths are"),
    Metric("copied", "less", "share that copies a face of the training", least_images=1),
)
METRIC_TABLE: dict[str, Metric] = {metric.name: metric for metric in _ALL}
# What a training may measure on the way: seconds, and no weights.
TRAINING_METRICS: tuple[str, ...] = ("swd", "frechet_random", "density", "coverage", "ms_ssim")


def better_of(name: str) -> Better:
    """Which way a value is better; parts of a metric (``swd_64``) go its way.

    Raises:
        KeyError: there is no such metric.
    """
    return METRIC_TABLE[metric_of(name)].better


def metric_of(name: str) -> str:
    """The metric that a value belongs to: ``swd`` for ``swd_64``."""
    return name if name in METRIC_TABLE else name.rpartition("_")[0]


def _metrics(text: str) -> str:
    """Names by comma, each once, in the order given; or ``auto``."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if names == ["auto"]:
        return "auto"
    for name in names:
        if name not in METRIC_TABLE:
            raise ValueError(
                f"--metrics {text}: there is no '{name}', only auto, {one_of(METRIC_TABLE)}."
                f"{suggest(name, METRIC_TABLE)}"
            )
    if not names:
        raise ValueError("--metrics: name one at least, or auto.")
    return ",".join(names)


class EvalConfig(Settings):
    """Everything that decides what ``facegan eval`` measures."""

    section: ClassVar[str] = "eval"

    n: Positive = Field(
        default=10_000, description="samples, and real faces, that are compared; all where there are fewer"
    )
    split: Literal["auto", "train", "val", "test"] = Field(
        default="auto", description="real faces; auto: test where the dataset has it, else train"
    )
    metrics: Annotated[str, AfterValidator(_metrics)] = Field(
        default="auto", description="names by comma, as the table has them; auto: all that can be had here"
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        default=0, description="of latents, of which real faces, and of random places, directions and pairs"
    )
    kid_subsets: Positive = Field(default=100, description="subsets that KID is the mean of, of 1,000 images at most")
    neighbours: Annotated[int, Field(ge=0, le=256)] = Field(
        default=32, description="samples in the picture with the faces of the training nearest to them; 0: no picture"
    )

    @property
    def asked(self) -> tuple[str, ...]:
        """The metrics that are asked for, in the table's order."""
        names = METRIC_TABLE if self.metrics == "auto" else self.metrics.split(",")
        return tuple(name for name in METRIC_TABLE if name in names)

    @property
    def by_name(self) -> bool:
        """Somebody has named the metrics: one that can't be is an error then, and not absent."""
        return self.metrics != "auto"

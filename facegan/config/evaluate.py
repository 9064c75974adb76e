"""Settings of ``facegan eval``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator

from facegan.config.base import Positive, Seed, Settings, names_among, setting

Better = Literal["lower", "higher", "close to real"]  # "close to real": best where it equals the value of real faces


@dataclass(frozen=True)
class Metric:
    """A metric of `facegan eval`. ``what``: a few words for people. ``least_images``: minimum on each side."""

    name: str
    better: Better
    what: str
    least_images: int = 2
    during_training: bool = False  # only there
    tolerance: float | None = None  # values up to that of real faces and this are equally good, so the newest is best


_ALL = (
    Metric("fid", "lower", "Fréchet distance of Inception features"),
    Metric("kid", "lower", "kernel distance of Inception features"),
    Metric("inception_score", "close to real", "Inception Score, made for ImageNet's classes", least_images=10),
    Metric("precision", "higher", "share of samples among real faces (Inception)", least_images=4),
    Metric("recall", "higher", "share of real faces among samples (Inception)", least_images=4),
    Metric("fid_clip", "lower", "Fréchet distance of CLIP's features"),
    Metric("kid_clip", "lower", "kernel distance of CLIP's features"),
    Metric("swd", "lower", "sliced Wasserstein distance of patches, × 1000", least_images=1),
    Metric("frechet_random", "lower", "Fréchet distance of a random net's features"),
    Metric("density", "close to real", "how many real faces are near a sample", least_images=6),
    Metric("coverage", "higher", "share of real faces with a sample nearby", least_images=6),
    Metric("ms_ssim", "close to real", "similarity of random pairs of samples"),
    Metric("one_face", "higher", "share of images with exactly one detected face", least_images=1),
    Metric("keypoints", "lower", "distance between positions of eyes, noses, mouths"),
    # The tolerance is 5 standard errors of CelebA's 0.2 % in 2,048 samples.
    Metric("copied", "lower", "share that copies a training face", least_images=1, tolerance=0.005),
    Metric("nearest", "lower", "how much nearer the nearest training face is than the tenth", 1, True, 0.005),
)
METRIC_TABLE: dict[str, Metric] = {metric.name: metric for metric in _ALL}
# Metrics available during training: they take seconds and need no downloaded weights.
TRAINING_METRICS: tuple[str, ...] = ("swd", "frechet_random", "density", "coverage", "ms_ssim", "copied", "nearest")
EVAL_METRICS = tuple(name for name, metric in METRIC_TABLE.items() if not metric.during_training)


def metric_of(name: str) -> str:
    """The metric of a value: ``swd`` for ``swd_64``."""
    return name if name in METRIC_TABLE else name.rpartition("_")[0]


def _metrics(text: str) -> str:
    names = names_among(text, ("auto", *EVAL_METRICS), "--metrics", "there is no metric '{}'")
    if not names:
        raise ValueError("--metrics is empty. Name at least one metric, or auto.")
    return ",".join(names)


class EvalConfig(Settings):
    """Everything that decides what ``facegan eval`` measures."""

    section: ClassVar[str] = "eval"
    options: ClassVar[str] = "split n metrics groups seed"

    n: Positive = setting(10_000, "number of samples, and of real faces, to compare; all if there are fewer", "images")
    split: Literal["auto", "train", "val", "test"] = setting("auto", "real faces; auto: test if it exists, else train")
    metrics: Annotated[str, AfterValidator(_metrics)] = setting(
        "auto", "names separated by commas; auto: every metric available on this machine"
    )
    seed: Seed = setting(0, "seed of latents, of the choice of real faces, and of random projections and pairs")
    groups: bool | None = setting(
        None, "compare groups by attributes, yaw and the like; by default with --metrics auto if faces have attributes"
    )
    kid_subsets: Positive = setting(100, "subsets, of at most 1,000 images, that KID averages over", "subsets")
    neighbours: int = setting(
        32, "samples in the picture of their nearest training faces; 0: no picture", "samples", ge=0, le=256
    )

    @property
    def asked(self) -> tuple[str, ...]:
        """The requested metrics in the table's order."""
        names = EVAL_METRICS if self.metrics == "auto" else self.metrics.split(",")
        return tuple(name for name in METRIC_TABLE if name in names)

    @property
    def by_name(self) -> bool:
        """The user named the metrics: one that is unavailable is an error then, and not skipped."""
        return self.metrics != "auto"

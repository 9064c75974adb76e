"""The metrics of `facegan eval`, by name: what each says, which way is better, what it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
ON_THE_WAY: tuple[str, ...] = ("swd", "frechet_random", "density", "coverage", "ms_ssim")


def better_of(name: str) -> Better:
    """Which way a value is better; parts of a metric (``swd_64``) go its way.

    Raises:
        KeyError: there is no such metric.
    """
    return METRIC_TABLE[metric_of(name)].better


def metric_of(name: str) -> str:
    """The metric that a value belongs to: ``swd`` for ``swd_64``."""
    return name if name in METRIC_TABLE else name.rpartition("_")[0]

"""`evaluate`: a generator, or a folder of images, against real faces, with the protocol that its values depend on."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from facegan.config import METRIC_TABLE, EvalConfig, metric_of
from facegan.config.resources import EvalResources
from facegan.console import Console
from facegan.errors import DiskError, ModelError, SettingsError
from facegan.evaluate.extractors import (
    NEIGHBOURS,
    ClipFeatures,
    Extractor,
    InceptionFeatures,
    OneFace,
    Pairs,
    Patches,
    RandomNet,
)
from facegan.evaluate.fid import KID_SUBSET, SCORE_PARTS, read_statistics
from facegan.evaluate.memorization import COMPARED_WITH, RATIO
from facegan.evaluate.pretrained import CLIP, INCEPTION, LOGITS, POOL, Clip, Inception, PretrainedWeights, find_weights
from facegan.evaluate.random_net import RANDOM_NET
from facegan.evaluate.reference import MIN_TRAINING_FACES, ReferenceFaces, TrainingFaces, dataset_info, open_split
from facegan.evaluate.target import EvalTarget, SampleFn, images_of
from facegan.files import sha256_file
from facegan.nets import load_generator
from facegan.plugins import Trust
from facegan.system import choose_device

FEW_IMAGES = 1_000  # at which the FID's bias is several units
_COPIES_BY = {"ratio": RATIO, "against": COMPARED_WITH}
_PACKAGES = ("facegan", "torch", "torch-fidelity", "numpy", "mediapipe")


@dataclass
class Evaluation:
    """
    Attributes:
        metrics: values by name; parts of a metric are named METRIC_PART.
        real_vs_real: the same of real faces against other real faces.
        skipped: why a metric is missing, by name.
        picture: samples with their nearest training faces, uint8 (H, W, 3).
    """

    measured: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    real_vs_real: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    picture: NDArray[np.uint8] | None = None

    def to_json(self, neighbours: Path | None = None) -> dict[str, Any]:
        """The content of eval.json; ``neighbours`` is the path of the picture."""
        return {
            "measured": self.measured,
            "metrics": self.metrics,
            "floors": self.real_vs_real,
            "absent": self.skipped,
            "protocol": self.protocol,
            "warnings": self.warnings,
            **({"neighbours": str(neighbours)} if neighbours else {}),
            "seconds": self.seconds,
        }

    def rows(self) -> list[list[str]]:
        """A row per metric: name, value, which way is better, real against real, comparison of both, meaning."""
        rows = []
        for name, metric in METRIC_TABLE.items():
            if name in self.metrics:
                value, real = self.metrics[name], self.real_vs_real.get(name)
                deviation = self.metrics.get(f"{name}_std")
                text = _number(value) + (f" ± {_number(deviation)}" if deviation is not None else "")
                comparison = "" if real is None else _compare(name, value, real)
                rows.append(
                    [name, text, metric.better, "–" if real is None else _number(real), comparison, metric.what]
                )
        return rows


def _compare(name: str, value: float, real: float) -> str:
    """``4.1 ×`` or ``87 %`` of the value of real faces, or the difference from it."""
    better = METRIC_TABLE[name].better
    # The kernel distance of real faces varies about 0, so a factor would mean nothing.
    if better == "less" and real > 0 and name not in ("kid", "kid_clip", "copied"):
        return f"{value / real:,.1f} ×"
    if better == "more" and real > 0:
        return f"{100 * value / real:.0f} %"
    return f"{value - real:+.3g}"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}" if abs(value) >= 0.001 else f"{value:.2g}"


def evaluate(
    target: EvalTarget,
    shards: str,
    config: EvalConfig,
    sample: SampleFn,
    *,
    resources: EvalResources | None = None,
    trust_code: Trust = False,
    console: Console | None = None,
) -> Evaluation:
    """Measure ``target`` against the faces of ``shards``.

    Args:
        sample: draws a generator's images.
        trust_code: as in `facegan.load_generator`.

    Raises:
        SettingsError: too few images for a metric asked for by name, or images of another size.
        DatasetError: the faces, or the folder's images, cannot be read.
        CheckpointError: the generator cannot be read.
        ModelError: named weights or statistics cannot be used, or no metric is available.
    """
    started = time.monotonic()
    resources, console = resources or EvalResources(), console or Console(quiet=True)
    evaluator = _Evaluator(target, shards, config, resources, trust_code, console)
    extractors = evaluator.extractors()  # before hours of work: reports unavailable metrics
    found = evaluator.measure(extractors, sample)
    found.seconds = round(time.monotonic() - started, 1)
    return found


class _Evaluator:
    """The metrics that remain (``wanted``), and the evaluation as it grows (``found``)."""

    def __init__(
        self,
        target: EvalTarget,
        shards: str,
        config: EvalConfig,
        resources: EvalResources,
        trust_code: Trust,
        console: Console,
    ) -> None:
        self.target, self.config, self.resources, self.console = target, config, resources, console
        self.device = str(choose_device(resources.device))
        is_folder = target.kind == "folder"
        self.generator = None if is_folder else load_generator(target.path, self.device, trust_code=trust_code)
        self.real = ReferenceFaces(open_split(shards, config.split), config.n, config.seed)
        self.training = TrainingFaces(shards, self.real.split, target.trained_on)
        self.wanted: list[str] = list(config.asked)
        self.reasons: list[str] = []  # in full; `found.skipped` has first lines
        self.found = Evaluation(target.to_json(), protocol=self._protocol(shards))
        if config.split == "auto":
            why = "" if self.real.split == "test" else " (the dataset has no split test)"
            console.note(f"Real faces: the split {self.real.split}{why}")

    def _protocol(self, shards: str) -> dict[str, Any]:
        """Everything that the values depend on; single metrics add to it later."""
        real, half = self.real, self.real.count // 2
        return {
            "samples": 0,
            "faces": real.reference.stop,
            "floor_faces": [half, half],
            "dataset": {"path": shards, "fingerprint": real.fingerprint},
            "split": real.split,
            "training_split": self.training.split,
            "training_faces": len(self.training),
            "size": real.size,
            "channels": real.channels,
            "crop": dataset_info(shards).settings.get("crop", ""),
            "resize": "by area; Lanczos where enlarged",
            "quantisation": self.target.quantization,
            "seed": self.config.seed,
            "random_net": RANDOM_NET,
            "neighbours_k": NEIGHBOURS,
            "copies": _COPIES_BY,
            "versions": _versions(),
        }

    def extractors(self) -> list[Extractor]:
        """The extractors of the wanted metrics. Metrics that are unavailable are skipped."""
        seed = self.config.seed
        light: tuple[Extractor, ...] = (Patches(seed), RandomNet(), Pairs(seed))
        found: list[Extractor] = [extractor for extractor in light if self._wanted_of(extractor.metrics)]
        for metrics, make in (
            (InceptionFeatures.metrics, self._inception),
            (ClipFeatures.metrics, self._clip),
            (OneFace.metrics, self._one_face),
        ):
            if (wanted := self._wanted_of(metrics)) and (extractor := make(wanted)):
                found.append(extractor)
        return found

    def _inception(self, wanted: tuple[str, ...]) -> Extractor | None:
        file = self.resources.statistics
        statistics = read_statistics(file) if file else None
        try:
            weights = find_weights("inception", self.resources.inception_weights)
            net = Inception(weights, self.device, self.console)
        except (ModelError, DiskError) as error:
            if self.resources.inception_weights:
                raise
            self._skip(wanted, str(error))
            return None
        self.found.protocol["extractor"] = self._describe("Inception v3", weights, wanted) | {
            "name": INCEPTION,
            "layers": [POOL, LOGITS],
            "resize": "bilinear to 299×299, as TensorFlow 1 does it",
        }
        if file:
            self.found.protocol["statistics"] = {"file": Path(file).name, "sha256": sha256_file(Path(file))}
        return InceptionFeatures(net, self.config.kid_subsets, statistics)

    def _clip(self, wanted: tuple[str, ...]) -> Extractor | None:
        by_name = self.config.by_name
        try:
            weights = find_weights("clip", self.resources.clip_weights, fetch=by_name)
            net = Clip(weights, self.device, self.console)
        except (ModelError, DiskError) as error:
            if self.resources.clip_weights:
                raise
            self._skip(wanted, str(error), self.console.warn if by_name else self.console.note)
            return None
        self.found.protocol["clip"] = self._describe("CLIP ViT-B/32", weights, wanted) | {
            "name": CLIP if weights.published else f"CLIP vision transformer of {net.side}×{net.side}",
            "resize": f"bilinear to {net.side}×{net.side}, as TensorFlow 1 does it",
        }
        return ClipFeatures(net, self.config.kid_subsets)

    def _one_face(self, wanted: tuple[str, ...]) -> Extractor | None:
        try:
            extractor = OneFace()
        except ModelError as error:
            self._skip(wanted, str(error))
            return None
        self.found.protocol["detector"] = extractor.key()
        return extractor

    def _describe(self, title: str, weights: PretrainedWeights, wanted: tuple[str, ...]) -> dict[str, Any]:
        """Print the weights, warn if they are not the published ones, and return their part of the protocol."""
        self.console.note(f"{title}: {weights.path.name}, SHA-256 {weights.sha256}")
        if not weights.published:
            self.found.warnings.append(
                f"{weights.path.name} is not the published {title}: values of {', '.join(wanted)} do not compare with "
                "published ones."
            )
        return {"weights": weights.path.name, "sha256": weights.sha256, "published": weights.published}

    def measure(self, extractors: list[Extractor], sample: SampleFn) -> Evaluation:
        samples = self._samples(sample)
        self._require_enough_images(len(samples))
        for extractor in extractors:
            self._measure(extractor, samples)
        self._measure_copies(samples)
        self._warn(len(samples))
        if not self.found.metrics:
            raise ModelError("None of the requested metrics is available.\n" + "\n".join(dict.fromkeys(self.reasons)))
        if self.real.cache.hits:
            self.console.note(f"From the cache of real faces: {', '.join(dict.fromkeys(self.real.cache.hits))}.")
        return self.found

    def _samples(self, sample: SampleFn) -> Tensor:
        config, real, protocol = self.config, self.real, self.found.protocol
        self.console.note(f"Images of {self.target.path}")
        shape = real.size, real.channels
        samples = images_of(self.target, self.generator, config.n, config.seed, shape, sample)
        protocol["samples"] = len(samples)
        if "kid" in self.wanted or "kid_clip" in self.wanted:
            size = min(KID_SUBSET, len(samples), real.reference.stop)
            protocol["kid"] = {"subset_size": size, "subsets": config.kid_subsets}
            self.console.note(f"KID: kid_subset_size = {size:,} (min(1,000, images)), {config.kid_subsets} subsets")
        if "inception_score" in self.wanted:
            protocol["inception_score_parts"] = SCORE_PARTS
        return samples

    def _require_enough_images(self, samples: int) -> None:
        fewest = min(samples, self.real.reference.stop)
        for name in list(self.wanted):
            least = METRIC_TABLE[name].least_images
            why = ""
            if fewest < least:
                why = f"it needs {least:,} samples and {least:,} real faces, and there are {fewest:,}"
            elif name == "copied" and len(self.training) < MIN_TRAINING_FACES:
                why = f"it needs {MIN_TRAINING_FACES} training faces, and there are {len(self.training)}"
            if why and self.config.by_name:
                raise SettingsError(f"--metrics {name}: {why}. Leave it out, or use more images.")
            if why:
                self._skip((name,), why)

    def _measure(self, extractor: Extractor, samples: Tensor) -> None:
        wanted, found = self._wanted_of(extractor.metrics), self.found
        if not wanted:
            return
        self.console.note(", ".join(wanted))
        try:
            ours, faces = extractor.extract(samples), self.real.extract(extractor, self.real.reference)
        except ModelError as error:  # mediapipe cannot be imported
            self._skip(wanted, str(error))
            return
        values = extractor.compare(ours, faces, wanted)
        for name in wanted:
            if name not in values:  # only keypoints
                self._skip((name,), "a face was found in too few of the images")
            elif not math.isfinite(values[name]):
                self._skip((name,), f"its value is {values.pop(name)}")
        new = {name: value for name, value in values.items() if metric_of(name) in wanted}
        found.metrics |= new
        half = self.real.count // 2
        enough = tuple(name for name in wanted if name in values and half >= METRIC_TABLE[name].least_images)
        real = self.real.real_vs_real(extractor, enough) if enough else {}
        found.real_vs_real |= {
            name: real[name] for name in new if name in real and metric_of(name) in enough and not name.endswith("_std")
        }

    def _measure_copies(self, samples: Tensor) -> None:
        training, found = self.training, self.found
        if training.is_other_dataset:
            found.warnings.append(
                f"{self.target.path} was trained on other faces: copies are searched among the faces of this dataset."
            )
        if "copied" in self.wanted:
            self.console.note(f"copied: among {len(training):,} training faces")
            found.metrics["copied"] = training.copy_rate(samples)
            if training.is_separate:
                rows = self.real.reference
                key = {"training": training.fingerprint, "rows": rows.stop, "view": _COPIES_BY}
                real = self.real.cache.get(
                    "copied-real-vs-real",
                    key,
                    lambda: {"copied": np.array([training.copy_rate(self.real.images()[rows])])},
                )
                found.real_vs_real["copied"] = float(real["copied"][0])
        if self.config.neighbours and len(training) >= MIN_TRAINING_FACES:
            found.picture = training.picture(samples[: self.config.neighbours])

    def _warn(self, samples: int) -> None:
        counts = {"samples": samples, "real faces": self.real.reference.stop}
        few = [f"{count:,} {name}" for name, count in counts.items() if count <= FEW_IMAGES]
        if few and ("fid" in self.found.metrics or "fid_clip" in self.found.metrics):
            self.found.warnings.append(
                f"The FID of {' and '.join(few)} is biased upwards: compare it only with values of as many images."
            )
        for text in self.found.warnings:
            self.console.warn(text)

    def _wanted_of(self, metrics: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in metrics if name in self.wanted)

    def _skip(self, metrics: tuple[str, ...], why: str, report: Callable[[str], None] | None = None) -> None:
        self.reasons.append(why)
        line = why.splitlines()[0]
        (report or self.console.warn)(f"without {', '.join(metrics)}: {line}")
        for name in metrics:
            self.wanted.remove(name)
            self.found.skipped[name] = line


def _versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute; "" if one is not installed."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = ""
    return versions

"""`evaluate`: a generator, or a folder of images, against real faces, and what came of it with its protocol."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator
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
from facegan.evaluate.extractors import NEIGHBOURS, ClipNet, Extractor, InceptionNet, OneFace, Pairs, Patches, RandomNet
from facegan.evaluate.features import CLIP as CLIP_NETWORK
from facegan.evaluate.features import INCEPTION, LOGITS, POOL, RANDOM_NET, Clip, Inception
from facegan.evaluate.fid import KID_SUBSET, SCORE_PARTS, read_statistics
from facegan.evaluate.memorization import AGAINST, RATIO
from facegan.evaluate.pretrained import PretrainedWeights, find_weights
from facegan.evaluate.reference import LEAST_FACES, ReferenceFaces, TrainingFaces, info_of, open_split
from facegan.evaluate.target import EvalTarget, SampleFn, generator_of, images_of, quantisation
from facegan.files import sha256_file
from facegan.plugins import Trust
from facegan.system import choose_device

# All that the values of an evaluation hang on, as eval.json tells it.

COPIES_BY = {"ratio": RATIO, "against": AGAINST}
_PACKAGES = ("facegan", "torch", "torch-fidelity", "numpy", "mediapipe")


def protocol_of(
    shards: str, real: ReferenceFaces, training: TrainingFaces, subject: EvalTarget, config: EvalConfig
) -> dict[str, Any]:
    """What is known before anything is computed; what single metrics need is added where they are measured.

    Raises:
        DatasetError: the dataset is gone.
    """
    half = real.count // 2
    return {
        "samples": 0,
        "faces": real.reference.stop,
        "floor_faces": [half, half],
        "dataset": {"path": shards, "fingerprint": real.fingerprint},
        "split": real.split,
        "training_split": training.split,
        "training_faces": len(training),
        "size": real.size,
        "channels": real.channels,
        "crop": info_of(shards).settings.get("crop", ""),
        "resize": "by area; Lanczos where enlarged",
        "quantisation": quantisation(subject),
        "seed": config.seed,
        "random_net": RANDOM_NET,
        "neighbours_k": NEIGHBOURS,
        "copies": COPIES_BY,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of all that computes, by name; "" for what is not installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found


# What came of measuring.


@dataclass
class Evaluation:
    """What came of it.

    Attributes:
        metrics: name → value; parts of a metric begin with its name.
        floors: name → what real faces come to beside other real ones.
        absent: metric → why it could not be had. A metric is in one of both.
        picture: uint8 (H, W, 3): samples and the training's faces nearest to them.
    """

    measured: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    floors: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    picture: NDArray[np.uint8] | None = None

    def to_json(self, neighbours: Path | None = None) -> dict[str, Any]:
        told = {name: getattr(self, name) for name in ("measured", "metrics", "floors", "absent", "protocol")}
        told["warnings"] = self.warnings
        if neighbours:
            told["neighbours"] = str(neighbours)
        return {**told, "seconds": self.seconds}


FEW_IMAGES = 1_000  # with which a FID is biased by several units


def evaluate(
    subject: EvalTarget,
    shards: str,
    config: EvalConfig,
    sampling: SampleFn,
    *,
    resources: EvalResources | None = None,
    trust_code: Trust = False,
    console: Console | None = None,
) -> Evaluation:
    """Measures ``subject`` against the faces of ``shards``.

    Args:
        sampling: draws a generator's images: this room knows none of training, where that stands.

    Raises:
        SettingsError: metrics were asked for by name that these images are too few for; images of another size.
        DatasetError: the faces, or the folder's images, can't be read.
        CheckpointError: the generator can't be read.
        ModelError: weights or statistics that were named can't be used, or nothing that was asked for can be had.
    """
    return _Evaluating(
        subject, shards, config, sampling, resources or EvalResources(), trust_code, console or Console(quiet=True)
    ).run()


class _Evaluating:
    def __init__(
        self,
        subject: EvalTarget,
        shards: str,
        config: EvalConfig,
        sampling: SampleFn,
        resources: EvalResources,
        trust_code: Trust,
        console: Console,
    ) -> None:
        self.subject, self.shards, self.config, self.sampling = subject, shards, config, sampling
        self.resources, self.console, self.device = resources, console, str(choose_device(resources.device))
        self.trust_code = trust_code
        self.found = Evaluation(subject.to_json())
        self.asked: list[str] = list(config.asked)
        self.reasons: list[str] = []  # why some are absent, in whole

    def run(self) -> Evaluation:
        started = time.monotonic()
        config = self.config
        self.generator = generator_of(self.subject, self.device, self.trust_code)
        self.real = ReferenceFaces(open_split(self.shards, config.split), config.n, config.seed)
        self.training = TrainingFaces(self.shards, self.real.split, self.subject.trained_on)
        self.found.protocol = protocol_of(self.shards, self.real, self.training, self.subject, config)
        self._say_split()
        views = list(self._views())
        self.samples = self._draw()
        self._refuse_few()
        for view in views:
            self._measure(view)
        self._look_for_copies()
        self._warn()
        if not self.found.metrics:
            reasons = "\n".join(dict.fromkeys(self.reasons))
            raise ModelError(f"Nothing of what was asked for can be had.\n{reasons}")
        if self.real.kept.found:
            self.console.note(f"From the cache, of real faces: {', '.join(dict.fromkeys(self.real.kept.found))}.")
        self.found.seconds = round(time.monotonic() - started, 1)
        return self.found

    def _views(self) -> Iterator[Extractor]:
        """Of the metrics that are asked for; what can't be had is told before hours of work."""
        seed = self.config.seed
        for view in (Patches(seed), RandomNet(), Pairs(seed)):
            if self._wanted(view.metrics):
                yield view
        if (wanted := self._wanted(InceptionNet.metrics)) and (inception := self._inception(wanted)):
            yield inception
        if (wanted := self._wanted(ClipNet.metrics)) and (clip := self._clip(wanted)):
            yield clip
        if wanted := self._wanted(OneFace.metrics):
            try:
                view = OneFace()
                self.found.protocol["detector"] = view.key()
                yield view
            except ModelError as error:
                self._leave_out(wanted, str(error))

    def _inception(self, wanted: tuple[str, ...]) -> InceptionNet | None:
        statistics = read_statistics(self.resources.statistics) if self.resources.statistics else None
        try:
            weights = find_weights("inception", self.resources.inception_weights)
            net = Inception(weights, self.device, self.console)
        except (ModelError, DiskError) as error:
            if self.resources.inception_weights:
                raise
            self._leave_out(wanted, str(error))
            return None
        self.found.protocol["extractor"] = self._told("Inception v3", weights, wanted) | {
            "name": INCEPTION,
            "layers": [POOL, LOGITS],
            "resize": "bilinear to 299×299, as TensorFlow 1 does it",
        }
        if self.resources.statistics:
            told = {
                "file": Path(self.resources.statistics).name,
                "sha256": sha256_file(Path(self.resources.statistics)),
            }
            self.found.protocol["statistics"] = told
        return InceptionNet(net, self.config.kid_subsets, statistics)

    def _clip(self, wanted: tuple[str, ...]) -> ClipNet | None:
        try:
            weights = find_weights("clip", self.resources.clip_weights, fetch=self.config.by_name)
            net = Clip(weights, self.device, self.console)
        except (ModelError, DiskError) as error:
            if self.resources.clip_weights:
                raise
            self._leave_out(wanted, str(error), say=self.console.warn if self.config.by_name else self.console.note)
            return None
        self.found.protocol["clip"] = self._told("CLIP ViT-B/32", weights, wanted) | {
            "name": CLIP_NETWORK if net.weights.published else f"CLIP vision transformer of {net.side}×{net.side}",
            "resize": f"bilinear to {net.side}×{net.side}, as TensorFlow 1 does it",
        }
        return ClipNet(net, self.config.kid_subsets)

    def _told(self, title: str, weights: PretrainedWeights, wanted: tuple[str, ...]) -> dict[str, Any]:
        """What the protocol has of a network's weights; also said, and warned of where they are others' own."""
        self.console.note(f"{title}: {weights.path.name}, SHA-256 {weights.sha256}")
        if not weights.published:
            self.found.warnings.append(
                f"{weights.path.name} is not the published {title}: no value of {', '.join(wanted)} compares with "
                "published ones."
            )
        return {"weights": weights.path.name, "sha256": weights.sha256, "published": weights.published}

    def _draw(self) -> Tensor:
        config, real = self.config, self.real
        self.console.note(f"{self.subject.path}: its images")
        shape = real.size, real.channels
        images = images_of(self.subject, self.generator, config.n, config.seed, shape, self.sampling)
        self.found.protocol["samples"] = len(images)
        if "kid" in self.asked or "kid_clip" in self.asked:
            size = min(KID_SUBSET, len(images), real.reference.stop)
            self.found.protocol["kid"] = {"subset_size": size, "subsets": config.kid_subsets}
            self.console.note(f"KID: kid_subset_size = {size:,} (min(1,000, images)), {config.kid_subsets} subsets")
        if "inception_score" in self.asked:
            self.found.protocol["inception_score_parts"] = SCORE_PARTS
        return images

    def _measure(self, view: Extractor) -> None:
        wanted = self._wanted(view.metrics)
        if not wanted:
            return
        self.console.note(", ".join(wanted))
        try:
            seen, faces = view.see(self.samples), self.real.seen(view, self.real.reference)
        except ModelError as error:  # mediapipe can't be loaded
            self._leave_out(wanted, str(error))
            return
        values = view.compare(seen, faces, wanted)
        for name in wanted:
            if name not in values:  # keypoints alone: of samples in which no face is seen
                self._leave_out((name,), "a face was found in too few of the images")
            elif not math.isfinite(values[name]):
                self._leave_out((name,), f"it came to {values.pop(name)}, which is no number to compare")
        self.found.metrics |= {name: value for name, value in values.items() if metric_of(name) in wanted}
        self._measure_floor(view, tuple(name for name in wanted if name in values))

    def _measure_floor(self, view: Extractor, wanted: tuple[str, ...]) -> None:
        half = self.real.count // 2
        able = tuple(name for name in wanted if half >= METRIC_TABLE[name].least_images)
        floors = self.real.floor(view, able) if able else {}
        of_whole = {name for name in self.found.metrics if metric_of(name) in able and not name.endswith("_std")}
        self.found.floors |= {name: floors[name] for name in self.found.metrics if name in of_whole and name in floors}

    def _look_for_copies(self) -> None:
        training = self.training
        if training.others:
            self.found.warnings.append(
                f"{self.subject.path} was trained on other faces than these: what is said of copies is about these."
            )
        if "copied" in self.asked:
            self.console.note(f"copied: of {len(training):,} faces")
            self.found.metrics["copied"] = training.copied(self.samples)
            if training.unseen:  # faces of the training are copies of themselves
                rows = self.real.reference
                key = {"training": training.fingerprint, "rows": rows.stop, "view": COPIES_BY}
                floor = self.real.kept.get(
                    "floor-copied", key, lambda: {"copied": np.array([training.copied(self.real.images()[rows])])}
                )
                self.found.floors["copied"] = float(floor["copied"][0])
        if self.config.neighbours and len(training) >= LEAST_FACES:
            self.found.picture = training.picture(self.samples[: self.config.neighbours])

    def _refuse_few(self) -> None:
        """Metrics that there are too few images for are absent, or an error where they were asked for by name."""
        fewest = min(len(self.samples), self.real.reference.stop)
        for name in list(self.asked):
            least = METRIC_TABLE[name].least_images
            if fewest >= least:
                continue
            why = f"it needs {least:,} images on either side, and there are {fewest:,}"
            if self.config.by_name:
                raise SettingsError(f"--metrics {name}: {why}. Leave it out, or bring more images.")
            self._leave_out((name,), why)
        if "copied" in self.asked and len(self.training) < LEAST_FACES:
            why = f"it needs {LEAST_FACES} faces of the training, and there are {len(self.training)}"
            if self.config.by_name:
                raise SettingsError(f"--metrics copied: {why}. Leave it out.")
            self._leave_out(("copied",), why)

    def _wanted(self, metrics: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in metrics if name in self.asked)

    def _leave_out(self, metrics: tuple[str, ...], why: str, say: Callable[[str], None] | None = None) -> None:
        self.reasons.append(why)
        line = why.splitlines()[0]
        (say or self.console.warn)(f"without {', '.join(metrics)}: {line}")
        for name in metrics:
            self.asked.remove(name)
            self.found.absent[name] = line

    def _say_split(self) -> None:
        if self.config.split == "auto":
            why = "" if self.real.split == "test" else " (the dataset has no split test)"
            self.console.note(f"Real faces: the split {self.real.split}{why}")

    def _warn(self) -> None:
        counts = {"samples": len(self.samples), "real faces": self.real.reference.stop}
        few = {name: count for name, count in counts.items() if count <= FEW_IMAGES}
        if few and ("fid" in self.found.metrics or "fid_clip" in self.found.metrics):
            told = " and ".join(f"{count:,} {name}" for name, count in few.items())
            self.found.warnings.append(
                f"A FID of {told} is too large by its bias: it compares with none of another number of images."
            )
        for text in self.found.warnings:
            self.console.warn(text)


# An evaluation for people: a row a metric, with real faces beside it.


def table_rows(found: Evaluation) -> list[list[str]]:
    """Name, value, which way is better, the value of real faces, how near to that, and what the metric is.

    Those that are absent have no row: `facegan.evaluate.evaluation` has warned of them.
    """
    rows = []
    for name, metric in METRIC_TABLE.items():
        if name in found.metrics:
            value, floor = found.metrics[name], found.floors.get(name)
            spread = found.metrics.get(f"{name}_std")
            told = number(value) + (f" ± {number(spread)}" if spread is not None else "")
            real = "–" if floor is None else number(floor)
            rows.append([name, told, metric.better, real, _direction_text(name, value, floor), metric.what])
    return rows


def _direction_text(name: str, value: float, floor: float | None) -> str:
    """How far a value is from that of real faces: ``4.1 ×`` it, ``87 %`` of it, or the difference."""
    if floor is None:
        return ""
    better = METRIC_TABLE[name].better
    # The kernel distance of real faces is about nothing, and below it as often as above: no factor tells anything.
    if better == "less" and floor > 0 and name not in ("kid", "kid_clip", "copied"):
        return f"{value / floor:,.1f} ×"
    if better == "more" and floor > 0:
        return f"{100 * value / floor:.0f} %"
    return f"{value - floor:+.3g}"


def number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}" if abs(value) >= 0.001 else f"{value:.2g}"

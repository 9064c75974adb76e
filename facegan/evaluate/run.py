"""``facegan eval`` and the stage ``[eval]`` of a recipe: a generator, or a folder of images, against real faces."""

from __future__ import annotations

import math
import platform
import tempfile
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from facegan.config import METRIC_TABLE, EvalConfig, metric_of
from facegan.config.resources import EvalResources
from facegan.console import Console, shown
from facegan.errors import DiskError, FaceganError, ModelError, SettingsError
from facegan.evaluate.attribute_classifier import ABOUT, LabelledFaces
from facegan.evaluate.extractors import (
    CLIP_METRICS,
    FACE_METRICS,
    INCEPTION_METRICS,
    NEIGHBOURS,
    Extractor,
    clip_features,
    inception_features,
    light_extractors,
    one_face,
)
from facegan.evaluate.fid import KID_SUBSET, SCORE_PARTS, read_statistics
from facegan.evaluate.groups import Audit
from facegan.evaluate.memorization import COMPARED_WITH, RATIO, copy_rate, neighbours_picture
from facegan.evaluate.pretrained import CLIP, INCEPTION, PretrainedNet, find_weights, load_clip, load_inception
from facegan.evaluate.random_net import RANDOM_NET
from facegan.evaluate.reference import ReferenceFaces, TrainingFaces, dataset_info, open_split
from facegan.evaluate.target import EvalTarget, find_target, images_of
from facegan.files import TEMPORARY, disk_errors, make_folder, sha256_file, write_json
from facegan.nets import NetSpec, load_generator
from facegan.nets.weights import read_generator
from facegan.plugins import Trust, is_import_path
from facegan.run_dir import EVALUATION, GROUPS
from facegan.run_dir import NEIGHBOURS as PICTURE
from facegan.sample.generate import save_png
from facegan.sample.latents import sample_attributes
from facegan.system import choose_device

_FEW_IMAGES = 1_000  # at which the FID's bias is several units
_MIN_TRAINING_FACES = COMPARED_WITH  # fewer do not show whether a sample is a copy
_COPIES_BY = {"ratio": RATIO, "against": COMPARED_WITH}
_PACKAGES = ("facegan", "torch", "torch-fidelity", "numpy", "mediapipe")


@dataclass
class Evaluation:
    """
    Attributes:
        metrics: values by name; parts of a metric are named METRIC_PART.
        real_vs_real: the same of real faces against other real faces.
        skipped: why a metric is missing, by name.
        picture: the file of samples with their nearest training faces, if it was written.
        groups: shares of groups of faces, if the dataset has attributes.
    """

    measured: dict[str, Any]
    protocol: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    real_vs_real: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    picture: Path | None = None
    groups: Audit | None = None

    def to_json(self) -> dict[str, Any]:
        """The content of eval.json."""
        return {
            "measured": self.measured,
            "metrics": self.metrics,
            "floors": self.real_vs_real,
            "absent": self.skipped,
            "protocol": self.protocol,
            "warnings": self.warnings,
            **({"neighbours": str(self.picture)} if self.picture else {}),
            **({"groups": self.groups.to_json()} if self.groups else {}),
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
                beside = ["–", ""] if real is None else [_number(real), _compare(name, value, real)]
                rows.append([name, text, metric.better, *beside, metric.what])
        return rows


def _compare(name: str, value: float, real: float) -> str:
    """``4.1 ×`` or ``87 %`` of the value of real faces, or the difference from it."""
    better = METRIC_TABLE[name].better
    # The kernel distance of real faces varies about 0, so a factor would mean nothing.
    if better == "lower" and real > 0 and name not in ("kid", "kid_clip", "copied"):
        return f"{value / real:,.1f} ×"
    if better == "higher" and real > 0:
        return f"{100 * value / real:.0f} %"
    return f"{value - real:+.3g}"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}" if abs(value) >= 0.001 else f"{value:.2g}"


def evaluate_run(
    path: Path,
    shards: str,
    config: EvalConfig,
    resources: EvalResources,
    *,
    console: Console,
    out: Path | None = None,
    trust_code: Trust = False,
) -> Evaluation:
    """Evaluate a run, a checkpoint, a generator's file or a folder of images, and write the result.

    Args:
        out: the folder for eval.json and neighbours.png; None: a run's own folder, and nothing for other targets.
        trust_code: as in `facegan.load_generator`.

    Raises:
        DiskError: ``out`` cannot be written; checked before anything is computed.
        SettingsError: too few images for a metric asked for by name, or images of another size.
        DatasetError: the faces, or the folder's images, cannot be read.
        CheckpointError: the generator cannot be read.
        ModelError: named weights or statistics cannot be used, or no metric is available.
    """
    started, target = time.monotonic(), find_target(path)
    folder = out or (path if target.kind == "run" else None)
    if folder:
        make_folder(folder)
        with disk_errors(folder), tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=TEMPORARY):
            pass  # a file can be written there
    device, is_folder = choose_device(resources.device), target.kind == "folder"
    generator = None if is_folder else load_generator(target.path, device, trust_code=trust_code)
    evaluator = _Evaluator(target, shards, config, resources, console)
    extractors = evaluator.extractors()  # before hours of work: reports unavailable metrics
    faces = evaluator.labelled_faces()
    console.note(f"Images of {target.path}")
    samples = images_of(target, generator, evaluator.real.faces, config, console)
    evaluator.measure(extractors, samples)
    found = evaluator.found
    if faces:
        if folder:
            write_json(folder / EVALUATION, found.to_json())  # hours of work, if the next step fails
        evaluator.audit(faces, samples, generator.spec if generator else None)
    if folder and config.neighbours and len(evaluator.training) >= _MIN_TRAINING_FACES:
        found.picture = folder / PICTURE
        save_png(found.picture, neighbours_picture(samples[: config.neighbours], evaluator.training))
    if folder and evaluator.missed is not None:
        save_png(folder / GROUPS, evaluator.missed)
    found.seconds = round(time.monotonic() - started, 1)
    if folder:
        write_json(folder / EVALUATION, found.to_json())
    return found


def plan(path: Path, shards: str, config: EvalConfig) -> dict[str, Any]:
    """What `evaluate_run` would measure. Writes nothing, and imports no user code: that is listed in ``not_tried``."""
    target, faces = find_target(path), open_split(shards, config.split)
    nets = "" if target.kind == "folder" else read_generator(target.path)[2].name
    return {
        "measured": target.to_json(),
        "shards": shards,
        "split": faces.split,
        "faces": min(config.n, len(faces)),
        "samples": min(config.n, target.about.get("images", config.n)),
        "metrics": list(config.asked),
        "not_tried": [nets] if is_import_path(nets) else [],
    }


class _Evaluator:
    """The metrics that remain (``wanted``), and the evaluation as it grows (``found``)."""

    def __init__(
        self, target: EvalTarget, shards: str, config: EvalConfig, resources: EvalResources, console: Console
    ) -> None:
        self.config, self.resources, self.console = config, resources, console
        self.device = choose_device(resources.device)
        faces = open_split(shards, config.split)
        self.real = ReferenceFaces(faces, config.n, config.seed)
        self.training = TrainingFaces(shards, faces, target.trained_on)
        self.wanted: list[str] = list(config.asked)
        self.reasons: list[str] = []  # in full; `found.skipped` has first lines
        self.missed: NDArray[np.uint8] | None = None  # a picture of the groups that are missed
        from_files = target.kind == "folder"
        protocol = {  # everything that the values depend on; single metrics add to it later
            "samples": 0,
            "faces": self.real.reference.stop,
            "floor_faces": [self.real.half, self.real.half],
            "dataset": {"path": shards, "fingerprint": faces.fingerprint},
            "split": faces.split,
            "training_split": self.training.faces.split,
            "training_faces": len(self.training),
            "size": faces.size,
            "channels": faces.channels,
            "crop": dataset_info(shards).settings.get("crop", ""),
            "resize": "by area; Lanczos where enlarged",
            "quantisation": "as the files have it" if from_files else "round((x + 1) · 127.5), clipped to 0 … 255",
            "seed": config.seed,
            "random_net": RANDOM_NET,
            "neighbours_k": NEIGHBOURS,
            "copies": _COPIES_BY,
            "versions": _versions(),
        }
        self.found = Evaluation(target.to_json(), protocol)
        if self.training.is_other_dataset:
            self.found.warnings.append(
                f"{target.path} was trained on other faces: copies are searched among the faces of this dataset."
            )
        if config.split == "auto":
            why = "" if faces.split == "test" else " (the dataset has no split test)"
            console.note(f"Real faces: the split {faces.split}{why}")

    def extractors(self) -> list[Extractor]:
        """The extractors of the wanted metrics. Metrics that are unavailable are skipped."""
        found = [extractor for extractor in light_extractors(self.config.seed) if self._wanted_of(extractor.metrics)]
        for metrics, make, file in (
            (INCEPTION_METRICS, self._inception, self.resources.inception_weights or self.resources.statistics),
            (CLIP_METRICS, self._clip, self.resources.clip_weights),
            (FACE_METRICS, self._one_face, ""),
        ):
            if self._wanted_of(metrics):
                try:
                    found.append(make())
                except (ModelError, DiskError) as error:
                    if file:
                        raise
                    self._skip(self._wanted_of(metrics), str(error))
        return found

    def _inception(self) -> Extractor:
        file = self.resources.statistics
        statistics = read_statistics(file) if file else None
        weights = find_weights("inception", self.resources.inception_weights)
        net = load_inception(weights, self.device, self.console)
        about = {"name": INCEPTION, "layers": list(net.names)}
        self.found.protocol["extractor"] = self._describe("Inception v3", net, INCEPTION_METRICS) | about
        if file:
            self.found.protocol["statistics"] = {"file": Path(file).name, "sha256": sha256_file(Path(file))}
        return inception_features(net, self.config.kid_subsets, statistics)

    def _clip(self) -> Extractor:
        weights = find_weights("clip", self.resources.clip_weights, fetch=self.config.by_name)
        net = load_clip(weights, self.device, self.console)
        name = CLIP if weights.published else f"CLIP vision transformer of {net.side}×{net.side}"
        self.found.protocol["clip"] = self._describe("CLIP ViT-B/32", net, CLIP_METRICS) | {"name": name}
        return clip_features(net, self.config.kid_subsets)

    def _one_face(self) -> Extractor:
        extractor = one_face()
        self.found.protocol["detector"] = extractor.key
        return extractor

    def _describe(self, title: str, net: PretrainedNet, metrics: tuple[str, ...]) -> dict[str, Any]:
        """Print the weights, warn if they are not the published ones, and return their part of the protocol."""
        weights, name = net.weights, net.weights.path.name
        self.console.note(f"{title}: {name}, SHA-256 {weights.sha256}")
        if not weights.published:
            self.found.warnings.append(
                f"{name} is not the published {title}: values of {', '.join(self._wanted_of(metrics))} do not compare "
                "with published ones."
            )
        resize = f"bilinear to {net.side}×{net.side}, as TensorFlow 1 does it"
        return {"weights": name, "sha256": weights.sha256, "published": weights.published, "resize": resize}

    def measure(self, extractors: list[Extractor], samples: Tensor) -> None:
        """Measure the metrics that enough images allow.

        Raises:
            SettingsError: too few images for a metric asked for by name.
            ModelError: no metric is available.
        """
        found, protocol, faces, subsets = self.found, self.found.protocol, self.real.reference, self.config.kid_subsets
        protocol["samples"] = len(samples)
        if "kid" in self.wanted or "kid_clip" in self.wanted:
            size = min(KID_SUBSET, len(samples), faces.stop)
            protocol["kid"] = {"subset_size": size, "subsets": subsets}
            self.console.note(f"KID: kid_subset_size = {size:,} (min(1,000, images)), {subsets} subsets")
        if "inception_score" in self.wanted:
            protocol["inception_score_parts"] = SCORE_PARTS
        self._require_enough_images(min(len(samples), faces.stop))
        for extractor in extractors:
            if wanted := self._wanted_of(extractor.metrics):
                self._measure(extractor, wanted, samples)
        if "copied" in self.wanted:
            self._measure_copies(samples)
        counts = {"samples": len(samples), "real faces": faces.stop}
        few = [f"{count:,} {name}" for name, count in counts.items() if count <= _FEW_IMAGES]
        if few and ("fid" in found.metrics or "fid_clip" in found.metrics):
            found.warnings.append(
                f"The FID of {' and '.join(few)} is biased upwards: compare it only with values of as many images."
            )
        for text in found.warnings:
            self.console.warn(text)
        if not found.metrics:
            raise ModelError("None of the requested metrics is available.\n" + "\n".join(dict.fromkeys(self.reasons)))
        if hits := self.real.cache.hits:
            self.console.note(f"From the cache of real faces: {', '.join(dict.fromkeys(hits))}.")

    def _require_enough_images(self, fewest: int) -> None:
        for name in list(self.wanted):
            least = METRIC_TABLE[name].least_images
            why = ""
            if fewest < least:
                why = f"it needs {least:,} samples and {least:,} real faces, but there are only {fewest:,}"
            elif name == "copied" and len(self.training) < _MIN_TRAINING_FACES:
                why = f"it needs {_MIN_TRAINING_FACES} training faces, but there are only {len(self.training)}"
            if why and self.config.by_name:
                raise SettingsError(f"--metrics {name}: {why}. Leave it out, or use more images.")
            if why:
                self._skip((name,), why)

    def _measure(self, extractor: Extractor, wanted: tuple[str, ...], samples: Tensor) -> None:
        self.console.note(f"Measuring {', '.join(wanted)}")
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
        new = {name: value for name, value in values.items() if metric_of(name) in wanted and math.isfinite(value)}
        self.found.metrics |= new
        enough = tuple(name for name in wanted if name in new and self.real.half >= METRIC_TABLE[name].least_images)
        real = self.real.real_vs_real(extractor, enough) if enough else {}
        self.found.real_vs_real |= {
            name: real[name]
            for name in new
            if math.isfinite(real.get(name, math.nan)) and metric_of(name) in enough and not name.endswith("_std")
        }

    def _measure_copies(self, samples: Tensor) -> None:
        training, real = self.training, self.real
        self.console.note(f"copied: among {len(training):,} training faces")
        self.found.metrics["copied"] = copy_rate(samples, training)
        if training.is_separate:
            key = {"training": training.faces.content_key, "rows": real.reference.stop, "view": _COPIES_BY}
            found = real.cache.get(
                "copied-real-vs-real", key, lambda: {"": np.array([copy_rate(real.images[real.reference], training)])}
            )
            self.found.real_vs_real["copied"] = float(found[""][0])

    def labelled_faces(self) -> LabelledFaces | None:
        """To compare groups by, if that is wanted and possible. Raises FaceganError if it is asked for and is not."""
        asked, faces = self.config.groups, self.real.faces
        if asked is False or (asked is None and self.config.by_name):
            return None
        try:
            if asked is None and not faces.attributes().column_names:
                return None
            return LabelledFaces(faces.path, faces, self.config.seed)
        except FaceganError as error:
            if asked:
                raise
            self.console.note(f"Groups are not compared. {error}")
            return None

    def audit(self, faces: LabelledFaces, samples: Tensor, spec: NetSpec | None) -> None:
        asked = sample_attributes(spec, len(samples), self.config.seed) if spec else {}
        audit, self.missed = faces.audit(samples, asked, self.real.cache, self.console)
        self.found.groups, classes = audit, faces.left_out_classes
        self.found.protocol["groups"] = {**ABOUT, "faces": faces.counts, "left_out_classes": classes}
        for sentence in audit.sentences:
            self.console.warn(f"missed: {shown(sentence)}")
        for obedience in audit.obedience:
            self.console.note(f"condition {shown(obedience.sentence)}")
        for why, names in audit.reasons.items():
            self.console.note(f"Groups without {', '.join(map(shown, names))}: {why}.")
        for name, count in classes.items():
            self.console.note(f"Groups without {count:,} classes of {shown(name)}: others are more frequent.")

    def _wanted_of(self, metrics: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in metrics if name in self.wanted)

    def _skip(self, metrics: tuple[str, ...], why: str) -> None:
        self.reasons.append(why)
        line = why.splitlines()[0]
        # CLIP is large, so that it is fetched only by name.
        expected = metrics[0] in CLIP_METRICS and not self.config.by_name
        (self.console.note if expected else self.console.warn)(f"without {', '.join(metrics)}: {line}")
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

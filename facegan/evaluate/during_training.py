"""Evaluation during training: metrics of samples against real faces that need no downloaded weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

from torch import Tensor

from facegan.config import METRIC_TABLE, TrainConfig, metric_of
from facegan.errors import DatasetError, SettingsError
from facegan.evaluate.extractors import Arrays, Extractor, light_extractors
from facegan.evaluate.memorization import COMPARED_WITH, Gallery
from facegan.evaluate.reference import first_faces, read_first_faces
from facegan.nets import Generator
from facegan.sample.generate import sample_images
from facegan.stream import FaceShards, StreamOptions, WebDatasetShards, open_faces

_REFERENCE_SPLIT = "val"  # if the dataset has it
_TITLES = {"swd": "the sliced Wasserstein distance (swd)"}
_COPYING = ("copied", "nearest")
_MOST_TRAINING_FACES = 20_000  # that samples are compared with: seconds for 2,048 samples, 15 MB


def training_measure(
    config: TrainConfig, faces: FaceShards | WebDatasetShards, shards: str, stream: StreamOptions
) -> DistanceToFaces | None:
    """The measure for a training on ``faces``, opened from ``shards``; None without ``eval_every``. Reads nothing."""
    if not config.eval_every:
        return None
    split = getattr(faces, "split", "train")
    reference = _REFERENCE_SPLIT if _REFERENCE_SPLIT in getattr(faces, "splits", ()) else split
    measure = DistanceToFaces(shards, reference, config, replace(stream, cache="off", verify=False), split)
    if measure.copying and not isinstance(faces, FaceShards):
        raise SettingsError(
            f"train.eval_metrics = {config.eval_metrics}: {measure.copying[0]} needs a dataset that facegan prep wrote."
        )
    return measure


class DistanceToFaces:
    """A `facegan.training.run_state.ReferenceMetric`.

    It compares the samples of the seed's latents with the first faces of the stream's order by the seed, and uses no
    random number of the training. Faces are read on first use: only the main process measures.
    """

    def __init__(
        self, shards: str, split: str, config: TrainConfig, stream: StreamOptions, trained_on: str = "train"
    ) -> None:
        """``split``: of the reference; ``trained_on``: of the faces that samples may copy."""
        self.shards, self.split, self.samples, self.seed = shards, split, config.eval_n, config.seed
        self.metrics, self.trained_on = tuple(config.eval_metrics.split(",")), trained_on
        self.copying = [name for name in self.metrics if name in _COPYING]
        self._gallery: Gallery | None = None
        self._stream = stream
        self._extractors = [each for each in light_extractors(self.seed) if {*each.metrics} & {*self.metrics}]
        self._images: Tensor | None = None  # uint8 (up to 2 · samples, C, S, S), dropped after the first measurement
        self._reference: dict[str, Arrays] = {}

    def __call__(self, generator: Generator) -> Mapping[str, float]:
        """The metrics in order, then their parts: ``swd``, the mean over levels, before ``swd_64``."""
        for extractor in self._extractors:
            if extractor.name not in self._reference:
                self._reference[extractor.name] = extractor.extract(self._real()[: self.samples])
        self._images = None
        samples = sample_images(generator, self.samples, self.seed)
        copies = self._training_faces().compare(samples) if self.copying else {}
        return self._compare(lambda extractor: (extractor.extract(samples), self._reference[extractor.name]), copies)

    def protocol(self) -> Mapping[str, Any]:
        """What the values depend on.

        Raises:
            DatasetError: the faces cannot be read, or are too few for a metric.
        """
        faces = min(self.samples, len(self._real()))
        for name in self.metrics:
            if faces < METRIC_TABLE[name].least_images:
                raise DatasetError(
                    f"{name} needs {METRIC_TABLE[name].least_images} faces, and the split {self.split} of "
                    f"{self.shards} has {faces:,}. Leave it out of train.eval_metrics."
                )
        titles = ", ".join(_TITLES.get(name, name) for name in self.metrics)
        protocol = {
            "what": f"{titles} of {self.samples:,} samples to {faces:,} faces of the split {self.split}",
            "metric": self.metrics[0],
            "samples": self.samples,
            "faces": faces,
            "split": self.split,
            "seed": self.seed,
        }
        if self.copying:
            protocol["training_faces"] = count = len(self._training_faces())
            if count <= COMPARED_WITH:
                needed = f"{self.copying[0]} needs more than {COMPARED_WITH} training faces, and there are {count}"
                raise DatasetError(f"{needed}. Leave it out of train.eval_metrics.")
        # With one metric, older runs resume with an equal protocol.
        return protocol if len(self.metrics) == 1 else {**protocol, "metrics": list(self.metrics)}

    def real_vs_real(self) -> Mapping[str, float]:
        """The reference against as many other faces, or two halves of it if there are no others; empty if too few."""
        images = self._real()
        half = len(images) // 2
        if any(half < METRIC_TABLE[name].least_images for name in self.metrics):
            return {}

        def extract(extractor: Extractor) -> tuple[Arrays, Arrays]:
            first, second = (extractor.extract(part) for part in (images[:half], images[half : 2 * half]))
            if half == self.samples:
                self._reference[extractor.name] = first
            return first, second

        copies: dict[str, float] = {}
        if self.copying:  # other faces among the training faces, or these among each other
            gallery, own = self._training_faces(), self.split == self.trained_on
            copies = gallery.compare(images[: min(self.samples, len(gallery))], own=own)
        return self._compare(extract, copies)

    def _compare(
        self, extract: Callable[[Extractor], tuple[Arrays, Arrays]], copies: Mapping[str, float]
    ) -> dict[str, float]:
        found = dict(copies)
        for extractor in self._extractors:
            found |= extractor.compare(*extract(extractor), self.metrics)
        parts = {name: value for name, value in found.items() if metric_of(name) in self.metrics}
        return {name: found[name] for name in self.metrics} | parts

    def _training_faces(self) -> Gallery:
        if self._gallery is None:
            with closing(open_faces(self.shards, self.trained_on, self._stream)) as faces:
                count = min(_MOST_TRAINING_FACES, len(faces))
                self._gallery = Gallery(block for _, block in first_faces(faces, count, self.seed))
        return self._gallery

    def _real(self) -> Tensor:
        if self._images is None:
            with closing(open_faces(self.shards, self.split, self._stream)) as faces:
                self._images = read_first_faces(faces, min(2 * self.samples, len(faces)), self.seed)
        return self._images

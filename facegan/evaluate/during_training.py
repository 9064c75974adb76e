"""How a training is measured on the way: where train and evaluate, which do not know each other, are joined."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from facegan.config import METRIC_TABLE, TrainConfig, metric_of
from facegan.errors import DatasetError

if TYPE_CHECKING:
    from torch import Tensor

    from facegan.evaluate.extractors import Arrays, Extractor
    from facegan.nets import Generator
    from facegan.stream import FaceShards, StreamOptions, WebDatasetShards

_BATCH = 64
REFERENCE = "val"  # the split that is compared with, where a dataset has it
_TITLES = {"swd": "the sliced Wasserstein distance (swd)"}


def training_measure(
    config: TrainConfig,
    faces: FaceShards | WebDatasetShards,
    shards: str,
    stream: StreamOptions,
) -> DistanceToFaces | None:
    """The measure of a training on ``faces``, which `facegan.stream.open_faces` opened from ``shards``.

    None where ``config`` asks for no measurements. Nothing is read yet.
    """
    if not config.eval_every:
        return None
    split = getattr(faces, "split", "train")
    return DistanceToFaces(
        shards,
        REFERENCE if REFERENCE in getattr(faces, "splits", ()) else split,
        config.eval_n,
        config.seed,
        metrics=tuple(config.eval_metrics.split(",")),
        stream=replace(stream, cache="off", verify=False),
    )


class DistanceToFaces:
    """A `training.periodic_eval.ReferenceMetric`: metrics of samples beside real faces, that need no weights.

    Faces are the first of the stream's order by the seed, samples those of the seed's latents; neither takes a number
    from what the training draws. Faces are read when they are first needed: of several processes one alone measures.
    """

    def __init__(
        self,
        shards: str,
        split: str,
        samples: int,
        seed: int,
        *,
        metrics: tuple[str, ...] = ("swd",),
        stream: StreamOptions | None = None,
    ) -> None:
        self.shards, self.split, self.samples, self.seed, self.metrics = shards, split, samples, seed, metrics
        self._stream = stream
        self._images: Tensor | None = None  # uint8 (up to 2 · samples, C, S, S), until they were seen
        self._reference: dict[str, Arrays] = {}

    def __call__(self, generator: Generator) -> Mapping[str, float]:
        """The metrics, in their order, and then parts of them: ``swd``, the mean over levels, before ``swd_64``."""
        from facegan.sample.generate import sample_images

        views = self._views()
        for view in views:
            if view.name not in self._reference:
                self._reference[view.name] = view.see(self._real()[: self.samples])
        self._images = None
        samples = sample_images(generator, self.samples, self.seed)
        found: dict[str, float] = {}
        for view in views:
            found |= view.compare(view.see(samples), self._reference[view.name], self.metrics)
        return self._in_order(found)

    def protocol(self) -> Mapping[str, Any]:
        """
        Raises:
            DatasetError: the faces can't be had.
        """
        faces = min(self.samples, len(self._real()))
        for name in self.metrics:
            if faces < METRIC_TABLE[name].least_images:
                raise DatasetError(
                    f"The split {self.split} of {self.shards} has {faces:,} faces, and {name} needs "
                    f"{METRIC_TABLE[name].least_images}. Leave it out of train.eval_metrics."
                )
        titles = ", ".join(_TITLES.get(name, name) for name in self.metrics)
        told = {
            "what": f"{titles} of {self.samples:,} samples to {faces:,} faces of the split {self.split}",
            "metric": self.metrics[0],
            "samples": self.samples,
            "faces": faces,
            "split": self.split,
            "seed": self.seed,
        }
        # A run that was begun before there were several goes on without being introduced again.
        return told if len(self.metrics) == 1 else {**told, "metrics": list(self.metrics)}

    def floor(self) -> Mapping[str, float]:
        """Of the faces beside as many others; of two halves of them where the split has no others."""
        images = self._real()
        half = len(images) // 2
        if any(half < METRIC_TABLE[name].least_images for name in self.metrics):
            return {}
        found: dict[str, float] = {}
        for view in self._views():
            first, second = (view.see(part) for part in (images[:half], images[half : 2 * half]))
            if half == self.samples:
                self._reference[view.name] = first
            found |= view.compare(first, second, self.metrics)
        return self._in_order(found)

    def _views(self) -> list[Extractor]:
        from facegan.evaluate.extractors import Pairs, Patches, RandomNet

        views: list[Extractor] = [Patches(self.seed), RandomNet(), Pairs(self.seed)]
        return [view for view in views if {*view.metrics} & {*self.metrics}]

    def _in_order(self, found: Mapping[str, float]) -> dict[str, float]:
        whole = {name: found[name] for name in self.metrics}
        return whole | {name: value for name, value in found.items() if metric_of(name) in self.metrics}

    def _real(self) -> Tensor:
        if self._images is None:
            self._images = self._read()
        return self._images

    def _read(self) -> Tensor:
        import torch

        from facegan.stream import open_faces

        with closing(open_faces(self.shards, self.split, self._stream)) as faces:
            count = min(2 * self.samples, len(faces))
            with closing(faces.batches(_BATCH, seed=self.seed)) as batches:
                return torch.cat([next(batches) for _ in range(-(-count // _BATCH))])[:count]

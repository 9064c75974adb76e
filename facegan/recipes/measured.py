"""How a training is measured on the way: where train and evaluate, which do not know each other, are joined."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

from facegan.config import TrainConfig

if TYPE_CHECKING:
    from torch import Tensor

    from facegan.evaluate import Projections
    from facegan.nets import Generator
    from facegan.stream import FaceShards, ForeignShards

_BATCH = 64
REFERENCE = "val"  # the split that is compared with, where a dataset has it


def measure_of(
    config: TrainConfig,
    faces: FaceShards | ForeignShards,
    shards: str,
    *,
    skip_broken: bool = False,
    workers: int | None = None,
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
        skip_broken=skip_broken,
        workers=workers,
    )


class DistanceToFaces:
    """A `facegan.train.best.Referenced` measure: the sliced Wasserstein distance of samples to real faces.

    Faces are the first of the stream's order by the seed, samples those of the seed's latents; neither takes a number
    from what the training draws. Faces are read when they are first needed: of several processes one alone measures.
    """

    def __init__(
        self, shards: str, split: str, samples: int, seed: int, *, skip_broken: bool = False, workers: int | None = None
    ) -> None:
        self.shards, self.split, self.samples, self.seed = shards, split, samples, seed
        self._opened = {"cache": "off", "skip_broken": skip_broken, "workers": workers}
        self._images: Tensor | None = None  # uint8 (up to 2 · samples, C, S, S), until they are projected
        self._reference: Projections | None = None

    def __call__(self, generator: Generator) -> Mapping[str, float]:
        """``swd``, the mean, and its levels."""
        from facegan.evaluate import project, sliced_wasserstein
        from facegan.train import sample_images

        if self._reference is None:
            self._reference = project(self._real()[: self.samples], self.seed)
        self._images = None
        samples = sample_images(generator, self.samples, self.seed)
        return sliced_wasserstein(project(samples, self.seed), self._reference)

    def protocol(self) -> Mapping[str, Any]:
        """
        Raises:
            DatasetError: the faces can't be had.
        """
        faces = min(self.samples, len(self._real()))
        what = f"the sliced Wasserstein distance (swd) of {self.samples:,} samples to {faces:,} faces of the split"
        return {
            "what": f"{what} {self.split}",
            "metric": "swd",
            "samples": self.samples,
            "faces": faces,
            "split": self.split,
            "seed": self.seed,
        }

    def floor(self) -> Mapping[str, float]:
        """Of the faces beside as many others; of two halves of them where the split has no others."""
        from facegan.evaluate import project, sliced_wasserstein

        images = self._real()
        half = len(images) // 2
        if not half:
            return {}
        first, second = (project(part, self.seed) for part in (images[:half], images[half : 2 * half]))
        if half == self.samples:
            self._reference = first
        return sliced_wasserstein(first, second)

    def _real(self) -> Tensor:
        if self._images is None:
            self._images = self._read()
        return self._images

    def _read(self) -> Tensor:
        import torch

        from facegan.stream import open_faces

        with closing(open_faces(self.shards, self.split, **self._opened)) as faces:
            count = min(2 * self.samples, len(faces))
            with closing(faces.batches(_BATCH, seed=self.seed)) as batches:
                return torch.cat([next(batches) for _ in range(-(-count // _BATCH))])[:count]

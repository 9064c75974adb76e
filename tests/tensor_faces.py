"""Images in memory as `facegan.training.Faces`, in the order in which `facegan.FaceShards` gives its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from facegan.stream.sampler import sample_at
from tests.training.toy import ToyBatches, ToyFaces


class TensorFaces(ToyFaces):
    """``images``: uint8 (N, C, H, W)."""

    def __init__(self, images: Tensor, fingerprint: str) -> None:
        self.images, self.fingerprint, self.size = images, fingerprint, images.shape[-1]
        self.channels = images.shape[1]

    def batches(self, batch_size: int, *, seed: int = 0, **_: Any) -> ToyBatches:
        return _TensorBatches(self.images, batch_size, seed, self.fingerprint)


class _TensorBatches(ToyBatches):
    def _chosen(self) -> Tensor:
        self.position += 1
        positions = np.arange((self.position - 1) * self.batch, self.position * self.batch)
        return torch.from_numpy(sample_at(positions, len(self.images), self.seed))

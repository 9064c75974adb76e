"""The faces of the training: who of the samples copies one of them, and which are nearest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from facegan.evaluate.memorised import AGAINST, copied_share, neighbours, neighbours_picture
from facegan.evaluate.real import blocks_of, splits_of
from facegan.stream import FaceShards

_TRAIN = "train"
LEAST_FACES = AGAINST  # of which copies can be told


class Training:
    """The dataset's split train, or the split that is measured by where there is none; read in blocks.

    Args:
        measured: the split that samples are measured by.
        trained_on: fingerprint of the faces that a generator was trained on; "" where nothing tells.

    Attributes:
        unseen: the split that is measured by holds faces that no training saw.
        others: the generator was trained on other faces than these.
    """

    def __init__(self, shards: str, measured: str, trained_on: str) -> None:
        self.split = _TRAIN if _TRAIN in splits_of(shards) else measured
        self._faces = FaceShards(shards, self.split, cache="off")
        self.unseen = self.split != measured
        self.fingerprint = self._faces.content_key
        self.others = bool(trained_on) and trained_on != self._faces.fingerprint

    def __len__(self) -> int:
        return len(self._faces)

    def copied(self, samples: Tensor) -> float:
        """`facegan.evaluate.memorised.copied_share` of uint8 (N, C, S, S)."""
        return copied_share(samples, blocks_of(self._faces))

    def picture(self, samples: Tensor) -> NDArray[np.uint8]:
        """`facegan.evaluate.memorised.neighbours_picture`: uint8 (H, W, 3)."""
        found = neighbours(samples, blocks_of(self._faces))
        return neighbours_picture(samples, blocks_of(self._faces), found)

"""Images in memory as `facegan.training.Faces`, in the order in which `facegan.FaceShards` gives its own."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from facegan.stream.sampler import Sampler


class TensorFaces:
    """``images``: uint8 (N, C, H, W)."""

    def __init__(self, images: Tensor, fingerprint: str) -> None:
        self.images, self.fingerprint = images, fingerprint
        self.channels, self.size = images.shape[1], images.shape[-1]

    def __len__(self) -> int:
        return len(self.images)

    def batches(
        self, batch_size: int, *, seed: int = 0, device: str = "cpu", rank: int = 0, world_size: int = 1
    ) -> TensorBatches:
        assert (device, rank, world_size) == ("cpu", 0, 1)
        return TensorBatches(self.images, Sampler(len(self), seed), batch_size)


class TensorBatches:
    def __init__(self, images: Tensor, order: Sampler, batch_size: int) -> None:
        self.images, self.order, self.batch_size, self.position = images, order, batch_size, 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Tensor:
        numbers = self.order.at(self.position, self.batch_size)
        self.position += self.batch_size
        return self.images[torch.from_numpy(numbers)]

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.position = state["position"]

    def describe(self) -> dict[str, Any]:
        return {"cache": "ram"}

    def close(self) -> None:
        pass

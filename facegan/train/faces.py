"""What `train` needs of a dataset; `facegan.stream.FaceShards` has it, and so may any object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


class Batches(Protocol):
    """An endless iterator of uint8 (N, C, H, W) batches on the device, whose position can be kept and set."""

    def __iter__(self) -> Iterator[Tensor]: ...
    def __next__(self) -> Tensor: ...
    def state_dict(self) -> Mapping[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> None: ...
    def describe(self) -> Mapping[str, Any]:
        """What run.json tells of how they come; it changes no batch, and so may differ from start to start."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Gathered(Protocol):
    """`Batches` whose faces may all lie on the device: a recorded round then takes its batches from there itself."""

    @property
    def faces(self) -> Tensor | None:
        """All faces, uint8 (F, H, W, C) on the device; None while they do not lie there."""
        ...

    def numbers(self) -> Tensor:
        """The next batch as numbers into `faces`, int64 (N,), in the place of ``next``."""
        ...


class Faces(Protocol):
    """Square images of one size."""

    @property
    def size(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    def __len__(self) -> int: ...
    def batches(
        self, batch_size: int, *, seed: int = 0, device: str = "cpu", rank: int = 0, world_size: int = 1
    ) -> Batches:
        """``rank`` and ``world_size`` are given where several processes train together: each gets its share."""
        ...

"""A published network of torch-fidelity's on a device, and what it makes of images.

N images, C channels, S side.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from facegan.console import Console
from facegan.evaluate.weights import Weights, read_weights

_BATCH = 32


class PublishedNet(ABC):
    """
    Raises:
        ModelError: the weights can't be read, or are of another network.
    """

    def __init__(self, weights: Weights, device: str | torch.device = "cpu", console: Console | None = None) -> None:
        self.weights, self.device, self.console = weights, torch.device(device), console or Console(quiet=True)
        self._net = self._made(read_weights(weights)).to(self.device)

    @abstractmethod
    def _made(self, tensors: dict[str, Tensor]) -> nn.Module:
        """uint8 (N, 3, S, S) → its outputs, as a tuple; raises ModelError where the tensors are of another."""

    @torch.inference_mode()
    def _outputs(self, images: Tensor) -> list[NDArray[np.float32]]:
        """uint8 (N, C, S, S) → each output for all images. Grey becomes three channels."""
        blocks: list[list[NDArray[np.float32]]] = []
        with self.console.progress(len(images), "images") as progress:
            for block in images.split(_BATCH):
                outputs = self._net(block.expand(-1, 3, -1, -1).to(self.device))
                blocks.append([output.cpu().numpy() for output in outputs])
                progress.advance(len(block))
        return [np.concatenate(parts) for parts in zip(*blocks, strict=True)]


@contextmanager
def quietly() -> Iterator[None]:
    """Imports torch-fidelity without the warnings of the libraries that it imports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

"""The Inception network as torch-fidelity has it: TensorFlow's of 2015, by which published FIDs are measured.

It enlarges images to 299×299 as TensorFlow 1 does; so its features are those of the ``fidelity`` command.

N images, C channels, S side.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facegan.console import Console
from facegan.errors import ModelError
from facegan.evaluate.weights import Weights, as_torch_saves, read_weights

NETWORK = "inception-v3-compat"
POOL, LOGITS = "2048", "logits_unbiased"
_BATCH = 32


class Inception:
    """The network, on a device.

    Raises:
        ModelError: the weights are of another network.
    """

    def __init__(self, weights: Weights, device: str | torch.device = "cpu", console: Console | None = None) -> None:
        self.weights, self.device, self.console = weights, torch.device(device), console or Console(quiet=True)
        tensors = read_weights(weights)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries that it imports
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

            try:
                # It unpickles what it is given without a check, so it is given what we have just written ourselves.
                net = FeatureExtractorInceptionV3(
                    NETWORK, [POOL, LOGITS], feature_extractor_weights_path=as_torch_saves(tensors)
                )
            except RuntimeError:
                raise ModelError(
                    f"{weights.path} holds the weights of another network than {NETWORK}, which torch-fidelity "
                    "converted.\nName the published file with --inception-weights."
                ) from None
        self._net = net.to(self.device)

    @torch.inference_mode()
    def features(self, images: Tensor) -> dict[str, NDArray[np.float32]]:
        """uint8 (N, C, S, S) → ``2048`` (N, 2048) and ``logits_unbiased`` (N, 1008). Grey becomes three channels."""
        pools, logits = [], []
        with self.console.progress(len(images), "images") as progress:
            for block in images.split(_BATCH):
                pool, logit = self._net(block.expand(-1, 3, -1, -1).to(self.device))
                pools.append(pool.cpu().numpy())
                logits.append(logit.cpu().numpy())
                progress.advance(len(block))
        return {POOL: np.concatenate(pools), LOGITS: np.concatenate(logits)}

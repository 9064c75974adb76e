"""The Inception network as torch-fidelity has it: TensorFlow's of 2015, by which published FIDs are measured.

It enlarges images to 299×299 as TensorFlow 1 does; so its features are those of the ``fidelity`` command.

N images, C channels, S side.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from facegan.errors import ModelError
from facegan.evaluate.published import PublishedNet, quietly
from facegan.evaluate.weights import as_torch_saves

NETWORK = "inception-v3-compat"
POOL, LOGITS = "2048", "logits_unbiased"


class Inception(PublishedNet):
    """The network, on a device."""

    def _made(self, tensors: dict[str, Tensor]) -> nn.Module:
        with quietly():
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

            try:
                # It unpickles what it is given without a check, so it is given what we have just written ourselves.
                return FeatureExtractorInceptionV3(
                    NETWORK, [POOL, LOGITS], feature_extractor_weights_path=as_torch_saves(tensors)
                )
            except RuntimeError:
                raise ModelError(
                    f"{self.weights.path} holds the weights of another network than {NETWORK}, which torch-fidelity "
                    "converted.\nName the published file with --inception-weights."
                ) from None

    def features(self, images: Tensor) -> dict[str, NDArray[np.float32]]:
        """uint8 (N, C, S, S) → ``2048`` (N, 2048) and ``logits_unbiased`` (N, 1008)."""
        return dict(zip((POOL, LOGITS), self._outputs(images), strict=True))

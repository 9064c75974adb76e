"""CLIP's image network (Radford et al. 2021, arXiv:2103.00020) as torch-fidelity has it, from tensors alone.

Features of a network that was never taught ImageNet's classes: Kynkäänniemi et al. 2023 (arXiv:2203.06026) found that
Inception's see faces by those. torch-fidelity itself loads OpenAI's file, a TorchScript program, and nothing here runs
what a file holds; the tensors have the same names in OpenCLIP's ``.safetensors``, and give the same features.

N images, C channels, S side, D features.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from facegan.errors import ModelError
from facegan.evaluate.published import PublishedNet, quietly

NETWORK = "clip-vit-b-32"


class Clip(PublishedNet):
    """The network, on a device. Its weights are rounded to 16 bits, as OpenAI publishes them.

    Attributes:
        side: to which it enlarges images, px.
    """

    side: int

    def _made(self, tensors: dict[str, Tensor]) -> nn.Module:
        with quietly():
            from torch_fidelity.feature_extractor_base import FeatureExtractorBase
            from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP, VisionTransformer, build_model

        class FromTensors(FeatureExtractorCLIP):
            def __init__(self) -> None:
                FeatureExtractorBase.__init__(self, NETWORK, ["clip"])  # FeatureExtractorCLIP's runs a file
                self.feature_extractor_internal_dtype = torch.float32
                self.model = build_model(dict(tensors), torch.float32)
                self.resolution: int = self.model.visual.input_resolution

        try:
            if not all(tensor.numel() for tensor in tensors.values()):
                raise ValueError("a tensor without numbers")
            with torch.device("meta"):  # what does not fit is found out before memory is taken for it
                plan = build_model({name: tensor.to("meta") for name, tensor in tensors.items()}, torch.float32)
            if not isinstance(plan.visual, VisionTransformer) or plan.visual.input_resolution < 1:
                raise ValueError("a residual network, or one of no pixels")
        except (RuntimeError, LookupError, ArithmeticError, TypeError, ValueError, AssertionError):
            raise ModelError(
                f"{self.weights.path} holds the weights of another network than CLIP's vision transformer, by the "
                "names that OpenAI and\nOpenCLIP use. Name the published file with --clip-weights."
            ) from None
        net = FromTensors()
        self.side = net.resolution
        return net

    def features(self, images: Tensor) -> NDArray[np.float32]:
        """uint8 (N, C, S, S) → (N, D), D = 512 of the published network."""
        return self._outputs(images)[0]

"""CLIP's image network (Radford et al. 2021, arXiv:2103.00020) as torch-fidelity has it, from tensors alone.

Features of a network that was never taught ImageNet's classes: Kynkäänniemi et al. 2023 (arXiv:2203.06026) found that
Inception's see faces by those. torch-fidelity itself loads OpenAI's file, a TorchScript program, and nothing here runs
what a file holds; the tensors have the same names in OpenCLIP's ``.safetensors``, and give the same features.

N images, C channels, S side, D features.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facegan.console import Console
from facegan.errors import ModelError
from facegan.evaluate.weights import Weights, read_weights

NETWORK = "clip-vit-b-32"
_BATCH = 32


class Clip:
    """The network, on a device. Its weights are rounded to 16 bits, as OpenAI publishes them.

    Attributes:
        side: to which it enlarges images, px.

    Raises:
        ModelError: the weights are of another network.
    """

    def __init__(self, weights: Weights, device: str | torch.device = "cpu", console: Console | None = None) -> None:
        self.weights, self.device, self.console = weights, torch.device(device), console or Console(quiet=True)
        tensors = read_weights(weights)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries that it imports
            from torch_fidelity.feature_extractor_base import FeatureExtractorBase
            from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP, build_model

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
                build_model({name: tensor.to("meta") for name, tensor in tensors.items()}, torch.float32)
            net = FromTensors()
        except (RuntimeError, LookupError, ArithmeticError, TypeError, ValueError, AssertionError):
            raise ModelError(
                f"{weights.path} holds the weights of another network than CLIP's, by the names that OpenAI and "
                "OpenCLIP use.\nName the published file with --clip-weights."
            ) from None
        self.side = net.resolution
        self._net = net.to(self.device)

    @torch.inference_mode()
    def features(self, images: Tensor) -> NDArray[np.float32]:
        """uint8 (N, C, S, S) → (N, D), D = 512 of the published network. Grey becomes three channels."""
        found = []
        with self.console.progress(len(images), "images") as progress:
            for block in images.split(_BATCH):
                found.append(self._net(block.expand(-1, 3, -1, -1).to(self.device))[0].cpu().numpy())
                progress.advance(len(block))
        return np.concatenate(found)

"""A published network of torch-fidelity's on a device, and what it makes of images.

N images, C channels, S side.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import conv2d, relu

from facegan.console import Console
from facegan.errors import ModelError, SettingsError
from facegan.evaluate.pretrained import PretrainedWeights, as_torch_saves, read_weights

_BATCH = 32


class PublishedNet(ABC):
    """
    Raises:
        ModelError: the weights can't be read, or are of another network.
    """

    def __init__(
        self, weights: PretrainedWeights, device: str | torch.device = "cpu", console: Console | None = None
    ) -> None:
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


# CLIP's image network (Radford et al. 2021, arXiv:2103.00020) as torch-fidelity has it, from tensors alone.
#
# Features of a network that was never taught ImageNet's classes: Kynkäänniemi et al. 2023 (arXiv:2203.06026) found
# that Inception's see faces by those. torch-fidelity itself loads OpenAI's file, a TorchScript program, and nothing
# here runs what a file holds; the tensors have the same names in OpenCLIP's ``.safetensors``, and give the same
# features.
#
# N images, C channels, S side, D features.

CLIP = "clip-vit-b-32"


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
                FeatureExtractorBase.__init__(self, CLIP, ["clip"])  # FeatureExtractorCLIP's runs a file
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


# The Inception network as torch-fidelity has it: TensorFlow's of 2015, by which published FIDs are measured.
#
# It enlarges images to 299×299 as TensorFlow 1 does; so its features are those of the ``fidelity`` command.
#
# N images, C channels, S side.

INCEPTION = "inception-v3-compat"
POOL, LOGITS = "2048", "logits_unbiased"


class Inception(PublishedNet):
    """The network, on a device."""

    def _made(self, tensors: dict[str, Tensor]) -> nn.Module:
        with quietly():
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

            try:
                # It unpickles what it is given without a check, so it is given what we have just written ourselves.
                return FeatureExtractorInceptionV3(
                    INCEPTION, [POOL, LOGITS], feature_extractor_weights_path=as_torch_saves(tensors)
                )
            except RuntimeError:
                raise ModelError(
                    f"{self.weights.path} holds the weights of another network than {INCEPTION}, which torch-fidelity "
                    "converted.\nName the published file with --inception-weights."
                ) from None

    def features(self, images: Tensor) -> dict[str, NDArray[np.float32]]:
        """uint8 (N, C, S, S) → ``2048`` (N, 2048) and ``logits_unbiased`` (N, 1008)."""
        return dict(zip((POOL, LOGITS), self._outputs(images), strict=True))


# Features of images from a network with random weights: an embedding that needs no download and favours no data set.
#
# After the random embedding of Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics for Generative Models"
# (arXiv:2002.09797), section 3.3; the network is our own, so its values are of use for comparisons under this tool
# alone:
#
# - the image in [−1, 1], one channel repeated to three;
# - four convolutions 3×3 (stride 2, padding 1, no bias) to 32, 64, 128 and 256 channels, each with ReLU;
# - of every channel of the image and of all four the mean and the standard deviation over all places, 966 numbers;
# - these projected to `FEATURES` = 64, times `SCALE`, so that Fréchet distances of faces are not all 0.00…
#
# All five matrices are orthogonal (Saxe et al. 2014, arXiv:1312.6120), the convolutions' times the √2 that ReLU takes
# away. They are drawn by numpy's PCG64 from `SEED`, and made orthogonal by QR with R's diagonal positive: the same on
# every machine, with every version of torch. From each filter of the first convolution its mean over the 3×3 places is
# then taken, so that flat areas give nothing, and what is left is edges.
#
# Without that last step features were of brightness and colours for the most part, and with features of a place
# instead of means even more so: blur and noise hardly changed the distance of CelebA faces, and a WGAN's blots came
# out nearer to them than a DCGAN's faces. It sees colours, contrasts and textures of every size, and little of where
# things are.
#
# N images, C channels, S side.

FEATURES, SEED, SCALE = 64, 0, 32
RANDOM_NET = "facegan-random-1"  # another net is another name: values of two can't be compared
_WIDTHS = (32, 64, 128, 256)
_SMALLEST = 16  # px: the last convolution still has places to average over


@torch.inference_mode()
def random_features(images: Tensor, batch: int = 128) -> NDArray[np.float32]:
    """float32 (N, 64): each row follows from its image alone, up to rounding.

    Args:
        images: uint8 (N, C, S, S) on the CPU, C 1 or 3.
        batch: how many pass the network at once; 128 of 64 px hold 40 MB.

    Raises:
        SettingsError: images of other channels, or of fewer than 16×16 pixels.
    """
    channels, size = images.shape[1], images.shape[-1]
    if channels not in (1, 3) or size < _SMALLEST:
        raise SettingsError(
            f"Images of {channels} channels and {size}×{size} pixels have no random features: it takes 1 or 3 channels "
            f"and {_SMALLEST}×{_SMALLEST} pixels."
        )
    *convolutions, projection = _weights()
    found = np.empty((len(images), FEATURES), np.float32)
    for first in range(0, len(images), batch):
        block = images[first : first + batch].float().div_(127.5).sub_(1).expand(-1, 3, -1, -1)
        pooled = [_over_places(block)]
        for weight in convolutions:
            block = relu(conv2d(block, weight, stride=2, padding=1))
            pooled.append(_over_places(block))
        found[first : first + batch] = (torch.cat(pooled, dim=1) @ projection.T).numpy()
    return found


def _over_places(block: Tensor) -> Tensor:
    """(N, C, H, W) → (N, 2 C): means, then standard deviations. In a tenth of the time of `torch.std_mean` on a CPU."""
    places = block.flatten(2)
    means = places.mean(2)
    lengths = torch.linalg.vector_norm(places - means[..., None], dim=2)
    return torch.cat([means, lengths / places.shape[2] ** 0.5], dim=1)


@lru_cache(maxsize=1)
def _weights() -> tuple[Tensor, ...]:
    """Of the convolutions (out, in, 3, 3), and last of the projection (64, 966)."""
    rng = np.random.Generator(np.random.PCG64(SEED))
    before, made = 3, []
    for after in _WIDTHS:
        made.append(np.sqrt(2) * _orthogonal(rng, after, before * 9).reshape(after, before, 3, 3))
        before = after
    made.append(SCALE * _orthogonal(rng, FEATURES, 2 * sum((3, *_WIDTHS))))
    made[0] = made[0] - made[0].mean((2, 3), keepdims=True)
    return tuple(torch.from_numpy(weight.astype(np.float32)) for weight in made)


def _orthogonal(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.float64]:
    """(rows, columns): its rows are orthonormal, or its columns where there are fewer of them."""
    drawn = rng.standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(drawn)
    q *= np.sign(np.diag(r))  # QR is unique only up to these
    return q if rows > columns else q.T

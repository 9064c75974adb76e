"""`mlp`: fully connected nets, after Goodfellow et al. 2014, "Generative adversarial nets" (arXiv:1406.2661), with the
batch norm, ReLUs and sizes that later code gave them.

The paper draws latents evenly; the pair's are in [0, 1). Weights begin by Glorot.

N batch, C channels, H height, W width, Z length of a latent.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facegan.nets.layers import Dropout, glorot
from facegan.nets.spec import Discriminator, Generator, NetSpec

_SLOPE, _DROPPED = 0.2, 0.3


class MLPGenerator(Generator):
    """Z → width → 2·width → 4·width → 8·width → pixels, with batch norm and ReLU, and tanh at the end.

    (N, Z) → (N, C, H, W) in [−1, 1]. One channel, latent 100, width 128, at size 28: 1,508,368 parameters; three
    channels: 3,115,568 at 28, 3,853,568 at 32, 13,299,968 at 64, 51,085,568 at 128.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = spec.latent
        for after in (spec.width * 2**layer for layer in range(4)):
            layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU(inplace=True)]
            before = after
        shape = (spec.channels, spec.size, spec.size)
        pixels = spec.channels * spec.size**2
        self.layers = nn.Sequential(*layers, nn.Linear(before, pixels), nn.Tanh(), nn.Unflatten(1, shape))

    def initialise(self, rng: torch.Generator) -> None:
        glorot(self, rng)

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(latents)


class MLPDiscriminator(Discriminator):
    """Pixels → 4·width → 2·width → width → 1, with LeakyReLU 0.2 and dropout 0.3.

    (N, C, H, W) in [−1, 1] → (N,). One channel, width 128, at size 28: 566,273 parameters; three channels: 1,369,089 at
    28, 1,737,729 at 32, 6,456,321 at 64, 25,330,689 at 128.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        before = spec.channels * spec.size**2
        for after in (spec.width * 4, spec.width * 2, spec.width):
            layers += [nn.Linear(before, after), nn.LeakyReLU(_SLOPE, inplace=True), Dropout(_DROPPED)]
            before = after
        self.layers = nn.Sequential(*layers, nn.Linear(before, 1))

    def initialise(self, rng: torch.Generator) -> None:
        glorot(self, rng)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).flatten()


# `mnist-conv`: the small convolutional pair of TensorFlow's DCGAN tutorial, for digits and other small pictures.
#
# Norms, LeakyReLU and first weights are as Keras has them by default: momentum 0.01 in PyTorch's sense, epsilon 1e-3,
# slope 0.3, Glorot. The tutorial trains both nets by Adam with a rate of 1e-4.
#
# N batch, C channels, H height, W width, Z length of a latent.

MNIST_CONV_SIZES = (28, 32)
_MOMENTUM, _EPSILON, _CONV_SLOPE, _CONV_DROPPED = 0.01, 1e-3, 0.3, 0.3


class MNISTConvGenerator(Generator):
    """Fully connected to 7·7·4·width, then transposed convolutions 5×5 with strides 1, 2 and 2; tanh at the end.

    (N, Z) → (N, C, H, W) in [−1, 1]. One channel, latent 100, width 64: 2,305,472 parameters at size 28 (the count of
    the tutorial) and 2,697,152 at 32, which begins with 8·8·4·width; 3,200 more with three channels. No biases.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        side, width = spec.size // 4, spec.width
        values = side * side * width * 4
        self.layers = nn.Sequential(
            nn.Linear(spec.latent, values, bias=False),
            nn.BatchNorm1d(values, _EPSILON, _MOMENTUM),
            nn.LeakyReLU(_CONV_SLOPE, inplace=True),
            nn.Unflatten(1, (width * 4, side, side)),
            nn.ConvTranspose2d(width * 4, width * 2, 5, 1, 2, bias=False),
            nn.BatchNorm2d(width * 2, _EPSILON, _MOMENTUM),
            nn.LeakyReLU(_CONV_SLOPE, inplace=True),
            nn.ConvTranspose2d(width * 2, width, 5, 2, 2, output_padding=1, bias=False),
            nn.BatchNorm2d(width, _EPSILON, _MOMENTUM),
            nn.LeakyReLU(_CONV_SLOPE, inplace=True),
            nn.ConvTranspose2d(width, spec.channels, 5, 2, 2, output_padding=1, bias=False),
            nn.Tanh(),
        )

    def initialise(self, rng: torch.Generator) -> None:
        glorot(self, rng)

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(latents)


class MNISTConvDiscriminator(Discriminator):
    """Two convolutions 5×5 of stride 2 with LeakyReLU 0.3 and dropout 0.3, then a fully connected layer to one logit.

    (N, C, H, W) in [−1, 1] → (N,). One channel, width 64: 212,865 parameters at size 28 (the count of the tutorial) and
    214,785 at 32; 3,200 more with three channels.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        side, width = spec.size // 4, spec.width
        self.layers = nn.Sequential(
            nn.Conv2d(spec.channels, width, 5, 2, 2),
            nn.LeakyReLU(_CONV_SLOPE, inplace=True),
            Dropout(_CONV_DROPPED),
            nn.Conv2d(width, width * 2, 5, 2, 2),
            nn.LeakyReLU(_CONV_SLOPE, inplace=True),
            Dropout(_CONV_DROPPED),
            nn.Flatten(),
            nn.Linear(side * side * width * 2, 1),
        )

    def initialise(self, rng: torch.Generator) -> None:
        glorot(self, rng)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).flatten()

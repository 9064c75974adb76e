"""`mnist-conv`: the small convolutional pair of TensorFlow's DCGAN tutorial, for digits and other small pictures.

Norms, LeakyReLU and first weights are as Keras has them by default: momentum 0.01 in PyTorch's sense, epsilon 1e-3,
slope 0.3, Glorot. The tutorial trains both nets by Adam with a rate of 1e-4.

N batch, C channels, H height, W width, Z length of a latent.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facegan.nets.dropout import Dropout
from facegan.nets.initial import glorot
from facegan.nets.spec import Discriminator, Generator, NetSpec

SIZES = (28, 32)
_MOMENTUM, _EPSILON, _SLOPE, _DROPPED = 0.01, 1e-3, 0.3, 0.3


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
            nn.LeakyReLU(_SLOPE, inplace=True),
            nn.Unflatten(1, (width * 4, side, side)),
            nn.ConvTranspose2d(width * 4, width * 2, 5, 1, 2, bias=False),
            nn.BatchNorm2d(width * 2, _EPSILON, _MOMENTUM),
            nn.LeakyReLU(_SLOPE, inplace=True),
            nn.ConvTranspose2d(width * 2, width, 5, 2, 2, output_padding=1, bias=False),
            nn.BatchNorm2d(width, _EPSILON, _MOMENTUM),
            nn.LeakyReLU(_SLOPE, inplace=True),
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
            nn.LeakyReLU(_SLOPE, inplace=True),
            Dropout(_DROPPED),
            nn.Conv2d(width, width * 2, 5, 2, 2),
            nn.LeakyReLU(_SLOPE, inplace=True),
            Dropout(_DROPPED),
            nn.Flatten(),
            nn.Linear(side * side * width * 2, 1),
        )

    def initialise(self, rng: torch.Generator) -> None:
        glorot(self, rng)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).flatten()

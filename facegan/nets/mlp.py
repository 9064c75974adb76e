"""`mlp`: fully connected nets, after Goodfellow et al. 2014, "Generative adversarial nets" (arXiv:1406.2661), with the
batch norm, ReLUs and sizes that later code gave them.

The paper draws latents evenly; the pair's are in [0, 1). Weights begin by Glorot.

N batch, C channels, H height, W width, Z length of a latent.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facegan.nets.dropout import Dropout
from facegan.nets.initial import glorot
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

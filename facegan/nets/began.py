"""`began`: Berthelot, Schumm & Metz 2017, "BEGAN: boundary equilibrium generative adversarial networks"
(arXiv:1703.10717), section 3.4 and figure 1, without the optional skip connections.

Convolutions 3×3 with ELU and no norm; ``width`` is the paper's n. The discriminator is an autoencoder with codes as
long as a latent (N_h = N_z) and the generator's architecture as its decoder. Glorot initialisation.

N batch, C channels, H height, W width, Z length of a latent.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facegan.nets.layers import SequentialGenerator, glorot
from facegan.nets.spec import Discriminator, NetSpec


def _sides(size: int) -> list[int]:
    """From the innermost layer to the pixels: ``[8, 16, 32, 64]`` for size 64."""
    smallest = 7 if size % 8 else 8
    return [smallest * 2**i for i in range((size // smallest).bit_length())]


def _decoder(spec: NetSpec) -> nn.Sequential:
    """(N, Z) → (N, C, H, W): two convolutions per side, nearest-neighbour doublings, then one to the channels."""
    sides, width = _sides(spec.size), spec.width
    layers: list[nn.Module] = [
        nn.Linear(spec.latent, width * sides[0] ** 2),
        nn.Unflatten(1, (width, sides[0], sides[0])),
    ]
    for side in sides:
        layers += [_convolution(width, width), nn.ELU(inplace=True), _convolution(width, width), nn.ELU(inplace=True)]
        if side < spec.size:
            layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
    return nn.Sequential(*layers, _convolution(width, spec.channels))


def _encoder(spec: NetSpec) -> nn.Sequential:
    """(N, C, H, W) → (N, Z): two convolutions per side, then one of stride 2 to n more channels."""
    sides, width = _sides(spec.size), spec.width
    layers: list[nn.Module] = [_convolution(spec.channels, width), nn.ELU(inplace=True)]
    for number in range(1, len(sides) + 1):
        here = width * number
        layers += [_convolution(here, here), nn.ELU(inplace=True), _convolution(here, here), nn.ELU(inplace=True)]
        if number < len(sides):
            layers += [_convolution(here, here + width, stride=2), nn.ELU(inplace=True)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * len(sides) * sides[0] ** 2, spec.latent))


def _convolution(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride, 1)


class BEGANGenerator(SequentialGenerator):
    """The paper's decoder with a tanh, since generators here must give [−1, 1].

    (N, Z) → (N, C, H, W) in [−1, 1]. Three channels, latent 64, width 64: 427,139 parameters at size 28, 489,539 at
    32, 563,395 at 64, 637,251 at 128.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__([_decoder(spec), nn.Tanh()])


class BEGANDiscriminator(Discriminator):
    """An autoencoder: the worse the reconstruction, the less real.

    (N, C, H, W) in [−1, 1] → (N,): −L(x), with L(x) = mean |x − D(x)| over an image's values, the paper's equation 1
    with η = 1. Three channels, latent 64, width 64: 2,359,299 parameters at size 28, 2,606,019 at 32, 4,564,803 at 64,
    7,482,243 at 128.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        self.encoder, self.decoder = _encoder(spec), _decoder(spec)

    def initialise(self, rng: torch.Generator) -> None:
        glorot(self, rng)

    def reconstruct(self, images: Tensor) -> Tensor:
        """D(x): same shape, in no fixed range."""
        return self.decoder(self.encoder(images))

    def forward(self, images: Tensor) -> Tensor:
        return -(images.float() - self.reconstruct(images).float()).abs().mean(dim=(1, 2, 3))

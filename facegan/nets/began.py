"""`began`: Berthelot, Schumm & Metz 2017, "BEGAN: boundary equilibrium generative adversarial networks"
(arXiv:1703.10717), section 3.4 and figure 1, without the refinements that the paper leaves open (skip connections).

Convolutions 3×3 with ELU and no norm; ``width`` is the paper's n. The discriminator is an autoencoder whose code is as
long as a latent (N_h = N_z), and its decoder is built as the generator is. Weights begin by Glorot.

N batch, C channels, H height, W width, Z length of a latent.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facegan.nets.layers import glorot
from facegan.nets.spec import Autoencoder, Generator, NetSpec


def _sides(size: int) -> list[int]:
    """From the innermost to the pixels: ``[8, 16, 32, 64]`` for size 64."""
    smallest = 7 if size % 8 else 8
    return [smallest * 2**i for i in range((size // smallest).bit_length())]


def _decoder(spec: NetSpec) -> nn.Sequential:
    """(N, Z) → (N, C, H, W): two convolutions a side, nearest-neighbour doublings between, one to the channels."""
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
    """(N, C, H, W) → (N, Z): two convolutions a side, then one of stride 2 to n more channels."""
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


class BEGANGenerator(Generator):
    """The paper's decoder, with a tanh at its end, since generators here keep to the range of images.

    (N, Z) → (N, C, H, W) in [−1, 1]. Three channels, latent 64, width 64: 427,139 parameters at size 28, 489,539 at
    32, 563,395 at 64, 637,251 at 128.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        self.layers = nn.Sequential(_decoder(spec), nn.Tanh())

    def initialise(self, rng: torch.Generator) -> None:
        glorot(self, rng)

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(latents)


class BEGANDiscriminator(Autoencoder):
    """An autoencoder: what it can't draw again is fake.

    (N, C, H, W) in [−1, 1] → (N,): −L(x), with L(x) = mean |x − D(x)| over an image's values, the paper's equation 1
    with η = 1. So higher is more real, as with any discriminator, and a loss has L(x) by the opposite sign. Three
    channels, latent 64, width 64: 2,359,299 parameters at size 28, 2,606,019 at 32, 4,564,803 at 64, 7,482,243 at 128.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        self.encoder, self.decoder = _encoder(spec), _decoder(spec)

    def initialise(self, rng: torch.Generator) -> None:
        glorot(self, rng)

    def reconstruct(self, images: Tensor) -> Tensor:
        """D(x): the images as the autoencoder draws them again, same shape, in no fixed range."""
        return self.decoder(self.encoder(images))

    def judge_and_encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        codes = self.encoder(images)
        return -(images.float() - self.decoder(codes).float()).abs().mean(dim=(1, 2, 3)), codes

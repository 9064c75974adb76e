"""The settings of a pair of nets as a value, and the interfaces of generators and discriminators.

N batch, C channels, H height, W width, Z length of a latent.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from facegan.config import LatentDistribution

IMAGE_RANGE = (-1.0, 1.0)  # of generated images and of a discriminator's inputs
SIZES = (28, 32, 64, 128)


@dataclass(frozen=True)
class NetSpec:
    """Everything that determines the shapes of a generator and its discriminator."""

    name: str = "dcgan"
    size: int = 64
    channels: int = 3
    latent: int = 100
    width: int = 64
    norm: str = "batch"  # inside the discriminator
    law: LatentDistribution = "normal"  # the distribution of latents, by its name in files

    def differences(self, other: NetSpec) -> list[str]:
        """Fields of ``self`` that differ in ``other``, such as ``["width 64, not 32"]``."""
        mine, theirs = asdict(self), asdict(other)
        return [f"{key} {mine[key]}, not {theirs[key]}" for key in mine if mine[key] != theirs[key]]


class Generator(nn.Module):
    """Maps latents, (N, Z) float, to images, (N, C, H, W) float in [−1, 1]."""

    spec: NetSpec  # set by `make_generator`

    def initialise(self, rng: torch.Generator) -> None:
        """Draw every weight from ``rng`` without touching the global random state. User-defined nets may omit it."""
        raise NotImplementedError

    def forward(self, latents: Tensor) -> Tensor:
        raise NotImplementedError


class Discriminator(nn.Module):
    """Maps images, (N, C, H, W) float in [−1, 1], to logits, (N,) float: higher is more real.

    Called a critic if the loss has no sigmoid.
    """

    spec: NetSpec  # set by `make_discriminator`

    def initialise(self, rng: torch.Generator) -> None:
        """See `Generator.initialise`."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        raise NotImplementedError


def count_parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def base_resolution(size: int) -> tuple[int, int]:
    """(side of the innermost layer, doublings from there to the pixels): ``(4, 4)`` for 64; ``(7, 2)`` for 28, which
    has only two factors of 2."""
    side = 7 if size % 8 else 4
    return side, (size // side).bit_length() - 1

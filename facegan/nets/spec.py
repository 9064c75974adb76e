"""What a pair of nets is: its settings as a value, and the two shapes that the rest of the house relies on.

N batch, C channels, H height, W width, Z length of a latent.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from facegan.config import LatentDistribution

IMAGE_RANGE = (-1.0, 1.0)  # of what generators make and discriminators see


@dataclass(frozen=True)
class NetSpec:
    """Everything that decides the shape of a generator and its discriminator."""

    name: str = "dcgan"
    size: int = 64
    channels: int = 3
    latent: int = 100
    width: int = 64
    norm: str = "batch"  # inside the discriminator
    law: LatentDistribution = "normal"  # of the latents

    def differences(self, other: NetSpec) -> list[str]:
        """``["width 64, not 32"]``: what ``self`` has, and ``other`` has not."""
        mine, theirs = asdict(self), asdict(other)
        return [f"{key} {mine[key]}, not {theirs[key]}" for key in mine if mine[key] != theirs[key]]


class Generator(nn.Module):
    """Maps latents, (N, Z) float, to images, (N, C, H, W) float in [−1, 1]."""

    spec: NetSpec  # set by the registry

    def initialise(self, rng: torch.Generator) -> None:
        """Draws every weight from ``rng`` and leaves the global random state alone. A user's own may leave it out."""
        raise NotImplementedError

    def forward(self, latents: Tensor) -> Tensor:
        raise NotImplementedError


class Discriminator(nn.Module):
    """Maps images, (N, C, H, W) float in [−1, 1], to logits, (N,) float: higher is more real.

    Called a critic where the loss has no sigmoid.
    """

    spec: NetSpec

    def initialise(self, rng: torch.Generator) -> None:
        """Draws every weight from ``rng`` and leaves the global random state alone."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        raise NotImplementedError


class Autoencoder(Discriminator):
    """Draws images again from short codes, (N, Z'); its logit is the negative of its error."""

    def judge_and_encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, (N,), as `forward` gives them, and codes."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        return self.judge_and_encode(images)[0]


def count_parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


# Where a latent enters an image: the side of the innermost layer, and how often it is doubled up to the pixels.

SIZES = (28, 32, 64, 128)  # of a pair that begins with a fully connected layer, and so anywhere


def base_resolution(size: int) -> tuple[int, int]:
    """(side, doublings): ``(4, 4)`` for 64; ``(7, 2)`` for 28, which has only two factors of 2."""
    side = 7 if size % 8 else 4
    return side, (size // side).bit_length() - 1

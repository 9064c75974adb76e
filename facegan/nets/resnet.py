"""`resnet`: the residual pair of WGAN-GP (Gulrajani et al. 2017, arXiv:1704.00028) and SNGAN (Miyato et al. 2018,
"Spectral normalization for generative adversarial networks", arXiv:1802.05957, tables 3 to 6).

Sizes 28 and 32 use the paper's CIFAR-10 nets: 4·width channels throughout the generator, 2·width in the discriminator.
Sizes 64 and 128 use its ImageNet nets: 16·width channels in the innermost layer, halved towards the pixels.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, relu

from facegan.nets.layers import (
    Discriminator,
    Generator,
    NetSpec,
    SpectralConv2d,
    SpectralLinear,
    base_resolution,
    glorot,
    norm_layers,
)

_RESIDUAL_GAIN = 2**0.5  # of the 3×3 convolutions in blocks, as in the authors' code


def _double(images: Tensor) -> Tensor:
    return interpolate(images, scale_factor=2.0, mode="nearest")


class UpBlock(nn.Module):
    """Norm, ReLU, doubling, convolution, norm, ReLU, convolution; the shortcut is doubling and a convolution 1×1.

    No biases: the next batch norm would remove them.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(before), nn.BatchNorm2d(after)])
        self.residual = nn.ModuleList(nn.Conv2d(n, after, 3, padding=1, bias=False) for n in (before, after))
        self.shortcut = nn.Conv2d(before, after, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        inner = self.residual[0](_double(relu(self.norms[0](images))))
        inner = self.residual[1](relu(self.norms[1](inner)))
        return inner + _double(self.shortcut(images))  # 1×1 and doubling commute: a quarter of the work


class DownBlock(nn.Module):
    """ReLU, convolution, ReLU, convolution, mean of 2×2; the shortcut is a convolution 1×1 and the same mean.

    The first block has no ReLU before the pixels; a block that keeps side and channels has an identity shortcut. With
    ``norm="layer"`` a norm precedes each ReLU.
    """

    def __init__(self, before: int, after: int, norm: str, *, first: bool = False, halves: bool = True) -> None:
        super().__init__()
        conv = SpectralConv2d if norm == "spectral" else nn.Conv2d
        inner = after if first else before
        self.halves = halves
        self.activation = nn.Identity() if first else nn.Sequential(*norm_layers(norm, before), nn.ReLU())
        self.inner_activation = nn.Sequential(*norm_layers(norm, inner), nn.ReLU())
        self.residual = nn.ModuleList([conv(before, inner, 3, padding=1), conv(inner, after, 3, padding=1)])
        self.shortcut = conv(before, after, 1) if halves or before != after else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        inner = self.residual[1](self.inner_activation(self.residual[0](self.activation(images))))
        if not self.halves:
            return inner + self.shortcut(images)
        return avg_pool2d(inner, 2) + self.shortcut(avg_pool2d(images, 2))


@torch.no_grad()
def _initialise(net: nn.Module, rng: torch.Generator) -> None:
    glorot(net, rng)
    for block in net.modules():
        if isinstance(block, UpBlock | DownBlock):
            for conv in block.residual:
                conv.get_parameter("weight").mul_(_RESIDUAL_GAIN)


class ResNetGenerator(Generator):
    """Fully connected to the innermost layer, a residual block per doubling, batch norm, ReLU and a convolution 3×3
    with tanh.
    """

    initialise = _initialise

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        side, doublings = base_resolution(spec.size)
        small = spec.size <= 32
        widest = spec.width * (4 if small else 16)
        widths = [widest] + [widest if small else spec.width * 2**left for left in reversed(range(doublings))]
        self.first = nn.Linear(spec.latent, side * side * widest)
        self.unflatten = nn.Unflatten(1, (widest, side, side))
        self.blocks = nn.Sequential(*(UpBlock(before, after) for before, after in pairwise(widths)))
        last = nn.Conv2d(widths[-1], spec.channels, 3, padding=1)
        self.last = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU(inplace=True), last, nn.Tanh())

    def forward(self, latents: Tensor) -> Tensor:
        return self.last(self.blocks(self.unflatten(self.first(latents))))


class ResNetDiscriminator(Discriminator):
    """Residual blocks, ReLU, the sum over the image, and a fully connected layer to one logit.

    ``norm="spectral"`` is SNGAN's, in every layer; ``none`` and ``layer`` are for
    losses with a penalty per sample. At 28 and 32 two blocks halve the side and two keep it; at 64 five halve it; at
    128 five, and one keeps it.
    """

    initialise = _initialise

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        width, norm = spec.width, spec.norm
        if spec.size <= 32:
            widths, halving = [width * 2] * 4, 2
        else:
            widths, halving = [width * 2**block for block in range(5)] + [width * 16] * (spec.size > 64), 5
        blocks = [
            DownBlock(before, after, norm, first=number == 0, halves=number < halving)
            for number, (before, after) in enumerate(pairwise([spec.channels, *widths]))
        ]
        self.blocks = nn.Sequential(*blocks, *norm_layers(norm, widths[-1]), nn.ReLU(inplace=True))
        self.last = (SpectralLinear if norm == "spectral" else nn.Linear)(widths[-1], 1)
        self.pooled = widths[-1]

    def features(self, images: Tensor) -> Tensor:
        return self.blocks(images).sum(dim=(2, 3))

    def head(self, features: Tensor) -> Tensor:
        return self.last(features).flatten()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

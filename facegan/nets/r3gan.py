"""`r3gan`: Huang et al. 2024, "The GAN is dead; long live the GAN! A modern baseline GAN" (arXiv:2501.05441),
configuration E.

Residual blocks with an inverted bottleneck of grouped convolutions, no norm, initial blocks that are the identity
(Zhang et al. 2019, "Fixup initialization", arXiv:1901.09321), bilinear resampling, and a learnt constant scaled by the
latent. Sides up to 32 have 2·``width`` channels, 64 has ``width``, 128 half of it: the authors' 768, 384 and 192 at the
default width of 384.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d

from facegan.nets.layers import Discriminator, Generator, NetSpec, base_resolution

_SLOPE = 0.2
_GAIN = (2 / (1 + _SLOPE**2)) ** 0.5  # keeps the variance after a LeakyReLU (He et al. 2015, arXiv:1502.01852)
_BLOCKS, _EXPANSION, _GROUP = (2, 2, 16)  # blocks per side; inner channels per outer one; channels per group


def _stages(size: int, width: int) -> list[tuple[int, int]]:
    """(side, channels) from the innermost layer to the pixels."""
    side, doublings = base_resolution(size)
    sides = [side * 2**i for i in range(doublings + 1)]
    return [(side, max(2 * width // max(side // 32, 1), 1)) for side in sides]


class Block(nn.Module):
    """x + W₃ φ(W₂ φ(W₁ x)): 1×1 to twice the channels, 3×3 in groups, 1×1 back; φ is LeakyReLU 0.2 after a bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels * _EXPANSION
        groups = next(n for n in range(max(inner // _GROUP, 1), 0, -1) if inner % n == 0)
        self.expand = nn.Conv2d(channels, inner, 1)
        self.mix = nn.Conv2d(inner, inner, 3, padding=1, groups=groups)
        self.contract = nn.Conv2d(inner, channels, 1, bias=False)
        self.activation = nn.LeakyReLU(_SLOPE, inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        inner = self.activation(self.mix(self.activation(self.expand(images))))
        return images + self.contract(inner)


class Resampling(nn.Module):
    """Bilinear doubling or halving, by a fixed 4×4 kernel per channel, with zero padding; a convolution 1×1 at the
    smaller side if the channels change.

    `torch.nn.functional.interpolate` gives the same except at the border; its backward pass on CUDA is not
    deterministic.
    """

    kernel: Tensor

    def __init__(self, before: int, after: int, *, up: bool) -> None:
        super().__init__()
        self.up = up
        # Constant, so not saved; filled by `_initialise`, since nets are built on the meta device.
        self.register_buffer("kernel", torch.empty(1, 1, 4, 4), persistent=False)
        self.convolution = nn.Conv2d(before, after, 1, bias=False) if before != after else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        if self.up:
            images = self.convolution(images)
        channels = images.shape[1]
        kernels = self.kernel.expand(channels, 1, 4, 4)
        if self.up:
            return conv_transpose2d(images, 4 * kernels, stride=2, padding=1, groups=channels)
        return self.convolution(conv2d(images, kernels, stride=2, padding=1, groups=channels))


@torch.no_grad()
def _initialise(net: nn.Module, rng: torch.Generator) -> None:
    """Weights N(0, 1 / f_in); in blocks, W₁ and W₂ times gain · L^(−1/4) for L blocks of three layers (Fixup's
    L^(−1/(2m − 2)) for m layers), W₃ and biases 0."""
    blocks = [module for module in net.modules() if isinstance(module, Block)]
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.weight.normal_(0.0, module.weight[0].numel() ** -0.5, generator=rng)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, Resampling):
            row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
            module.kernel.copy_(row[:, None] * row)
    for block in blocks:
        for convolution in (block.expand, block.mix):
            convolution.weight.mul_(_GAIN * len(blocks) ** -0.25)
        block.contract.weight.zero_()


class R3GANGenerator(Generator):
    """A learnt constant scaled by the latent, two blocks per side, a convolution 1×1 to the channels, and a tanh, which
    the authors' code lacks."""

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        stages = _stages(spec.size, spec.width)
        side, before = stages[0]
        self.basis = nn.Parameter(torch.empty(before, side, side))
        self.first = nn.Linear(spec.latent, before, bias=False)
        layers = _blocks(before)
        for _, after in stages[1:]:
            layers += [Resampling(before, after, up=True), *_blocks(after)]
            before = after
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, spec.channels, 1, bias=False), nn.Tanh())

    def initialise(self, rng: torch.Generator) -> None:
        _initialise(self, rng)
        with torch.no_grad():
            self.basis.normal_(generator=rng)

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(self.basis * self.first(latents)[:, :, None, None])


class R3GANDiscriminator(Discriminator):
    """The generator's mirror: a convolution 1×1 from the channels, two blocks per side, a depthwise convolution over
    the whole image, and a fully connected layer to one logit."""

    initialise = _initialise

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        (_, before), *inner = reversed(_stages(spec.size, spec.width))
        layers: list[nn.Module] = [nn.Conv2d(spec.channels, before, 1, bias=False), *_blocks(before)]
        for _, after in inner:
            layers += [Resampling(before, after, up=False), *_blocks(after)]
            before = after
        side, _ = base_resolution(spec.size)
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, before, side, groups=before, bias=False))
        self.last = nn.Linear(before, 1, bias=False)
        self.pooled = before

    def features(self, images: Tensor) -> Tensor:
        return self.layers(images).flatten(1)

    def head(self, features: Tensor) -> Tensor:
        return self.last(features).flatten()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def _blocks(channels: int) -> list[nn.Module]:
    return [Block(channels) for _ in range(_BLOCKS)]

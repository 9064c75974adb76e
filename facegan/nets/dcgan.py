"""DCGAN: Radford, Metz & Chintala 2015, "Unsupervised representation learning with deep convolutional generative
adversarial networks" (arXiv:1511.06434), with the details of PyTorch's DCGAN example.

Both nets double the side and halve the channels (or the reverse) in each block; ``width`` is the number of channels
next to the pixels. The side where the latent enters is 4, so another size is another number of blocks.

N batch, C channels, H height, W width, Z length of a latent.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facegan.nets.spec import Discriminator, Generator, NetSpec

SIZES, NORMS = (32, 64, 128), ("batch", "none")


def _widths(size: int, width: int) -> list[int]:
    """Channels from the pixels inwards, down to 4×4: ``[64, 128, 256, 512]`` for size 64 and width 64."""
    return [width * 2**block for block in range((size // 4).bit_length() - 1)]


class DCGANGenerator(Generator):
    """Transposed convolutions 4×4 with batch norm and ReLU, the last with tanh; no biases.

    (N, Z) → (N, C, H, W) in [−1, 1]. Three channels, latent 100, width 64: 1,068,928 parameters at size 32,
    3,576,704 at 64 (the count of PyTorch's example), 12,786,560 at 128.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        *outer, widest = _widths(spec.size, spec.width)
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(spec.latent, widest, 4, 1, 0, bias=False),
            nn.BatchNorm2d(widest),
            nn.ReLU(inplace=True),
        ]
        before = widest
        for after in reversed(outer):
            layers += [
                nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            ]
            before = after
        layers += [nn.ConvTranspose2d(before, spec.channels, 4, 2, 1, bias=False), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def initialise(self, rng: torch.Generator) -> None:
        _initialise(self, rng)

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(latents[:, :, None, None])


class DCGANDiscriminator(Discriminator):
    """The generator's mirror: strided convolutions 4×4 with LeakyReLU 0.2, ending in one logit an image.

    (N, C, H, W) in [−1, 1] → (N,). With ``norm="batch"`` the inner convolutions have no bias and a batch norm behind
    them, and three channels at width 64 make 663,296 parameters at size 32, 2,765,568 at 64, 11,164,416 at 128. With
    ``norm="none"``, for losses with a penalty per sample, a bias stands where the batch norm's shift stood (2,764,672
    at 64). The first and the last convolution have neither, as in the example.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        before, *inner = _widths(spec.size, spec.width)
        layers: list[nn.Module] = [
            nn.Conv2d(spec.channels, before, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        for after in inner:
            layers.append(nn.Conv2d(before, after, 4, 2, 1, bias=spec.norm == "none"))
            if spec.norm == "batch":
                layers.append(nn.BatchNorm2d(after))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            before = after
        layers.append(nn.Conv2d(before, 1, 4, 1, 0, bias=False))
        self.layers = nn.Sequential(*layers)

    def initialise(self, rng: torch.Generator) -> None:
        _initialise(self, rng)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).flatten()


@torch.no_grad()
def _initialise(net: nn.Module, rng: torch.Generator) -> None:
    """Convolutions N(0, 0.02²), batch-norm scales N(1, 0.02²), every bias 0 (section 3 of the paper; the example)."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.weight.normal_(0.0, 0.02, generator=rng)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.weight.normal_(1.0, 0.02, generator=rng)
            module.bias.zero_()

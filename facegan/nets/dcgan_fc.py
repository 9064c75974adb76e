"""`dcgan-fc`: the DCGAN of the TensorFlow pipelines for CelebA, whose latent enters by a fully connected layer.

The layers are those of the 64×64 DCGAN in the code of Gulrajani et al. 2017, "Improved training of Wasserstein GANs"
(arXiv:1704.00028), which served DCGAN and WGAN-GP alike; weights begin by Glorot.

N batch, C channels, H height, W width, Z length of a latent.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facegan.nets.initial import glorot
from facegan.nets.norms import norm_layers
from facegan.nets.sides import innermost
from facegan.nets.spec import Discriminator, Generator, NetSpec

NORMS = ("none", "layer", "batch")


class DCGANFCGenerator(Generator):
    """Fully connected to 4·4·8·width, then transposed convolutions 5×5, batch norm and ReLU; tanh at the end.

    (N, Z) → (N, C, H, W) in [−1, 1]. Channels halve as the side doubles, down to ``width``; a bias stands where no
    batch norm follows. Three channels, latent 128, width 64: 1,012,803 parameters at size 28 (which begins with
    7·7·2·width), 1,553,987 at 32, 5,356,099 at 64, 19,513,923 at 128.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        side, doublings = innermost(spec.size)
        before = spec.width * 2 ** (doublings - 1)
        layers: list[nn.Module] = [
            nn.Linear(spec.latent, side * side * before, bias=False),
            nn.Unflatten(1, (before, side, side)),
            nn.BatchNorm2d(before),
            nn.ReLU(inplace=True),
        ]
        for _ in range(doublings - 1):
            layers += [
                nn.ConvTranspose2d(before, before // 2, 5, 2, 2, output_padding=1, bias=False),
                nn.BatchNorm2d(before // 2),
                nn.ReLU(inplace=True),
            ]
            before //= 2
        layers += [nn.ConvTranspose2d(before, spec.channels, 5, 2, 2, output_padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def initialise(self, rng: torch.Generator) -> None:
        glorot(self, rng)

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(latents)


class DCGANFCDiscriminator(Discriminator):
    """Strided convolutions 5×5 with LeakyReLU 0.2, and a fully connected layer to one logit.

    (N, C, H, W) in [−1, 1] → (N,). The norm, if any, stands behind each convolution but the first; before a batch norm
    there is no bias. Three channels, width 64, without norm: 216,065 parameters at size 28, 1,033,345 at 32, 4,314,753
    at 64, 17,431,169 at 128.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        side, halvings = innermost(spec.size)
        before, after = spec.channels, spec.width
        layers: list[nn.Module] = []
        for number in range(halvings):
            norm = norm_layers(spec.norm, after) if number else []
            bias = spec.norm != "batch" or not norm
            layers += [nn.Conv2d(before, after, 5, 2, 2, bias=bias), *norm, nn.LeakyReLU(0.2, inplace=True)]
            before, after = after, after * 2
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * side * side, 1))

    def initialise(self, rng: torch.Generator) -> None:
        glorot(self, rng)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).flatten()

"""`dcgan-pool`: the Keras design for CelebA of Valle 2019, "Hands-on generative adversarial networks with Keras"
(Packt), whose discriminator ends in an average over the image.

Norms and LeakyReLU are as Keras has them by default (momentum 0.01 in PyTorch's sense, epsilon 1e-3, slope 0.3), and
so are first weights (Glorot).

N batch, C channels, H height, W width, Z length of a latent.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facegan.nets.initial import glorot
from facegan.nets.sides import innermost
from facegan.nets.spec import Discriminator, Generator, NetSpec

NORMS = ("batch", "none")
_MOMENTUM, _EPSILON, _SLOPE = 0.01, 1e-3, 0.3


class DCGANPoolGenerator(Generator):
    """Fully connected to 4·4·8·width with batch norm, four blocks of transposed convolution 5×5, batch norm and
    LeakyReLU, and a last convolution 5×5 with tanh.

    (N, Z) → (N, C, H, W) in [−1, 1]; as many blocks as doublings from 4 (from 7 at size 28), and the last two of
    ``width`` channels. Three channels, latent 100, width 16: 180,403 parameters at size 28, 176,179 at 32, 485,555 at
    64, 1,513,907 at 128.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        side, doublings = innermost(spec.size)
        before = spec.width * 2 ** (doublings - 1)
        values = side * side * before
        layers: list[nn.Module] = [
            nn.Linear(spec.latent, values, bias=False),
            nn.BatchNorm1d(values, _EPSILON, _MOMENTUM),
            nn.Unflatten(1, (before, side, side)),
        ]
        for block in reversed(range(doublings)):
            after = spec.width * 2 ** max(block - 1, 0)
            layers += [
                nn.ConvTranspose2d(before, after, 5, 2, 2, output_padding=1, bias=False),
                nn.BatchNorm2d(after, _EPSILON, _MOMENTUM),
                nn.LeakyReLU(_SLOPE, inplace=True),
            ]
            before = after
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, spec.channels, 5, padding=2), nn.Tanh())

    def initialise(self, rng: torch.Generator) -> None:
        glorot(self, rng)

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(latents)


class DCGANPoolDiscriminator(Discriminator):
    """Four blocks of convolution, norm, strided convolution, norm and LeakyReLU, all 5×5; then the mean over the image
    and a fully connected layer to one logit.

    (N, C, H, W) in [−1, 1] → (N,); as many blocks as halvings down to 4 (7 at size 28), of ``width`` channels and twice
    as many in each further one. Three channels, width 16, with batch norm: 46,225 parameters at size 28, 200,113 at 32,
    815,089 at 64, 3,273,841 at 128. With ``norm="none"`` a bias stands where the batch norm's shift stood.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = spec.channels
        for block in range(innermost(spec.size)[1]):
            after = spec.width * 2**block
            for channels, stride in ((before, 1), (after, 2)):
                layers.append(nn.Conv2d(channels, after, 5, stride, 2, bias=spec.norm == "none"))
                if spec.norm == "batch":
                    layers.append(nn.BatchNorm2d(after, _EPSILON, _MOMENTUM))
            layers.append(nn.LeakyReLU(_SLOPE, inplace=True))
            before = after
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(before, 1)

    def initialise(self, rng: torch.Generator) -> None:
        glorot(self, rng)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.layers(images).mean(dim=(2, 3))).flatten()

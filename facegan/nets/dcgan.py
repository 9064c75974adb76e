"""Three DCGANs: `dcgan` after the paper, `dcgan-fc` of the WGAN-GP code, `dcgan-pool` of a Keras book.

In all of them the discriminator mirrors the generator, each block doubles or halves the side, and ``width`` is the
number of channels next to the pixels.

N batch, C channels, H height, W width, Z length of a latent.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facegan.nets.layers import SequentialDiscriminator, SequentialGenerator, glorot, norm_layers
from facegan.nets.spec import Discriminator, NetSpec, base_resolution

DCGAN_SIZES, DCGAN_NORMS = (32, 64, 128), ("batch", "none")
DCGAN_FC_NORMS = ("none", "layer", "batch")
DCGAN_POOL_NORMS = ("batch", "none")
_KERAS_SLOPE, _KERAS_EPSILON, _KERAS_MOMENTUM = 0.3, 1e-3, 0.01  # momentum in PyTorch's sense


def _widths(size: int, width: int) -> list[int]:
    """Channels from the pixels inwards, down to 4×4: ``[64, 128, 256, 512]`` for size 64 and width 64."""
    return [width * 2**block for block in range((size // 4).bit_length() - 1)]


class DCGANGenerator(SequentialGenerator):
    """`dcgan`: Radford, Metz & Chintala 2015, "Unsupervised representation learning with deep convolutional generative
    adversarial networks" (arXiv:1511.06434), with the details of PyTorch's DCGAN example.

    Transposed convolutions 4×4 with batch norm and ReLU, the last with tanh; no biases.

    (N, Z) → (N, C, H, W) in [−1, 1]. Three channels, latent 100, width 64: 1,068,928 parameters at size 32,
    3,576,704 at 64 (the count of PyTorch's example), 12,786,560 at 128.
    """

    def __init__(self, spec: NetSpec) -> None:
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
        super().__init__([*layers, nn.ConvTranspose2d(before, spec.channels, 4, 2, 1, bias=False), nn.Tanh()])

    def initialise(self, rng: torch.Generator) -> None:
        _initialise_dcgan(self, rng)

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(latents[:, :, None, None])


class DCGANDiscriminator(SequentialDiscriminator):
    """Strided convolutions 4×4 with LeakyReLU 0.2, the last to one logit.

    (N, C, H, W) in [−1, 1] → (N,). With ``norm="batch"`` the inner convolutions have a batch norm and no bias, and
    three channels at width 64 make 663,296 parameters at size 32, 2,765,568 at 64, 11,164,416 at 128. With
    ``norm="none"``, for losses with a penalty per sample, they have a bias (2,764,672 at 64).
    """

    def __init__(self, spec: NetSpec) -> None:
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
        super().__init__([*layers, nn.Conv2d(before, 1, 4, 1, 0, bias=False)])

    def initialise(self, rng: torch.Generator) -> None:
        _initialise_dcgan(self, rng)


@torch.no_grad()
def _initialise_dcgan(net: nn.Module, rng: torch.Generator) -> None:
    """Convolutions N(0, 0.02²), batch-norm scales N(1, 0.02²), biases 0 (section 3 of the paper; the example)."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.weight.normal_(0.0, 0.02, generator=rng)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.weight.normal_(1.0, 0.02, generator=rng)
            module.bias.zero_()


class DCGANFCGenerator(SequentialGenerator):
    """`dcgan-fc`: the 64×64 DCGAN in the code of Gulrajani et al. 2017, "Improved training of Wasserstein GANs"
    (arXiv:1704.00028), where it serves DCGAN and WGAN-GP alike.

    Fully connected to 4·4·8·width, then transposed convolutions 5×5, batch norm and ReLU, then tanh. Channels halve as
    the side doubles, down to ``width``; a layer without batch norm after it has a bias.

    (N, Z) → (N, C, H, W) in [−1, 1]. Three channels, latent 128, width 64: 1,012,803 parameters at size 28 (which
    starts from 7·7·2·width), 1,553,987 at 32, 5,356,099 at 64, 19,513,923 at 128.
    """

    def __init__(self, spec: NetSpec) -> None:
        side, doublings = base_resolution(spec.size)
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
        super().__init__([*layers, nn.ConvTranspose2d(before, spec.channels, 5, 2, 2, output_padding=1), nn.Tanh()])


class DCGANFCDiscriminator(SequentialDiscriminator):
    """Strided convolutions 5×5 with LeakyReLU 0.2, then a fully connected layer to one logit.

    (N, C, H, W) in [−1, 1] → (N,). A norm follows each convolution but the first; one with batch norm has no bias.
    Three channels, width 64, no norm: 216,065 parameters at size 28, 1,033,345 at 32, 4,314,753 at 64, 17,431,169 at
    128.
    """

    def __init__(self, spec: NetSpec) -> None:
        side, halvings = base_resolution(spec.size)
        before, after = spec.channels, spec.width
        layers: list[nn.Module] = []
        for number in range(halvings):
            norm = norm_layers(spec.norm, after) if number else []
            bias = spec.norm != "batch" or not norm
            layers += [nn.Conv2d(before, after, 5, 2, 2, bias=bias), *norm, nn.LeakyReLU(0.2, inplace=True)]
            before, after = after, after * 2
        super().__init__([*layers, nn.Flatten(), nn.Linear(before * side * side, 1)])


class DCGANPoolGenerator(SequentialGenerator):
    """`dcgan-pool`: the CelebA pair of Valle 2019, "Hands-on generative adversarial networks with Keras" (Packt), with
    Keras's defaults.

    Fully connected to 4·4·8·width with batch norm, a block of transposed convolution 5×5, batch norm and LeakyReLU per
    doubling, the last two of ``width`` channels, then a convolution 5×5 with tanh.

    (N, Z) → (N, C, H, W) in [−1, 1]. Three channels, latent 100, width 16: 180,403 parameters at size 28, 176,179 at
    32, 485,555 at 64, 1,513,907 at 128.
    """

    def __init__(self, spec: NetSpec) -> None:
        side, doublings = base_resolution(spec.size)
        before = spec.width * 2 ** (doublings - 1)
        values = side * side * before
        layers: list[nn.Module] = [
            nn.Linear(spec.latent, values, bias=False),
            nn.BatchNorm1d(values, _KERAS_EPSILON, _KERAS_MOMENTUM),
            nn.Unflatten(1, (before, side, side)),
        ]
        for block in reversed(range(doublings)):
            after = spec.width * 2 ** max(block - 1, 0)
            layers += [
                nn.ConvTranspose2d(before, after, 5, 2, 2, output_padding=1, bias=False),
                nn.BatchNorm2d(after, _KERAS_EPSILON, _KERAS_MOMENTUM),
                nn.LeakyReLU(_KERAS_SLOPE, inplace=True),
            ]
            before = after
        super().__init__([*layers, nn.Conv2d(before, spec.channels, 5, padding=2), nn.Tanh()])


class DCGANPoolDiscriminator(Discriminator):
    """A block of convolution, norm, strided convolution, norm and LeakyReLU per halving, all 5×5, with twice the
    channels of the block before; then the mean over the image and a fully connected layer to one logit.

    (N, C, H, W) in [−1, 1] → (N,). Three channels, width 16, with batch norm: 46,225 parameters at size 28, 200,113 at
    32, 815,089 at 64, 3,273,841 at 128. With ``norm="none"`` convolutions have a bias.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = spec.channels
        for block in range(base_resolution(spec.size)[1]):
            after = spec.width * 2**block
            for channels, stride in ((before, 1), (after, 2)):
                layers.append(nn.Conv2d(channels, after, 5, stride, 2, bias=spec.norm == "none"))
                if spec.norm == "batch":
                    layers.append(nn.BatchNorm2d(after, _KERAS_EPSILON, _KERAS_MOMENTUM))
            layers.append(nn.LeakyReLU(_KERAS_SLOPE, inplace=True))
            before = after
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(before, 1)

    def initialise(self, rng: torch.Generator) -> None:
        glorot(self, rng)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.layers(images).mean(dim=(2, 3))).flatten()

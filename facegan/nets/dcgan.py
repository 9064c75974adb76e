"""Plain stacks of layers: four DCGANs (`dcgan` after the paper, `dcgan-fc` of the WGAN-GP code, `dcgan-pool` of a Keras
book, `mnist-conv` of a TensorFlow tutorial), the fully connected `mlp`, and `began` with its autoencoder.

In `dcgan`, `dcgan-fc` and `dcgan-pool` the discriminator mirrors the generator, each block doubles or halves the side,
and ``width`` is the number of channels next to the pixels.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from facegan.nets.layers import (
    Discriminator,
    Dropout,
    NetSpec,
    SequentialDiscriminator,
    SequentialGenerator,
    SpectralConv2d,
    base_resolution,
    glorot,
    norm_layers,
)

_KERAS_NORM = (1e-3, 0.01)  # epsilon, and momentum in PyTorch's sense


def _widths(width: int, blocks: int) -> list[int]:
    """Channels from the pixels inwards: ``[64, 128, 256, 512]`` for width 64 and 4 blocks."""
    return [width * 2**block for block in range(blocks)]


def _norm_relu(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


def _leaky(slope: float = 0.2) -> nn.LeakyReLU:
    return nn.LeakyReLU(slope, inplace=True)


def _keras_norm(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels, *_KERAS_NORM), _leaky(0.3)]


@torch.no_grad()
def _initialise_dcgan(net: nn.Module, rng: torch.Generator) -> None:
    """Convolutions N(0, 0.02²), batch-norm scales N(1, 0.02²), biases 0 (section 3 of the paper; the example)."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.weight.normal_(0.0, 0.02, generator=rng)
            if module.bias is not None:
                module.bias.zero_()
            if isinstance(module, SpectralConv2d):
                module.initialise_u(rng)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.weight.normal_(1.0, 0.02, generator=rng)
            module.bias.zero_()


class DCGANGenerator(SequentialGenerator):
    """`dcgan`: Radford, Metz & Chintala 2015, "Unsupervised representation learning with deep convolutional generative
    adversarial networks" (arXiv:1511.06434), with the details of PyTorch's DCGAN example.

    Transposed convolutions 4×4 with batch norm and ReLU, the last with tanh; no biases.
    """

    initialise = _initialise_dcgan

    def __init__(self, spec: NetSpec) -> None:
        widths = _widths(spec.width, base_resolution(spec.size)[1])[::-1]
        layers: list[nn.Module] = [nn.ConvTranspose2d(spec.latent, widths[0], 4, bias=False), *_norm_relu(widths[0])]
        for before, after in pairwise(widths):
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False), *_norm_relu(after)]
        super().__init__(*layers, nn.ConvTranspose2d(spec.width, spec.channels, 4, 2, 1, bias=False), nn.Tanh())

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(latents[:, :, None, None])


class DCGANDiscriminator(SequentialDiscriminator):
    """Strided convolutions 4×4 with LeakyReLU 0.2, the last to one logit. The inner ones have a batch norm, or a bias
    with ``norm="none"`` (for losses with a penalty per sample) and ``"spectral"`` (all weights of spectral norm 1)."""

    initialise = _initialise_dcgan

    def __init__(self, spec: NetSpec) -> None:
        widths = _widths(spec.width, base_resolution(spec.size)[1])
        conv = SpectralConv2d if spec.norm == "spectral" else nn.Conv2d
        layers: list[nn.Module] = [conv(spec.channels, spec.width, 4, 2, 1, bias=False), _leaky()]
        for before, after in pairwise(widths):
            convolution = conv(before, after, 4, 2, 1, bias=spec.norm != "batch")
            layers += [convolution, *norm_layers(spec.norm, after), _leaky()]
        super().__init__(*layers, conv(widths[-1], 1, 4, bias=False))
        self.pooled = widths[-1]


class DCGANFCGenerator(SequentialGenerator):
    """`dcgan-fc`: the 64×64 DCGAN in the code of Gulrajani et al. 2017, "Improved training of Wasserstein GANs"
    (arXiv:1704.00028), where it serves DCGAN and WGAN-GP alike.

    Fully connected to 4·4·8·width (at size 28, 7·7·2·width), then transposed convolutions 5×5, batch norm and ReLU,
    then tanh. Channels halve as the side doubles, down to ``width``; a layer without batch norm after it has a bias.
    """

    def __init__(self, spec: NetSpec) -> None:
        side, doublings = base_resolution(spec.size)
        widths = _widths(spec.width, doublings)[::-1]
        layers: list[nn.Module] = [
            nn.Linear(spec.latent, side * side * widths[0], bias=False),
            nn.Unflatten(1, (widths[0], side, side)),
            *_norm_relu(widths[0]),
        ]
        for before, after in pairwise(widths):
            layers += [nn.ConvTranspose2d(before, after, 5, 2, 2, 1, bias=False), *_norm_relu(after)]
        super().__init__(*layers, nn.ConvTranspose2d(spec.width, spec.channels, 5, 2, 2, 1), nn.Tanh())


class DCGANFCDiscriminator(SequentialDiscriminator):
    """Strided convolutions 5×5 with LeakyReLU 0.2, then a fully connected layer to one logit.

    A norm follows each convolution but the first; one with batch norm has no bias.
    """

    head_layers = 2

    def __init__(self, spec: NetSpec) -> None:
        side, halvings = base_resolution(spec.size)
        widths = _widths(spec.width, halvings)
        layers: list[nn.Module] = [nn.Conv2d(spec.channels, spec.width, 5, 2, 2), _leaky()]
        for before, after in pairwise(widths):
            convolution = nn.Conv2d(before, after, 5, 2, 2, bias=spec.norm != "batch")
            layers += [convolution, *norm_layers(spec.norm, after), _leaky()]
        super().__init__(*layers, nn.Flatten(), nn.Linear(widths[-1] * side * side, 1))
        self.pooled = widths[-1]


class DCGANPoolGenerator(SequentialGenerator):
    """`dcgan-pool`: the CelebA pair of Valle 2019, "Hands-on generative adversarial networks with Keras" (Packt), with
    Keras's defaults.

    Fully connected to 4·4·8·width with batch norm, a block of transposed convolution 5×5, batch norm and LeakyReLU per
    doubling, the last two of ``width`` channels, then a convolution 5×5 with tanh.
    """

    def __init__(self, spec: NetSpec) -> None:
        side, doublings = base_resolution(spec.size)
        widths = _widths(spec.width, doublings)[::-1]
        values = side * side * widths[0]
        layers: list[nn.Module] = [
            nn.Linear(spec.latent, values, bias=False),
            nn.BatchNorm1d(values, *_KERAS_NORM),
            nn.Unflatten(1, (widths[0], side, side)),
        ]
        for before, after in pairwise([*widths, spec.width]):
            layers += [nn.ConvTranspose2d(before, after, 5, 2, 2, 1, bias=False), *_keras_norm(after)]
        super().__init__(*layers, nn.Conv2d(spec.width, spec.channels, 5, padding=2), nn.Tanh())


class DCGANPoolDiscriminator(Discriminator):
    """A block of convolution, norm, strided convolution, norm and LeakyReLU per halving, all 5×5, with twice the
    channels of the block before; then the mean over the image and a fully connected layer to one logit.
    With ``norm="none"`` convolutions have a bias.
    """

    initialise = glorot

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = _widths(spec.width, base_resolution(spec.size)[1])
        for before, after in pairwise([spec.channels, *widths]):
            for channels, stride in ((before, 1), (after, 2)):
                layers.append(nn.Conv2d(channels, after, 5, stride, 2, bias=spec.norm == "none"))
                if spec.norm == "batch":
                    layers.append(nn.BatchNorm2d(after, *_KERAS_NORM))
            layers.append(_leaky(0.3))
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(widths[-1], 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.layers(images).mean(dim=(2, 3))).flatten()


class MNISTConvGenerator(SequentialGenerator):
    """`mnist-conv`: the pair of TensorFlow's DCGAN tutorial, with Keras's defaults; the tutorial trains it by Adam with
    a learning rate of 1e-4.

    Fully connected to 7·7·4·width (at size 32, 8·8·4·width), then transposed convolutions 5×5 with strides 1, 2 and 2,
    then tanh; no biases.
    """

    def __init__(self, spec: NetSpec) -> None:
        side, width = spec.size // 4, spec.width
        values = side * side * width * 4
        super().__init__(
            nn.Linear(spec.latent, values, bias=False),
            nn.BatchNorm1d(values, *_KERAS_NORM),
            _leaky(0.3),
            nn.Unflatten(1, (width * 4, side, side)),
            nn.ConvTranspose2d(width * 4, width * 2, 5, 1, 2, bias=False),
            *_keras_norm(width * 2),
            nn.ConvTranspose2d(width * 2, width, 5, 2, 2, 1, bias=False),
            *_keras_norm(width),
            nn.ConvTranspose2d(width, spec.channels, 5, 2, 2, 1, bias=False),
            nn.Tanh(),
        )


class MNISTConvDiscriminator(SequentialDiscriminator):
    """Two convolutions 5×5 of stride 2 with LeakyReLU 0.3 and dropout 0.3, then a fully connected layer."""

    def __init__(self, spec: NetSpec) -> None:
        side, width = spec.size // 4, spec.width
        layers: list[nn.Module] = []
        for before, after in ((spec.channels, width), (width, width * 2)):
            layers += [nn.Conv2d(before, after, 5, 2, 2), _leaky(0.3), Dropout(0.3)]
        super().__init__(*layers, nn.Flatten(), nn.Linear(side * side * width * 2, 1))


class MLPGenerator(SequentialGenerator):
    """`mlp`: after Goodfellow et al. 2014, "Generative adversarial nets" (arXiv:1406.2661), with the batch norm, ReLUs
    and widths of later code; the default latents are uniform, as in the paper.

    Z → width → 2·width → 4·width → 8·width → pixels, with batch norm and ReLU, then tanh.
    """

    def __init__(self, spec: NetSpec) -> None:
        shape = (spec.channels, spec.size, spec.size)
        layers: list[nn.Module] = []
        for before, after in pairwise([spec.latent, *_widths(spec.width, 4)]):
            layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU(inplace=True)]
        super().__init__(
            *layers, nn.Linear(spec.width * 8, spec.channels * spec.size**2), nn.Tanh(), nn.Unflatten(1, shape)
        )


class MLPDiscriminator(SequentialDiscriminator):
    """Pixels → 4·width → 2·width → width → 1, with LeakyReLU 0.2 and dropout 0.3."""

    def __init__(self, spec: NetSpec) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise([spec.channels * spec.size**2, *_widths(spec.width, 3)[::-1]]):
            layers += [nn.Linear(before, after), _leaky(), Dropout(0.3)]
        super().__init__(*layers, nn.Linear(spec.width, 1))


def _sides(size: int) -> list[int]:
    """From the innermost layer to the pixels: ``[8, 16, 32, 64]`` for size 64."""
    smallest = 7 if size % 8 else 8
    return [smallest * 2**i for i in range((size // smallest).bit_length())]


def _decoder(spec: NetSpec) -> nn.Sequential:
    """(N, Z) → (N, C, H, W): two convolutions per side, nearest-neighbour doublings, then one to the channels."""
    sides, width = _sides(spec.size), spec.width
    shape = (width, sides[0], sides[0])
    layers: list[nn.Module] = [nn.Linear(spec.latent, width * sides[0] ** 2), nn.Unflatten(1, shape)]
    for side in sides:
        layers += [*_conv_elu(width, width), *_conv_elu(width, width)]
        if side < spec.size:
            layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
    return nn.Sequential(*layers, nn.Conv2d(width, spec.channels, 3, padding=1))


def _encoder(spec: NetSpec) -> nn.Sequential:
    """(N, C, H, W) → (N, Z): two convolutions per side, then one of stride 2 to n more channels."""
    sides, width = _sides(spec.size), spec.width
    layers = _conv_elu(spec.channels, width)
    for number in range(1, len(sides) + 1):
        here = width * number
        layers += [*_conv_elu(here, here), *_conv_elu(here, here)]
        if number < len(sides):
            layers += _conv_elu(here, here + width, stride=2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * len(sides) * sides[0] ** 2, spec.latent))


def _conv_elu(before: int, after: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, stride, 1), nn.ELU(inplace=True)]


class BEGANGenerator(SequentialGenerator):
    """`began`: Berthelot, Schumm & Metz 2017, "BEGAN: boundary equilibrium generative adversarial networks"
    (arXiv:1703.10717), section 3.4 and figure 1, without the optional skip connections.

    The paper's decoder, of convolutions 3×3 with ELU and no norm, and a tanh; ``width`` is the paper's n.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__(_decoder(spec), nn.Tanh())


class BEGANDiscriminator(Discriminator):
    """An autoencoder. Its logit is −L(x), with L(x) = mean |x − D(x)| over an image's values: equation 1 with η = 1."""

    initialise = glorot

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        self.encoder, self.decoder = _encoder(spec), _decoder(spec)

    def reconstruct(self, images: Tensor) -> Tensor:
        """D(x): same shape, in no fixed range."""
        return self.decoder(self.encoder(images))

    def forward(self, images: Tensor) -> Tensor:
        return -(images.float() - self.reconstruct(images).float()).abs().mean(dim=(1, 2, 3))

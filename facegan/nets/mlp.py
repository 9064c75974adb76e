"""Pairs for digits and other small pictures: `mlp`, fully connected, and `mnist-conv`, convolutional.

N batch, C channels, H height, W width, Z length of a latent.
"""

from __future__ import annotations

from torch import nn

from facegan.nets.layers import Dropout, SequentialDiscriminator, SequentialGenerator
from facegan.nets.spec import NetSpec

MNIST_CONV_SIZES = (28, 32)
_SLOPE, _DROPOUT = 0.2, 0.3
_KERAS_SLOPE, _KERAS_EPSILON, _KERAS_MOMENTUM = 0.3, 1e-3, 0.01  # momentum in PyTorch's sense


class MLPGenerator(SequentialGenerator):
    """`mlp`: after Goodfellow et al. 2014, "Generative adversarial nets" (arXiv:1406.2661), with the batch norm, ReLUs
    and widths of later code; the default latents are uniform, as in the paper.

    Z → width → 2·width → 4·width → 8·width → pixels, with batch norm and ReLU, then tanh.

    (N, Z) → (N, C, H, W) in [−1, 1]. One channel, latent 100, width 128, at size 28: 1,508,368 parameters; three
    channels: 3,115,568 at 28, 3,853,568 at 32, 13,299,968 at 64, 51,085,568 at 128.
    """

    def __init__(self, spec: NetSpec) -> None:
        layers: list[nn.Module] = []
        before = spec.latent
        for after in (spec.width * 2**layer for layer in range(4)):
            layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU(inplace=True)]
            before = after
        shape = (spec.channels, spec.size, spec.size)
        pixels = spec.channels * spec.size**2
        super().__init__([*layers, nn.Linear(before, pixels), nn.Tanh(), nn.Unflatten(1, shape)])


class MLPDiscriminator(SequentialDiscriminator):
    """Pixels → 4·width → 2·width → width → 1, with LeakyReLU 0.2 and dropout 0.3.

    (N, C, H, W) in [−1, 1] → (N,). One channel, width 128, at size 28: 566,273 parameters; three channels: 1,369,089 at
    28, 1,737,729 at 32, 6,456,321 at 64, 25,330,689 at 128.
    """

    def __init__(self, spec: NetSpec) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        before = spec.channels * spec.size**2
        for after in (spec.width * 4, spec.width * 2, spec.width):
            layers += [nn.Linear(before, after), nn.LeakyReLU(_SLOPE, inplace=True), Dropout(_DROPOUT)]
            before = after
        super().__init__([*layers, nn.Linear(before, 1)])


class MNISTConvGenerator(SequentialGenerator):
    """`mnist-conv`: the pair of TensorFlow's DCGAN tutorial, with Keras's defaults; the tutorial trains it by Adam with
    a learning rate of 1e-4.

    Fully connected to 7·7·4·width, then transposed convolutions 5×5 with strides 1, 2 and 2, then tanh; no biases.

    (N, Z) → (N, C, H, W) in [−1, 1]. One channel, latent 100, width 64: 2,305,472 parameters at size 28 (the tutorial's
    count) and 2,697,152 at 32, which starts from 8·8·4·width; 3,200 more with three channels.
    """

    def __init__(self, spec: NetSpec) -> None:
        side, width = spec.size // 4, spec.width
        values = side * side * width * 4
        super().__init__(
            [
                nn.Linear(spec.latent, values, bias=False),
                nn.BatchNorm1d(values, _KERAS_EPSILON, _KERAS_MOMENTUM),
                nn.LeakyReLU(_KERAS_SLOPE, inplace=True),
                nn.Unflatten(1, (width * 4, side, side)),
                nn.ConvTranspose2d(width * 4, width * 2, 5, 1, 2, bias=False),
                nn.BatchNorm2d(width * 2, _KERAS_EPSILON, _KERAS_MOMENTUM),
                nn.LeakyReLU(_KERAS_SLOPE, inplace=True),
                nn.ConvTranspose2d(width * 2, width, 5, 2, 2, output_padding=1, bias=False),
                nn.BatchNorm2d(width, _KERAS_EPSILON, _KERAS_MOMENTUM),
                nn.LeakyReLU(_KERAS_SLOPE, inplace=True),
                nn.ConvTranspose2d(width, spec.channels, 5, 2, 2, output_padding=1, bias=False),
                nn.Tanh(),
            ]
        )


class MNISTConvDiscriminator(SequentialDiscriminator):
    """Two convolutions 5×5 of stride 2 with LeakyReLU 0.3 and dropout 0.3, then a fully connected layer.

    (N, C, H, W) in [−1, 1] → (N,). One channel, width 64: 212,865 parameters at size 28 (the tutorial's count) and
    214,785 at 32; 3,200 more with three channels.
    """

    def __init__(self, spec: NetSpec) -> None:
        side, width = spec.size // 4, spec.width
        super().__init__(
            [
                nn.Conv2d(spec.channels, width, 5, 2, 2),
                nn.LeakyReLU(_KERAS_SLOPE, inplace=True),
                Dropout(_DROPOUT),
                nn.Conv2d(width, width * 2, 5, 2, 2),
                nn.LeakyReLU(_KERAS_SLOPE, inplace=True),
                Dropout(_DROPOUT),
                nn.Flatten(),
                nn.Linear(side * side * width * 2, 1),
            ]
        )

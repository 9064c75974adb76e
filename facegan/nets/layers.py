"""Layers and initialisation that several pairs share: sequential nets, spectral normalisation, dropout, norms, Glorot.

N images, K values per image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from facegan.nets.spec import Discriminator, Generator


class SequentialGenerator(Generator):
    """Layers in a row, initialised by `glorot`."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def initialise(self, rng: torch.Generator) -> None:
        glorot(self, rng)

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(latents)


class SequentialDiscriminator(Discriminator):
    """Layers in a row that end in one logit, initialised by `glorot`."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def initialise(self, rng: torch.Generator) -> None:
        glorot(self, rng)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).flatten()


def norm_layers(norm: str, channels: int) -> list[nn.Module]:
    """The layer after a convolution for a `NetSpec.norm`, if it needs one.

    ``layer`` normalises all values of an image, with a scale and a shift per channel (Ba, Kiros & Hinton 2016,
    arXiv:1607.06450, as in WGAN-GP's code): no image depends on another. ``spectral`` normalises weights instead.
    """
    if norm == "batch":
        return [nn.BatchNorm2d(channels)]
    return [nn.GroupNorm(1, channels)] if norm == "layer" else []


@torch.no_grad()
def glorot(net: nn.Module, rng: torch.Generator) -> None:
    """The initialisation of TensorFlow and Keras: Glorot weights, biases 0, norms the identity.

    Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks" (AISTATS),
    equation 16, with f the fans, kernel sides included:
        W ~ U[−a, a],   a = √(6 / (f_in + f_out))
    """
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(module.weight, generator=rng)
            if module.bias is not None:
                module.bias.zero_()
        if isinstance(module, SpectralConv2d | SpectralLinear):
            module.initialise(rng)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm):
            module.weight.fill_(1.0)
            module.bias.zero_()
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()


class SpectralConv2d(nn.Conv2d):
    """`nn.Conv2d` with zero padding and weights of spectral norm 1, see `_normalised`.

    PyTorch's own parametrisation draws u when it is constructed, which a net on the meta device cannot do, and iterates
    in the precision of the pass.
    """

    u: Tensor

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.register_buffer("u", torch.empty(self.out_channels))

    def initialise(self, rng: torch.Generator) -> None:
        _draw_unit(self.u, rng)

    def forward(self, input: Tensor) -> Tensor:
        weight = _normalised(self.weight, self.u, update=self.training)
        return functional.conv2d(input, weight, self.bias, self.stride, self.padding)


class SpectralLinear(nn.Linear):
    """`nn.Linear` with weights of spectral norm 1, see `_normalised`."""

    u: Tensor

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.register_buffer("u", torch.empty(self.out_features))

    def initialise(self, rng: torch.Generator) -> None:
        _draw_unit(self.u, rng)

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, _normalised(self.weight, self.u, update=self.training), self.bias)


@torch.no_grad()
def _draw_unit(u: Tensor, rng: torch.Generator) -> None:
    u.normal_(generator=rng)
    u.div_(u.norm())


def _normalised(weight: Tensor, u: Tensor, *, update: bool) -> Tensor:
    """Miyato et al. 2018, "Spectral normalization for generative adversarial networks" (arXiv:1802.05957), algorithm 1.

    With W the weight as a matrix, one row per output channel, and u a buffer that each training pass updates:
        v ← Wᵀu / ‖Wᵀu‖,   u ← Wv / ‖Wv‖,   W̄ = W / σ   with   σ = uᵀWv
    Computed in float32 whatever the precision of the pass. σ's gradient goes through W alone: u and v are constants.
    """
    with torch.autocast(weight.device.type, enabled=False):
        matrix = weight.flatten(1)
        with torch.no_grad():
            v = functional.normalize(matrix.T @ u, dim=0)
            left = functional.normalize(matrix @ v, dim=0) if update else u.clone()
            if update:
                u.copy_(left)
        return weight / torch.dot(left, matrix @ v)


class Dropout(nn.Module):
    """Dropout with masks drawn by the caller, see `drawn`: the net has no random state, so a training can be repeated,
    resumed and captured in a CUDA graph. In eval mode the identity.

    Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting" (JMLR 15):
        y = m · x / (1 − p),   m = 0 with probability p, else 1, for each value of each image

    Args:
        rate: p.

    Raises:
        RuntimeError: called in training mode outside `drawn`.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.uniform: Callable[[int], Tensor] | None = None

    def forward(self, values: Tensor) -> Tensor:
        if not self.training:
            return values
        if self.uniform is None:
            raise RuntimeError(
                "This net has dropout. In training mode, call it within facegan.nets.drawn(net, draw), which draws\n"
                "its masks; or use eval mode."
            )
        kept = self.uniform(values[0].numel()).view(values.shape) >= self.rate
        return values * kept / (1 - self.rate)

    def extra_repr(self) -> str:
        return str(self.rate)


@contextmanager
def drawn(net: nn.Module, draw: Callable[[int, int], Tensor]) -> Iterator[None]:
    """Passes of ``net`` within the block draw their dropout masks by ``draw``.

    Args:
        draw: (number of the dropout layer, K) → (N, K) uniform in [0, 1), for a pass of N images.
    """
    layers = [module for module in net.modules() if isinstance(module, Dropout)]
    for number, layer in enumerate(layers):
        layer.uniform = partial(draw, number)
    try:
        yield
    finally:
        for layer in layers:
            layer.uniform = None

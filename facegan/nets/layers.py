"""Layers with spectral normalisation: Miyato et al. 2018, "Spectral normalization for generative adversarial networks"
(arXiv:1802.05957), algorithm 1.

With W a layer's weight as a matrix, one row an output channel, and u kept from pass to pass:
    v ← Wᵀu / ‖Wᵀu‖,   u ← Wv / ‖Wv‖,   W̄ = W / σ   with   σ = uᵀWv

u is a buffer, part of every checkpoint. PyTorch's own parametrisation draws its u when it is made, which a net that is
built on the meta device can't do, and iterates in the precision of the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class SpectralConv2d(nn.Conv2d):
    """`nn.Conv2d`, padded with zeros, whose weight has the spectral norm 1; each pass in training iterates once."""

    u: Tensor

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.register_buffer("u", torch.empty(self.out_channels))

    def begin(self, rng: torch.Generator) -> None:
        _begin(self.u, rng)

    def forward(self, input: Tensor) -> Tensor:
        weight = _normalised(self.weight, self.u, learns=self.training)
        return functional.conv2d(input, weight, self.bias, self.stride, self.padding)


class SpectralLinear(nn.Linear):
    """`nn.Linear` whose weight has the spectral norm 1; each pass in training iterates once."""

    u: Tensor

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.register_buffer("u", torch.empty(self.out_features))

    def begin(self, rng: torch.Generator) -> None:
        _begin(self.u, rng)

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, _normalised(self.weight, self.u, learns=self.training), self.bias)


@torch.no_grad()
def _begin(u: Tensor, rng: torch.Generator) -> None:
    """The paper's: normal, here on the unit sphere from the start."""
    u.normal_(generator=rng)
    u.div_(u.norm())


def _normalised(weight: Tensor, u: Tensor, *, learns: bool) -> Tensor:
    """W̄, in float32 whatever the precision of the pass; ``u`` is moved in place where the net learns.

    σ's gradient goes through W alone, as in the paper: u and v are constants to it.
    """
    with torch.autocast(weight.device.type, enabled=False):
        matrix = weight.flatten(1)
        with torch.no_grad():
            v = functional.normalize(matrix.T @ u, dim=0)
            left = functional.normalize(matrix @ v, dim=0) if learns else u.clone()
            if learns:
                u.copy_(left)
        return weight / torch.dot(left, matrix @ v)


# Dropout whose masks are drawn by whoever trains: a net holds no random state, so a training can be repeated, taken up
# and recorded.
#
# Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting" (JMLR 15):
#     y = m · x / (1 − p),   m = 0 with probability p, else 1, for each value of each image
#
# N images, K values of an image.


class Dropout(nn.Module):
    """In eval mode the identity. In training mode passes stand within `drawn`.

    (N, …) → the same shape. Raises RuntimeError in training mode where nobody draws.
    """

    def __init__(self, rate: float) -> None:
        """
        Args:
            rate: p, the share of values that become 0.
        """
        super().__init__()
        self.rate = rate
        self.uniform: Callable[[int], Tensor] | None = None

    def forward(self, values: Tensor) -> Tensor:
        if not self.training:
            return values
        if self.uniform is None:
            raise RuntimeError(
                "This net has dropout, and in training mode its masks are drawn from outside:\n"
                "call it within facegan.nets.drawn(net, draw), or in eval mode."
            )
        kept = self.uniform(values[0].numel()).view(values.shape) >= self.rate
        return values * kept / (1 - self.rate)

    def extra_repr(self) -> str:
        return str(self.rate)


@contextmanager
def drawn(net: nn.Module, draw: Callable[[int, int], Tensor]) -> Iterator[None]:
    """Passes of ``net`` while entered take their masks from ``draw``.

    Args:
        draw: (number of the layer, K) → (N, K) uniform in [0, 1); N is the batch of the pass.
    """
    layers = [module for module in net.modules() if isinstance(module, Dropout)]
    for number, layer in enumerate(layers):
        layer.uniform = partial(draw, number)
    try:
        yield
    finally:
        for layer in layers:
            layer.uniform = None


# First weights, drawn from a given generator alone.


@torch.no_grad()
def glorot(net: nn.Module, rng: torch.Generator) -> None:
    """Every layer of ``net`` as TensorFlow and Keras begin: weights by Glorot, biases 0, norms the identity.

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
            module.begin(rng)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm):
            module.weight.fill_(1.0)
            module.bias.zero_()
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()


# Normalisations inside a discriminator, by the names that ``NetSpec.norm`` has.


def norm_layers(norm: str, channels: int) -> list[nn.Module]:
    """What stands behind a convolution: a list of one layer, or of none.

    ``layer`` is over all values of an image, with a scale and a shift a channel (Ba, Kiros & Hinton 2016,
    arXiv:1607.06450, as WGAN-GP's code has it): no image depends on another. ``spectral`` is in the weights, and so
    nothing here (`facegan.nets.layers`).
    """
    if norm == "batch":
        return [nn.BatchNorm2d(channels)]
    return [nn.GroupNorm(1, channels)] if norm == "layer" else []

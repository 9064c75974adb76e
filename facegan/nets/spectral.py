"""Layers with spectral normalisation: Miyato et al. 2018, "Spectral normalization for generative adversarial networks"
(arXiv:1802.05957), algorithm 1.

With W a layer's weight as a matrix, one row an output channel, and u kept from pass to pass:
    v ← Wᵀu / ‖Wᵀu‖,   u ← Wv / ‖Wv‖,   W̄ = W / σ   with   σ = uᵀWv

u is a buffer, part of every checkpoint. PyTorch's own parametrisation draws its u when it is made, which a net that is
built on the meta device can't do, and iterates in the precision of the pass.
"""

from __future__ import annotations

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

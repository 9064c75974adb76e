"""First weights, drawn from a given generator alone."""

from __future__ import annotations

import torch
from torch import nn

from facegan.nets.spectral import SpectralConv2d, SpectralLinear


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

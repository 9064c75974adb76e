"""Every pair of nets with few channels, with weights and batch norms unlike the initial ones."""

from __future__ import annotations

import torch
from torch import nn

from facegan.nets import PAIRS, Condition, Generator, NetSpec, make_generator

LATENT = 8


BINARY = Condition(("Eyeglasses", "Male"), 0, ((-1, -1), (-1, 1), (1, 1)), (30, 50, 20))
CLASSES = Condition(("digit",), 4, ((0,), (2,), (3,)), (10, 20, 70))


def tiny_generator(name: str, size: int, channels: int, condition: Condition | None = None) -> Generator:
    """In eval mode; no parameter is 0 that would not be after training."""
    spec = NetSpec(name, size, channels, latent=LATENT, width=4, norm=PAIRS[name].norms[0], condition=condition)
    generator = make_generator(spec).requires_grad_(False)
    rng = torch.Generator().manual_seed(0)
    norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    for name, parameter in generator.named_parameters():
        if name.endswith(("bias", "contract.weight")):
            parameter.normal_(0, 0.1, generator=rng)
    for norm in norms:
        norm.momentum = 1.0
    generator.train()(torch.randn(64, spec.inputs, generator=rng))
    return generator.eval()

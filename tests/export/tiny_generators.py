"""Every pair of nets with few channels, with weights and batch norms unlike the initial ones."""

from __future__ import annotations

import torch
from torch import nn

from facegan.nets import PAIRS, Generator, NetSpec, make_generator

LATENT = 8


def tiny_generator(name: str, size: int, channels: int) -> Generator:
    """In eval mode; no parameter is 0 that would not be after training."""
    spec = NetSpec(name, size, channels, latent=LATENT, width=4, norm=PAIRS[name].norms[0])
    generator = make_generator(spec).requires_grad_(False)
    rng = torch.Generator().manual_seed(0)
    norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    for name, parameter in generator.named_parameters():
        if name.endswith(("bias", "contract.weight")):
            parameter.normal_(0, 0.1, generator=rng)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    generator.train()(torch.randn(64, LATENT, generator=rng))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return generator.eval()


def all_kinds() -> list[tuple[str, int, int]]:
    """Every (pair, size, channels)."""
    return [(name, size, c) for name, pair in PAIRS.items() for size in pair.sizes for c in pair.channels]


def some_kinds() -> list[tuple[str, int, int]]:
    """Every pair once, every size and either number of channels at least once."""
    sizes = {"dcgan": (64, 3), "dcgan-fc": (28, 1), "dcgan-pool": (32, 3), "mnist-conv": (28, 1), "mlp": (28, 3)}
    return [(name, *sizes.get(name, (32, 1 if name == "began" else 3))) for name in PAIRS]

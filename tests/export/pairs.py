"""Every pair of nets with few channels, and weights that are not those it begins with."""

from __future__ import annotations

import torch

from facegan.nets import PAIRS, Generator, NetSpec, make_generator

LATENT = 8


def tiny_generator(name: str, size: int, channels: int) -> Generator:
    """In eval mode; batch norms have seen images, so that no layer is the identity and pixels use the whole range."""
    spec = NetSpec(name, size, channels, latent=LATENT, width=4, norm=PAIRS[name].norms[0])
    generator = make_generator(spec)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, tensor in generator.state_dict().items():
            if key.endswith("running_var"):
                tensor.uniform_(0.01, 0.02, generator=rng)
            elif key.endswith("running_mean") or (key.endswith("bias") and tensor.ndim == 1):
                tensor.normal_(0, 0.1, generator=rng)
    return generator.eval().requires_grad_(False)


def all_kinds() -> list[tuple[str, int, int]]:
    """(pair, size, channels): all that there are."""
    return [(name, size, c) for name, pair in PAIRS.items() for size in pair.sizes for c in pair.channels]


def some_kinds() -> list[tuple[str, int, int]]:
    """Every pair once, every size and either number of channels at least once."""
    sizes = {"dcgan": (64, 3), "dcgan-fc": (28, 1), "dcgan-pool": (32, 3), "mnist-conv": (28, 1), "mlp": (28, 3)}
    return [(name, *sizes.get(name, (32, 1 if name == "began" else 3))) for name in PAIRS]

"""What a method, and what a pair of nets, sets apart from the defaults of `facegan.config.train`."""

from __future__ import annotations

from typing import Any, Literal

from facegan.own import is_own

Method = Literal["dcgan", "wgan-gp"]
Nets = Literal["dcgan", "dcgan-fc", "dcgan-pool", "mnist-conv", "mlp", "resnet", "began", "r3gan"]
Loss = Literal[
    "non-saturating", "minimax", "max-likelihood", "wgan", "wgan-gp", "lsgan", "hinge", "relativistic", "began"
]
Law = Literal["normal", "uniform", "uniform01", "sphere"]

# What a method sets apart from the defaults of `facegan.config.train`. dcgan: Radford et al. 2015. wgan-gp: Gulrajani
# et al. 2017, algorithm 1, but with one step of the critic at thrice the generator's rate for its five at the same, as
# the code of Heusel et al. 2017 has one ("two time scales"), and half its batch: after as many images the generator has
# taken ten times the steps. BENCHMARKS.md has what comes of both.
METHODS: dict[str, dict[str, Any]] = {
    "dcgan": {},
    "wgan-gp": {
        "loss": "wgan-gp",
        "norm": "none",
        "batch": 32,
        "lr_g": 1e-4,
        "lr_d": 3e-4,
        "beta1": 0.0,
        "beta2": 0.9,
    },
}

# What a pair of nets sets apart from them, as its paper or code has it; a method's settings go before.
NETS: dict[str, dict[str, Any]] = {
    "dcgan": {},
    "dcgan-fc": {"norm": "none", "latent": 128},
    "dcgan-pool": {"width": 16, "latent_law": "uniform"},
    "mnist-conv": {"norm": "none"},
    "mlp": {"width": 128, "norm": "none", "latent_law": "uniform01"},
    "resnet": {"norm": "spectral", "latent": 128},
    "began": {"loss": "began", "norm": "none", "latent": 64, "latent_law": "uniform"},
    "r3gan": {"width": 384, "norm": "none", "latent": 64},
}


def defaults_of_nets(name: str) -> dict[str, Any]:
    """What a pair of nets sets apart; one of a user's own (``MODULE:NAME``) has no norm that facegan could choose."""
    return {"norm": "none"} if is_own(name) else NETS.get(name, {})

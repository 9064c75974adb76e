"""Adversarial losses as pure functions. Logits are (N,), losses scalars, all in float32.

D's output before any sigmoid is written d(x); x is real, x̃ = G(z) fake, σ the logistic function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

# Inside the root of the penalty's norm. The second derivative of √s at s = 0 is infinite, and a critic whose gradient
# vanishes would turn every weight into NaN; with it, the derivative is at most 1/√ε = 10⁶ and times a gradient of 0.
NORM_EPSILON = 1e-12


# Goodfellow et al. 2014, "Generative adversarial nets" (arXiv:1406.2661), equation 1, D's part, negated:
#   L_D = −E log σ(d(x)) − E log(1 − σ(d(x̃))) = E softplus(−d(x)) + E softplus(d(x̃))
def non_saturating_d(real: Tensor, fake: Tensor) -> Tensor:
    return softplus(-real.float()).mean() + softplus(fake.float()).mean()


# The same paper, section 3: G maximises log D(G(z)), whose gradient does not vanish while D wins:
#   L_G = −E log σ(d(x̃)) = E softplus(−d(x̃))
def non_saturating_g(fake: Tensor) -> Tensor:
    return softplus(-fake.float()).mean()


# Arjovsky et al. 2017, "Wasserstein GAN" (arXiv:1701.07875), equation 2, negated to be minimised:
#   L_D = E d(x̃) − E d(x)
def wasserstein_d(real: Tensor, fake: Tensor) -> Tensor:
    return fake.float().mean() - real.float().mean()


#   L_G = −E d(x̃)
def wasserstein_g(fake: Tensor) -> Tensor:
    return -fake.float().mean()


# Gulrajani et al. 2017, "Improved training of Wasserstein GANs" (arXiv:1704.00028), equation 3, without λ:
#   P = E (‖∇d(x̂)‖₂ − 1)²   with   x̂ = ε x + (1 − ε) x̃,   ε ~ U[0, 1) for each sample
def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, epsilon: Tensor) -> Tensor:
    """The penalty, in float32 whatever the autocast around it.

    Args:
        critic: maps (N, C, H, W) to (N,); no sample may depend on another (so no batch norm).
        real, fake: (N, C, H, W).
        epsilon: (N, 1, 1, 1) in [0, 1).
    """
    with torch.autocast(real.device.type, enabled=False):
        mixed = (epsilon * real.float() + (1 - epsilon) * fake.float()).detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
        norm = (gradient.square().sum(dim=(1, 2, 3)) + NORM_EPSILON).sqrt()
        return (norm - 1).square().mean()


def sign_accuracy(real: Tensor, fake: Tensor) -> Tensor:
    """Share of images on their side of 0, a logit's point of doubt: d(x) > 0, d(x̃) < 0. A scalar in 0 … 1."""
    return ((real > 0).float().mean() + (fake < 0).float().mean()) / 2


def rank_accuracy(real: Tensor, fake: Tensor) -> Tensor:
    """Share of pairs (i-th real, i-th fake) with d(x) > d(x̃): a critic's values have no point of doubt, only an order.

    A scalar in 0 … 1.
    """
    return (real > fake).float().mean()


@dataclass(frozen=True)
class Loss:
    """A pair of losses, how often D is right, and whether the penalty belongs to D's."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]
    accuracy: Callable[[Tensor, Tensor], Tensor] = sign_accuracy
    penalised: bool = False


LOSSES = {
    "non-saturating": Loss(non_saturating_d, non_saturating_g),
    "wgan-gp": Loss(wasserstein_d, wasserstein_g, rank_accuracy, penalised=True),
}

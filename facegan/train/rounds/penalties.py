"""What keeps a discriminator smooth: penalties on its gradient with respect to the images, as pure functions.

All are means over the batch, scalars in float32 whatever the autocast around them, without their weights. N batch,
C channels, H height, W width; ``critic`` maps (N, C, H, W) to (N,), and no sample may depend on another (so no batch
norm, but see `dragan`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Critic = Callable[[Tensor], Tensor]

# Inside the root of a norm. The second derivative of √s at s = 0 is infinite, and a critic whose gradient vanishes
# would turn every weight into NaN; with it, the derivative is at most 1/√ε = 10⁶ and times a gradient of 0.
NORM_EPSILON = 1e-12


# Gulrajani et al. 2017, "Improved training of Wasserstein GANs" (arXiv:1704.00028), equation 3, without λ:
#   P = E (‖∇d(x̂)‖₂ − 1)²   with   x̂ = ε x + (1 − ε) x̃,   ε ~ U[0, 1) for each sample
def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, epsilon: Tensor) -> Tensor:
    """
    Args:
        real, fake: (N, C, H, W).
        epsilon: (N, 1, 1, 1) in [0, 1).
    """
    return (_norms(critic, epsilon * real.float() + (1 - epsilon) * fake.float()) - 1).square().mean()


# Kodali et al. 2017, "On convergence and stability of GANs" (arXiv:1705.07215), algorithm 1, without λ; the noise is
# that of the authors' code:
#   P = E (‖∇d(x + δ)‖₂ − 1)²   with   δ = ½ std(x) u,   u ~ U[0, 1) for each pixel, std over the whole batch
def dragan(critic: Critic, real: Tensor, noise: Tensor) -> Tensor:
    """
    Args:
        real: (N, C, H, W).
        noise: u, of the same shape, in [0, 1).
    """
    real = real.float()
    return (_norms(critic, real + 0.5 * real.std() * noise) - 1).square().mean()


# Mescheder, Geiger & Nowozin 2018, "Which training methods for GANs do actually converge?" (arXiv:1801.04406),
# equation 9 (R1, at real images) and 10 (R2, at fake ones), without γ/2:
#   P = E ‖∇d(x)‖₂²
def squared_gradient(critic: Critic, images: Tensor) -> Tensor:
    """``images``: (N, C, H, W)."""
    return _squares(critic, images).mean()


def _norms(critic: Critic, images: Tensor) -> Tensor:
    return (_squares(critic, images) + NORM_EPSILON).sqrt()


def _squares(critic: Critic, images: Tensor) -> Tensor:
    """(N,): the squared L2 norm of the critic's gradient at each image; it can be differentiated again."""
    with torch.autocast(images.device.type, enabled=False):
        here = images.detach().float().requires_grad_(True)
        (gradient,) = torch.autograd.grad(critic(here).sum(), here, create_graph=True)
        return gradient.square().sum(dim=(1, 2, 3))

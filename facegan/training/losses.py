"""Adversarial losses and gradient penalties as pure functions. Logits are (N,), results scalars, all in float32.

D's output before any sigmoid is written d(x); x is real, x̃ = G(z) fake, σ the logistic function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from facegan.errors import SettingsError, one_of, suggest
from facegan.plugins import is_import_path, load_object

# exp of it is the largest weight of a single image in `max_likelihood_g`; in float32 it is infinite from 89 on.
LARGEST_LOGIT = 10.0


# Goodfellow et al. 2014, "Generative adversarial nets" (arXiv:1406.2661), equation 1, D's part, negated:
#   L_D = −E log σ(d(x)) − E log(1 − σ(d(x̃))) = E softplus(−d(x)) + E softplus(d(x̃))
# Salimans et al. 2016, "Improved techniques for training GANs" (arXiv:1606.03498), section 3.4: with one-sided label
# smoothing s, the target for real images is 1 − s:
#   L_D = (1 − s) E softplus(−d(x)) + s E softplus(d(x)) + E softplus(d(x̃))
def cross_entropy_d(real: Tensor, fake: Tensor, smoothing: float = 0.0) -> Tensor:
    real, fake = real.float(), fake.float()
    called_real = softplus(-real).mean()
    if smoothing:
        called_real = (1 - smoothing) * called_real + smoothing * softplus(real).mean()
    return called_real + softplus(fake).mean()


# The same paper, equation 1, G's part: what D maximises, G minimises. Its gradient vanishes while D wins:
#   L_G = E log(1 − σ(d(x̃))) = −E softplus(d(x̃))
def minimax_g(fake: Tensor) -> Tensor:
    return -softplus(fake.float()).mean()


# The same paper, section 3: G maximises log D(G(z)) instead, whose gradient does not vanish:
#   L_G = −E log σ(d(x̃)) = E softplus(−d(x̃))
def non_saturating_g(fake: Tensor) -> Tensor:
    return softplus(-fake.float()).mean()


# Goodfellow 2016, "NIPS 2016 tutorial: generative adversarial networks" (arXiv:1701.00160), section 3.2.4: at D's
# optimum its gradient is that of the likelihood:
#   L_G = −½ E exp(σ⁻¹(D(x̃))) = −½ E exp(d(x̃))
def max_likelihood_g(fake: Tensor) -> Tensor:
    """Logits above `LARGEST_LOGIT` are clamped and get no gradient: they would outweigh all others."""
    return -0.5 * fake.float().clamp(max=LARGEST_LOGIT).exp().mean()


# Arjovsky et al. 2017, "Wasserstein GAN" (arXiv:1701.07875), equation 2, negated to be minimised:
#   L_D = E d(x̃) − E d(x)
def wasserstein_d(real: Tensor, fake: Tensor) -> Tensor:
    return fake.float().mean() - real.float().mean()


#   L_G = −E d(x̃)
def wasserstein_g(fake: Tensor) -> Tensor:
    return -fake.float().mean()


# Mao et al. 2017, "Least squares generative adversarial networks" (arXiv:1611.04076), equation 9 (a 0, b = c = 1):
#   L_D = ½ E (d(x) − 1)² + ½ E d(x̃)²
def least_squares_d(real: Tensor, fake: Tensor) -> Tensor:
    return (real.float() - 1).square().mean() / 2 + fake.float().square().mean() / 2


#   L_G = ½ E (d(x̃) − 1)²
def least_squares_g(fake: Tensor) -> Tensor:
    return (fake.float() - 1).square().mean() / 2


# Lim & Ye 2017, "Geometric GAN" (arXiv:1705.02894); Miyato et al. 2018 (arXiv:1802.05957), equations 16 and 17, whose
# G is the critic's: `wasserstein_g`.
#   L_D = E max(0, 1 − d(x)) + E max(0, 1 + d(x̃))
def hinge_d(real: Tensor, fake: Tensor) -> Tensor:
    return relu(1 - real.float()).mean() + relu(1 + fake.float()).mean()


# Jolicoeur-Martineau 2018, "The relativistic discriminator" (arXiv:1807.00734), RpGAN with the logistic f;
# Huang et al. 2024 (arXiv:2501.05441), equation 2. Only the order within a pair of one real and one fake image counts:
#   L_D = E softplus(−(d(x) − d(x̃)))
def relativistic_d(real: Tensor, fake: Tensor) -> Tensor:
    return softplus(fake.float() - real.float()).mean()


#   L_G = E softplus(−(d(x̃) − d(x)))
def relativistic_g(fake: Tensor, real: Tensor) -> Tensor:
    return softplus(real.float() - fake.float()).mean()


# Berthelot, Schumm & Metz 2017, "BEGAN: boundary equilibrium generative adversarial networks" (arXiv:1703.10717).
# D is an autoencoder, and d(x) = −L(x) the negative of its error at x:
#   L_D = E L(x) − k E L(x̃)
def began_d(real: Tensor, fake: Tensor, k: Tensor) -> Tensor:
    """``k``: a scalar, `began_k`."""
    return k * fake.float().mean() - real.float().mean()


#   L_G = E L(x̃): `wasserstein_g`.
#   k ← k + λ_k (γ E L(x) − E L(x̃)), kept in 0 … 1
def began_k(k: Tensor, real: Tensor, fake: Tensor, gamma: float, rate: float) -> Tensor:
    """The next k, a scalar that needs no gradient."""
    balance = fake.detach().float().mean() - gamma * real.detach().float().mean()
    return (k + rate * balance).clamp(0, 1)


#   M = E L(x) + |γ E L(x) − E L(x̃)|
def began_convergence(real: Tensor, fake: Tensor, gamma: float) -> Tensor:
    """The global measure of convergence: the smaller, the better."""
    error_real, error_fake = -real.detach().float().mean(), -fake.detach().float().mean()
    return error_real + (gamma * error_real - error_fake).abs()


def sign_accuracy(real: Tensor, fake: Tensor) -> Tensor:
    """Share of images on the right side of 0: d(x) > 0, d(x̃) < 0. A scalar in 0 … 1."""
    return ((real > 0).float().mean() + (fake < 0).float().mean()) / 2


def half_accuracy(real: Tensor, fake: Tensor) -> Tensor:
    """The same with a threshold of ½, where the targets are 1 for real images and 0 for fake ones."""
    return sign_accuracy(real - 0.5, fake - 0.5)


def rank_accuracy(real: Tensor, fake: Tensor) -> Tensor:
    """Share of pairs (i-th real, i-th fake) with d(x) > d(x̃), for critics without a threshold. A scalar in 0 … 1."""
    return (real > fake).float().mean()


def real_signs(loss: Loss, real: Tensor, fake: Tensor) -> Tensor:
    """Mean sign of D on real images, r in Karras et al. 2020 (arXiv:2006.06676), section 3: −1 … 1. A scalar.

    For critics without a threshold, that of a real image's logit above that of the i-th fake one.
    """
    if loss.accuracy is rank_accuracy:
        real = real.float() - fake.float()
    return (real - (0.5 if loss.accuracy is half_accuracy else 0)).sign().float().mean()


@dataclass(frozen=True)
class Loss:
    """The losses of D and G, and how often D is right. Logits are (N,) float, a loss is a scalar.

    Attributes:
        discriminator: (logits of real images, logits of fake images) → loss.
        generator: fake → loss; with ``pairs``, (fake, real) → loss.
        accuracy: (real, fake) → 0 … 1, for the log; `rank_accuracy` for a critic, whose d has no threshold.
        smooths: ``discriminator`` takes one-sided label smoothing as a third argument if it is not 0.
        autoencoder: d is the negative error of an autoencoder, and ``discriminator`` takes BEGAN's k, a scalar tensor.
    """

    discriminator: Callable[..., Tensor]
    generator: Callable[..., Tensor]
    accuracy: Callable[[Tensor, Tensor], Tensor] = sign_accuracy
    pairs: bool = False
    smooths: bool = False
    autoencoder: bool = False


LOSSES = {
    "non-saturating": Loss(cross_entropy_d, non_saturating_g, smooths=True),
    "minimax": Loss(cross_entropy_d, minimax_g, smooths=True),
    "max-likelihood": Loss(cross_entropy_d, max_likelihood_g, smooths=True),
    "wgan": Loss(wasserstein_d, wasserstein_g, rank_accuracy),
    "wgan-gp": Loss(wasserstein_d, wasserstein_g, rank_accuracy),
    "lsgan": Loss(least_squares_d, least_squares_g, half_accuracy),
    "hinge": Loss(hinge_d, wasserstein_g),
    "relativistic": Loss(relativistic_d, relativistic_g, rank_accuracy, pairs=True),
    "began": Loss(began_d, wasserstein_g, rank_accuracy, autoencoder=True),
}


def find_loss(name: str) -> Loss:
    """One of facegan's losses, or a user's own (``MODULE:NAME``)."""
    if name in LOSSES:
        return LOSSES[name]
    if not is_import_path(name):
        raise SettingsError(f"There is no loss '{name}'. Choose {one_of(LOSSES)}.{suggest(name, LOSSES)}")
    loss = load_object("train.loss =", name)
    if not isinstance(loss, Loss):
        raise SettingsError(f"train.loss = {name} is a {type(loss).__name__}. It must be a facegan.training.Loss.")
    return loss


def try_loss(name: str, loss: Loss) -> None:
    """Calls both of its functions on four logits of each kind. Raises SettingsError where one does not work."""
    real = torch.tensor([-0.3, -0.2, -0.8, -0.1], requires_grad=True)
    fake = torch.tensor([-0.4, -0.9, -0.2, -0.5], requires_grad=True)
    k = (torch.tensor(0.3),) if loss.autoencoder else ()
    smoothed = [("discriminator", (real, fake, 0.1))] if loss.smooths else []
    of_g = (fake, real) if loss.pairs else (fake,)
    trials = [("discriminator", (real, fake, *k)), *smoothed, ("generator", of_g)]
    for kind, arguments in trials:
        what = f"train.loss = {name}: its {kind}'s function"
        try:
            result = getattr(loss, kind)(*arguments)
        except Exception as error:  # a user's code may raise anything
            raise SettingsError(
                f"{what} fails on {len(arguments)} arguments: {type(error).__name__}: {error}\n"
                "help(facegan.training.Loss) explains the arguments of both functions."
            ) from error
        if not isinstance(result, Tensor) or result.shape != () or not result.isfinite():
            shown = f"the shape {tuple(result.shape)}" if isinstance(result, Tensor) and result.ndim else result
            raise SettingsError(f"{what} returns {shown}. It must return one finite number, a mean over the batch.")
        if not result.requires_grad or torch.autograd.grad(result, arguments[0], allow_unused=True)[0] is None:
            raise SettingsError(f"{what} does not depend on the logits that it has to learn from.")


# Penalties on the discriminator's gradient with respect to the images. All are means over the batch without their
# weights, scalars in float32 whatever the autocast around them. N batch, C channels, H height, W width; ``critic`` maps
# (N, C, H, W) to (N,), and no image may depend on another (so no batch norm, but see `dragan`).

Critic = Callable[[Tensor], Tensor]

# Inside the root of a norm. The second derivative of √s at s = 0 is infinite: a critic whose gradient vanishes would
# turn every weight into NaN. With ε, the derivative is at most 1/√ε = 10⁶ and multiplies a gradient of 0.
NORM_EPSILON = 1e-12


# Gulrajani et al. 2017, "Improved training of Wasserstein GANs" (arXiv:1704.00028), equation 3, without λ:
#   P = E (‖∇d(x̂)‖₂ − 1)²   with   x̂ = ε x + (1 − ε) x̃,   ε ~ U[0, 1) for each sample
def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, epsilon: Tensor) -> Tensor:
    """``epsilon``: (N, 1, 1, 1) in [0, 1)."""
    return (_norms(critic, epsilon * real.float() + (1 - epsilon) * fake.float()) - 1).square().mean()


# Kodali et al. 2017, "On convergence and stability of GANs" (arXiv:1705.07215), algorithm 1, without λ; the noise is
# that of the authors' code:
#   P = E (‖∇d(x + δ)‖₂ − 1)²   with   δ = ½ std(x) u,   u ~ U[0, 1) for each pixel, std over the whole batch
def dragan(critic: Critic, real: Tensor, noise: Tensor) -> Tensor:
    """``noise``: u, of the shape of ``real``, in [0, 1)."""
    real = real.float()
    return (_norms(critic, real + 0.5 * real.std() * noise) - 1).square().mean()


# Mescheder, Geiger & Nowozin 2018, "Which training methods for GANs do actually converge?" (arXiv:1801.04406),
# equation 9 (R1, at real images) and 10 (R2, at fake ones), without γ/2:
#   P = E ‖∇d(x)‖₂²
def squared_gradient(critic: Critic, images: Tensor) -> Tensor:
    return _squares(critic, images).mean()


def _norms(critic: Critic, images: Tensor) -> Tensor:
    return (_squares(critic, images) + NORM_EPSILON).sqrt()


def _squares(critic: Critic, images: Tensor) -> Tensor:
    """(N,): the squared L2 norm of the critic's gradient at each image, itself differentiable."""
    with torch.autocast(images.device.type, enabled=False):
        here = images.detach().float().requires_grad_(True)
        (gradient,) = torch.autograd.grad(critic(here).sum(), here, create_graph=True)
        return gradient.square().sum(dim=(1, 2, 3))

"""Adversarial losses: closed forms, finite differences, and theorems on distributions over a few points."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from facegan.nets import NetSpec, make_discriminator
from facegan.training import losses
from facegan.training.losses import LOSSES, cross_entropy_d, max_likelihood_g, minimax_g, non_saturating_g

REAL, FAKE = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])


def log_sigmoid(x: float) -> float:
    return math.log(1 / (1 + math.exp(-x)))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (cross_entropy_d(REAL, FAKE), -(log_sigmoid(2) + log_sigmoid(-1) + log_sigmoid(-0.5) + log_sigmoid(3)) / 2),
        (non_saturating_g(FAKE), -(log_sigmoid(0.5) + log_sigmoid(-3)) / 2),
        (minimax_g(FAKE), (log_sigmoid(-0.5) + log_sigmoid(3)) / 2),
        (max_likelihood_g(torch.tensor([0.0, math.log(4.0)])), -(1 + 4) / 4),
        (losses.wasserstein_d(REAL, FAKE), -1.25 - 0.5),
        (losses.wasserstein_g(FAKE), 1.25),
        (losses.least_squares_d(REAL, FAKE), (1 + 4) / 4 + (0.25 + 9) / 4),
        (losses.least_squares_g(FAKE), (0.25 + 16) / 4),
        (losses.hinge_d(REAL, FAKE), (0 + 2) / 2 + (1.5 + 0) / 2),
        (losses.relativistic_d(REAL, FAKE), -(log_sigmoid(1.5) + log_sigmoid(2)) / 2),
        (losses.relativistic_d(REAL + 7, FAKE + 7), -(log_sigmoid(1.5) + log_sigmoid(2)) / 2),
        (losses.relativistic_g(FAKE, REAL), -(log_sigmoid(-1.5) + log_sigmoid(-2)) / 2),
        (losses.sign_accuracy(REAL, FAKE), 0.5),  # 2 and −3 are right, −1 and 0.5 are not
        (losses.half_accuracy(torch.tensor([0.6, 0.4]), torch.tensor([0.3, 0.7])), 0.5),
        (losses.rank_accuracy(REAL, FAKE), 1),
        (losses.rank_accuracy(REAL, FAKE.flip(0)), 0.5),  # 2 > −3, but −1 < 0.5
        (cross_entropy_d(torch.tensor([-1e4]), torch.tensor([1e4])), 2e4),
        (non_saturating_g(torch.tensor([-1e4])), 1e4),
        (minimax_g(torch.tensor([1e4])), -1e4),
    ],
)
def test_losses_in_closed_form(found, expected):
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_label_smoothing_moves_the_target():
    labels = torch.full((2,), 0.9)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    expected = bce(REAL, labels) + bce(FAKE, torch.zeros(2))
    assert cross_entropy_d(REAL, FAKE, 0.1).item() == pytest.approx(expected.item(), rel=1e-6)


def test_max_likelihood_with_large_logits():
    huge = torch.tensor([1e4], dtype=torch.bfloat16, requires_grad=True)
    loss = max_likelihood_g(huge)
    assert loss.item() == pytest.approx(-0.5 * math.exp(losses.LARGEST_LOGIT), rel=1e-6)
    loss.backward()
    assert huge.grad is not None
    assert huge.grad.item() == 0


def test_began_balances_the_errors():
    real, fake = torch.tensor([-0.4, -0.2]), torch.tensor([-0.1, -0.1])  # errors 0.3 and 0.1
    assert losses.began_d(real, fake, torch.tensor(0.5)).item() == pytest.approx(0.3 - 0.05)
    k = torch.tensor(0.5)
    assert losses.began_k(k, real, fake, 0.5, 0.1).item() == pytest.approx(0.5 + 0.1 * (0.15 - 0.1))
    assert losses.began_k(k, real, 100 * fake, 0.5, 0.1).item() == 0
    assert losses.began_k(k, 100 * real, fake, 0.5, 0.1).item() == 1
    assert losses.began_convergence(real, fake, 0.5).item() == pytest.approx(0.3 + 0.05)


def loss_of_d(name: str, real: Tensor, fake: Tensor) -> Tensor:
    more = (torch.tensor(0.3),) if LOSSES[name].autoencoder else ()
    return LOSSES[name].discriminator(real, fake, *more)


def loss_of_g(name: str, fake: Tensor, real: Tensor) -> Tensor:
    return LOSSES[name].generator(fake, *((real,) if LOSSES[name].pairs else ()))


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_finite_differences(name):
    assert loss_of_d(name, REAL.bfloat16(), FAKE.bfloat16()).dtype == torch.float32
    assert loss_of_g(name, FAKE.bfloat16(), REAL.bfloat16()).dtype == torch.float32
    others = torch.tensor([0.1, 0.7, -0.4], dtype=torch.float64)
    logits, step = torch.tensor([0.3, -1.2, 2.0], requires_grad=True), 1e-2 * torch.eye(3)
    for loss in (
        lambda x: loss_of_d(name, x, others),
        lambda x: loss_of_d(name, others, x),
        lambda x: loss_of_g(name, x, others),
    ):
        (gradient,) = torch.autograd.grad(loss(logits), logits)
        differences = [(loss(logits + h) - loss(logits - h)).item() / 2e-2 for h in step]
        assert gradient.tolist() == pytest.approx(differences, abs=2e-4)


# Distributions over four points, as shares of 20, so that a mean over 20 logits is an expectation.
DATA, MODEL = (8, 6, 4, 2), (2, 3, 7, 8)


def shares(counts: tuple[int, ...]) -> Tensor:
    return torch.tensor(counts, dtype=torch.float64) / 20


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum()


def jsd(p: Tensor, q: Tensor) -> Tensor:
    middle = (p + q) / 2
    return (kl(p, middle) + kl(q, middle)) / 2


@pytest.mark.parametrize(
    ("loss", "divergence", "factor"),
    [
        # Arjovsky & Bottou 2017 (arXiv:1701.04862), theorem 2.5.
        (non_saturating_g, lambda p, q: kl(q, p) - 2 * jsd(p, q), 1),
        # Goodfellow 2014: V at D's optimum.
        (minimax_g, lambda p, q: 2 * jsd(p, q), 1),
        # Goodfellow 2016, section 3.2.4; the loss has a factor ½.
        (max_likelihood_g, lambda p, q: kl(p, q), 0.5),
    ],
)
def test_generators_gradient_at_ds_optimum(loss, divergence, factor):
    p = shares(DATA)
    theta = shares(MODEL).log().requires_grad_(True)  # q = softmax θ
    logits = p.log() - theta.softmax(0).detach().log()  # D is fixed while G moves
    each = torch.stack([loss(logit[None]) for logit in logits]).double()
    (gradient,) = torch.autograd.grad((theta.softmax(0) * each).sum(), theta)
    (expected,) = torch.autograd.grad(factor * divergence(p, theta.softmax(0)), theta)
    assert gradient.tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert expected.abs().max() > 0.01


# Penalties on the gradient of a critic.


def linear(weight: Tensor):
    """Its gradient is the weight, everywhere."""
    return lambda images: (images * weight).sum(dim=(1, 2, 3))


def quadratic(images: Tensor) -> Tensor:
    """Its gradient at x is x."""
    return images.square().sum(dim=(1, 2, 3)) / 2


def batch_of(seed: int) -> torch.Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def penalty_of(critic, real: Tensor, fake: Tensor) -> Tensor:
    epsilon = torch.rand(4, 1, 1, 1, generator=torch.Generator().manual_seed(2))
    return losses.gradient_penalty(critic, real, fake, epsilon)


def test_penalty_is_between_real_and_fake():
    real, fake = batch_of(0), batch_of(1)
    epsilon = torch.rand(4, 1, 1, 1, generator=torch.Generator().manual_seed(2))
    norms = (epsilon * real + (1 - epsilon) * fake).flatten(1).norm(dim=1)
    assert penalty_of(quadratic, real, fake).item() == pytest.approx((norms - 1).square().mean().item(), rel=1e-5)


def test_flat_critic_has_finite_derivatives():
    weight = torch.zeros(3, 8, 8, requires_grad=True)
    penalty = penalty_of(linear(weight), batch_of(0), batch_of(1))
    assert penalty.item() == pytest.approx(1, abs=1e-5)
    penalty.backward()
    assert weight.grad is not None
    assert weight.grad.isfinite().all()


def test_penalty_is_float32_under_autocast():
    critic = make_discriminator(NetSpec(size=32, width=4, norm="none"))
    real, fake = torch.rand(4, 3, 32, 32), torch.rand(4, 3, 32, 32)
    seen = []
    critic.register_forward_hook(lambda module, args, output: seen.append((args[0].dtype, output.dtype)))
    expected = penalty_of(critic, real, fake)
    with torch.autocast("cpu", torch.bfloat16):
        assert critic(real).dtype == torch.bfloat16
        penalty = penalty_of(critic, real.bfloat16().float(), fake.bfloat16())
    assert seen[-1] == (torch.float32, torch.float32)
    assert penalty.dtype == torch.float32
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-2)


def test_squared_gradients_in_closed_form():
    images = batch_of(1)
    expected = images.square().sum(dim=(1, 2, 3)).mean().item()
    assert losses.squared_gradient(quadratic, images).item() == pytest.approx(expected, rel=1e-5)


def test_dragan_is_near_real_images():
    real, noise = batch_of(0), torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    norms = (real + 0.5 * real.std() * noise).flatten(1).norm(dim=1)
    assert losses.dragan(quadratic, real, noise).item() == pytest.approx((norms - 1).square().mean().item(), rel=1e-5)
    assert losses.dragan(quadratic, real, torch.zeros_like(noise)).item() == pytest.approx(
        (real.flatten(1).norm(dim=1) - 1).square().mean().item(), rel=1e-5
    )


def test_penalties_are_differentiable():
    """Of s·x with P = (s‖w‖)²: dP/ds = 2 s ‖w‖²."""
    weight, scale = batch_of(0)[0], torch.tensor(3.0, requires_grad=True)
    losses.squared_gradient(linear(scale * weight), batch_of(1)).backward()
    assert scale.grad is not None
    assert scale.grad.item() == pytest.approx(6 * weight.square().sum().item(), rel=1e-5)

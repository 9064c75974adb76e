"""Adversarial losses: closed forms, finite differences, and theorems on distributions over a few points."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from facegan.training.losses import (
    LARGEST_LOGIT,
    LOSSES,
    began_convergence,
    began_d,
    began_k,
    cross_entropy_d,
    half_accuracy,
    hinge_d,
    least_squares_d,
    least_squares_g,
    max_likelihood_g,
    minimax_g,
    non_saturating_g,
    rank_accuracy,
    relativistic_d,
    relativistic_g,
    sign_accuracy,
    wasserstein_d,
    wasserstein_g,
)

REAL, FAKE = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])


def log_sigmoid(x: float) -> float:
    return math.log(1 / (1 + math.exp(-x)))


def test_cross_entropy():
    expected = -(log_sigmoid(2) + log_sigmoid(-1)) / 2 - (log_sigmoid(-0.5) + log_sigmoid(3)) / 2
    assert cross_entropy_d(REAL, FAKE).item() == pytest.approx(expected, rel=1e-6)
    assert non_saturating_g(FAKE).item() == pytest.approx(-(log_sigmoid(0.5) + log_sigmoid(-3)) / 2, rel=1e-6)
    assert minimax_g(FAKE).item() == pytest.approx((log_sigmoid(-0.5) + log_sigmoid(3)) / 2, rel=1e-6)
    zero = torch.zeros(3)
    assert cross_entropy_d(zero, zero).item() == pytest.approx(2 * math.log(2))


def test_label_smoothing_moves_the_target():
    labels = torch.full((2,), 0.9)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    expected = bce(REAL, labels) + bce(FAKE, torch.zeros(2))
    assert cross_entropy_d(REAL, FAKE, 0.1).item() == pytest.approx(expected.item(), rel=1e-6)


def test_cross_entropy_with_large_logits():
    huge = torch.tensor([1e4])
    assert cross_entropy_d(-huge, huge).item() == 2e4
    assert non_saturating_g(-huge).item() == 1e4
    assert minimax_g(huge).item() == -1e4


def test_max_likelihood_with_large_logits():
    assert max_likelihood_g(torch.zeros(3)).item() == -0.5  # σ(0) = ½ has the odds 1
    assert max_likelihood_g(torch.tensor([math.log(4.0)])).item() == pytest.approx(-2)
    huge = torch.tensor([1e4], dtype=torch.bfloat16, requires_grad=True)
    loss = max_likelihood_g(huge)
    assert loss.item() == pytest.approx(-0.5 * math.exp(LARGEST_LOGIT), rel=1e-6)
    loss.backward()
    assert huge.grad is not None
    assert huge.grad.item() == 0


def test_wasserstein():
    assert wasserstein_d(REAL, FAKE).item() == pytest.approx(-1.25 - 0.5)
    assert wasserstein_g(FAKE).item() == pytest.approx(1.25)


def test_least_squares():
    assert least_squares_d(REAL, FAKE).item() == pytest.approx((1 + 4) / 4 + (0.25 + 9) / 4)
    assert least_squares_g(FAKE).item() == pytest.approx((0.25 + 16) / 4)


def test_hinge():
    assert hinge_d(REAL, FAKE).item() == pytest.approx((0 + 2) / 2 + (1.5 + 0) / 2)


def test_relativistic_sees_only_differences():
    expected = -(log_sigmoid(1.5) + log_sigmoid(2)) / 2
    assert relativistic_d(REAL, FAKE).item() == pytest.approx(expected, rel=1e-6)
    assert relativistic_d(REAL + 7, FAKE + 7).item() == pytest.approx(expected, rel=1e-5)
    assert relativistic_g(FAKE, REAL).item() == pytest.approx(-(log_sigmoid(-1.5) + log_sigmoid(-2)) / 2, rel=1e-6)


def test_began_balances_the_errors():
    real, fake = torch.tensor([-0.4, -0.2]), torch.tensor([-0.1, -0.1])  # errors 0.3 and 0.1
    assert began_d(real, fake, torch.tensor(0.5)).item() == pytest.approx(0.3 - 0.05)
    k = torch.tensor(0.5)
    assert began_k(k, real, fake, 0.5, 0.1).item() == pytest.approx(0.5 + 0.1 * (0.15 - 0.1))
    assert began_k(k, real, 100 * fake, 0.5, 0.1).item() == 0
    assert began_k(k, 100 * real, fake, 0.5, 0.1).item() == 1
    assert began_convergence(real, fake, 0.5).item() == pytest.approx(0.3 + 0.05)


def test_accuracies_of_signs_and_ranks():
    assert sign_accuracy(REAL, FAKE).item() == 0.5  # 2 and −3 are right, −1 and 0.5 are not
    assert half_accuracy(torch.tensor([0.6, 0.4]), torch.tensor([0.3, 0.7])).item() == 0.5
    assert rank_accuracy(REAL, FAKE).item() == 1
    assert rank_accuracy(REAL, FAKE.flip(0)).item() == 0.5  # 2 > −3, but −1 < 0.5


def loss_of_d(name: str, real: Tensor, fake: Tensor) -> Tensor:
    more = (torch.tensor(0.3),) if LOSSES[name].autoencoder else ()
    return LOSSES[name].discriminator(real, fake, *more)


def loss_of_g(name: str, fake: Tensor, real: Tensor) -> Tensor:
    return LOSSES[name].generator(fake, *((real,) if LOSSES[name].pairs else ()))


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_float32_for_bf16_logits(name):
    real, fake = REAL.bfloat16(), FAKE.bfloat16()
    assert loss_of_d(name, real, fake).dtype == torch.float32
    assert loss_of_g(name, fake, real).dtype == torch.float32


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_finite_differences(name):
    others = torch.tensor([0.1, 0.7, -0.4], dtype=torch.float64)
    for loss in (
        lambda x: loss_of_d(name, x, others),
        lambda x: loss_of_d(name, others, x),
        lambda x: loss_of_g(name, x, others),
    ):
        agrees(loss)


def agrees(loss: Callable[[Tensor], Tensor]) -> None:
    logits = torch.tensor([0.3, -1.2, 2.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(logits), logits)
    step = 1e-2 * torch.eye(3)
    differences = [(loss(logits + h) - loss(logits - h)).item() / 2e-2 for h in step]
    assert gradient.tolist() == pytest.approx(differences, abs=2e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_point_the_right_way(name):
    real, fake = REAL.clone().requires_grad_(True), FAKE.clone().requires_grad_(True)
    loss_of_d(name, real, fake).backward()
    assert real.grad is not None
    assert fake.grad is not None
    assert real.grad[1] < 0  # −1 is below 1 and 0, what least squares and the hinge ask for
    assert fake.grad[0] > 0
    fake = FAKE.clone().requires_grad_(True)
    loss_of_g(name, fake, REAL).backward()
    assert fake.grad is not None
    assert (fake.grad < 0).all()


# Distributions over four points, as shares of 20, so that a mean over 20 logits is an expectation.
DATA, MODEL = (8, 6, 4, 2), (2, 3, 7, 8)


def shares(counts: tuple[int, ...]) -> Tensor:
    return torch.tensor(counts, dtype=torch.float64) / 20


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum()


def jsd(p: Tensor, q: Tensor) -> Tensor:
    middle = (p + q) / 2
    return (kl(p, middle) + kl(q, middle)) / 2


@pytest.mark.parametrize(("data", "model"), [(DATA, MODEL), (MODEL, DATA), (DATA, DATA)])
def test_value_at_ds_optimum(data, model):
    """Goodfellow et al. 2014, theorem 1. D's optimum is p / (p + q): the logit log p − log q."""
    p, q = shares(data), shares(model)
    logits = p.log() - q.log()
    real, fake = (torch.repeat_interleave(logits, torch.tensor(counts)) for counts in (data, model))
    value = -cross_entropy_d(real, fake).item()
    assert value == pytest.approx((2 * jsd(p, q)).item() - math.log(4), rel=1e-5)
    assert (value == pytest.approx(-math.log(4), abs=1e-6)) == (data == model)
    for other in (logits + 0.1, logits - 0.1, 0.9 * logits + 0.01):  # which D can't surpass
        real, fake = (torch.repeat_interleave(other, torch.tensor(counts)) for counts in (data, model))
        assert -cross_entropy_d(real, fake).item() <= value + 1e-7


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

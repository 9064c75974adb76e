import math

import pytest
import torch

from facegan.nets import NetSpec, make_discriminator
from facegan.train.rounds.losses import (
    gradient_penalty,
    non_saturating_d,
    non_saturating_g,
    rank_accuracy,
    sign_accuracy,
    wasserstein_d,
    wasserstein_g,
)

REAL, FAKE = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])


def log_sigmoid(x: float) -> float:
    return math.log(1 / (1 + math.exp(-x)))


def test_non_saturating_is_binary_cross_entropy():
    expected = -(log_sigmoid(2) + log_sigmoid(-1)) / 2 - (log_sigmoid(-0.5) + log_sigmoid(3)) / 2
    assert non_saturating_d(REAL, FAKE).item() == pytest.approx(expected, rel=1e-6)
    assert non_saturating_g(FAKE).item() == pytest.approx(-(log_sigmoid(0.5) + log_sigmoid(-3)) / 2, rel=1e-6)
    zero = torch.zeros(3)
    assert non_saturating_d(zero, zero).item() == pytest.approx(2 * math.log(2))


def test_non_saturating_stands_large_logits():
    huge = torch.tensor([1e4])
    assert non_saturating_d(-huge, huge).item() == 2e4
    assert non_saturating_g(-huge).item() == 1e4


def test_wasserstein():
    assert wasserstein_d(REAL, FAKE).item() == pytest.approx(-1.25 - 0.5)
    assert wasserstein_g(FAKE).item() == pytest.approx(1.25)


def test_accuracy_counts_images_on_their_side_or_pairs_in_their_order():
    assert sign_accuracy(REAL, FAKE).item() == 0.5  # 2 and −3 are right, −1 and 0.5 are not
    assert rank_accuracy(REAL, FAKE).item() == 1
    assert rank_accuracy(REAL, FAKE.flip(0)).item() == 0.5  # 2 > −3, but −1 < 0.5


def test_losses_are_float32_for_bf16_logits():
    for loss in (non_saturating_d(REAL.bfloat16(), FAKE.bfloat16()), wasserstein_g(FAKE.bfloat16())):
        assert loss.dtype == torch.float32


@pytest.mark.parametrize(
    "loss", [non_saturating_g, lambda x: non_saturating_d(x, -x), lambda x: wasserstein_d(x, 2 * x)]
)
def test_gradients_agree_with_finite_differences(loss):
    logits = torch.tensor([0.3, -1.2, 2.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(logits), logits)
    step = 1e-2 * torch.eye(3)
    differences = [(loss(logits + h) - loss(logits - h)).item() / 2e-2 for h in step]
    assert gradient.tolist() == pytest.approx(differences, abs=1e-4)


def batch(seed: int) -> torch.Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def penalty_of(critic, **given) -> torch.Tensor:
    epsilon = torch.rand(4, 1, 1, 1, generator=torch.Generator().manual_seed(2))
    return gradient_penalty(critic, given.get("real", batch(0)), given.get("fake", batch(1)), epsilon)


def test_penalty_of_a_linear_critic_is_its_norm_less_one_squared():
    weight = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(3))
    penalty = penalty_of(lambda x: (x * weight).sum(dim=(1, 2, 3)))
    assert penalty.item() == pytest.approx((weight.norm().item() - 1) ** 2, rel=1e-5)


def test_penalty_of_a_quadratic_critic_is_taken_between_real_and_fake():
    real, fake = batch(0), batch(1)
    epsilon = torch.rand(4, 1, 1, 1, generator=torch.Generator().manual_seed(2))
    norms = (epsilon * real + (1 - epsilon) * fake).flatten(1).norm(dim=1)  # ∇ ½‖x‖² = x
    penalty = penalty_of(lambda x: x.square().sum(dim=(1, 2, 3)) / 2)
    assert penalty.item() == pytest.approx((norms - 1).square().mean().item(), rel=1e-5)


def test_a_critic_without_slope_has_a_finite_second_derivative():
    weight = torch.zeros(3, 8, 8, requires_grad=True)
    penalty = penalty_of(lambda x: (x * weight).sum(dim=(1, 2, 3)))
    assert penalty.item() == pytest.approx(1, abs=1e-5)
    penalty.backward()
    assert weight.grad is not None
    assert weight.grad.isfinite().all()


def test_penalty_is_float32_under_autocast():
    critic = make_discriminator(NetSpec(size=32, width=4, norm="none"))
    real, fake = torch.rand(4, 3, 32, 32), torch.rand(4, 3, 32, 32)
    seen = []
    critic.register_forward_hook(lambda module, args, output: seen.append((args[0].dtype, output.dtype)))
    expected = penalty_of(critic, real=real, fake=fake)
    with torch.autocast("cpu", torch.bfloat16):
        assert critic(real).dtype == torch.bfloat16
        penalty = penalty_of(critic, real=real.bfloat16().float(), fake=fake.bfloat16())
    assert seen[-1] == (torch.float32, torch.float32)
    assert penalty.dtype == torch.float32
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-2)


def test_penalty_differentiates_through_in_place_activations():
    """A net of LeakyReLUs without biases is homogeneous in each weight w: scaling w by s scales every gradient norm n
    by s, so ⟨∂P/∂w, w⟩ = d/ds E (s n − 1)² = E 2n(n − 1)."""
    critic = make_discriminator(NetSpec(size=32, width=4, norm="none"))
    with torch.no_grad():
        for weight in critic.parameters():
            weight.mul_(8)
    real, fake, epsilon = torch.rand(4, 3, 32, 32), torch.rand(4, 3, 32, 32), torch.full((4, 1, 1, 1), 0.5)
    middle = ((real + fake) / 2).requires_grad_(True)
    norms = torch.autograd.grad(critic(middle).sum(), middle)[0].flatten(1).norm(dim=1)
    gradient_penalty(critic, real, fake, epsilon).backward()
    weight = next(critic.parameters())
    assert weight.grad is not None
    expected = (2 * norms * (norms - 1)).mean().item()
    assert (weight.grad * weight).sum().item() == pytest.approx(expected, rel=1e-3)
    assert abs(expected) > 0.01

"""Penalties on a discriminator's gradient, against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from facegan.nets import NetSpec, make_discriminator
from facegan.training.losses import dragan, gradient_penalty, squared_gradient


def linear(weight: Tensor):
    """Its gradient is the weight, everywhere."""
    return lambda images: (images * weight).sum(dim=(1, 2, 3))


def quadratic(images: Tensor) -> Tensor:
    """Its gradient at x is x."""
    return images.square().sum(dim=(1, 2, 3)) / 2


def batch(seed: int) -> torch.Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def penalty_of(critic, **given) -> torch.Tensor:
    epsilon = torch.rand(4, 1, 1, 1, generator=torch.Generator().manual_seed(2))
    return gradient_penalty(critic, given.get("real", batch(0)), given.get("fake", batch(1)), epsilon)


def test_penalty_of_a_linear_critic():
    weight = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(3))
    penalty = penalty_of(lambda x: (x * weight).sum(dim=(1, 2, 3)))
    assert penalty.item() == pytest.approx((weight.norm().item() - 1) ** 2, rel=1e-5)


def test_penalty_is_between_real_and_fake():
    real, fake = batch(0), batch(1)
    epsilon = torch.rand(4, 1, 1, 1, generator=torch.Generator().manual_seed(2))
    norms = (epsilon * real + (1 - epsilon) * fake).flatten(1).norm(dim=1)  # ∇ ½‖x‖² = x
    penalty = penalty_of(lambda x: x.square().sum(dim=(1, 2, 3)) / 2)
    assert penalty.item() == pytest.approx((norms - 1).square().mean().item(), rel=1e-5)


def test_flat_critic_has_finite_derivatives():
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


def test_penalty_through_in_place_activations():
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


def test_squared_gradients_in_closed_form():
    weight = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(3))
    assert squared_gradient(linear(weight), batch(0)).item() == pytest.approx(weight.square().sum().item(), rel=1e-5)
    images = batch(1)
    expected = images.square().sum(dim=(1, 2, 3)).mean().item()
    assert squared_gradient(quadratic, images).item() == pytest.approx(expected, rel=1e-5)


def test_dragan_is_near_real_images():
    real, noise = batch(0), torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    norms = (real + 0.5 * real.std() * noise).flatten(1).norm(dim=1)
    assert dragan(quadratic, real, noise).item() == pytest.approx((norms - 1).square().mean().item(), rel=1e-5)
    assert dragan(quadratic, real, torch.zeros_like(noise)).item() == pytest.approx(
        (real.flatten(1).norm(dim=1) - 1).square().mean().item(), rel=1e-5
    )


def test_penalties_are_differentiable():
    """Of s·x with P = (s‖w‖)²: dP/ds = 2 s ‖w‖²."""
    weight, scale = batch(0)[0], torch.tensor(3.0, requires_grad=True)
    squared_gradient(linear(scale * weight), batch(1)).backward()
    assert scale.grad is not None
    assert scale.grad.item() == pytest.approx(6 * weight.square().sum().item(), rel=1e-5)

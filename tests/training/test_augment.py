"""DiffAugment beside a second implementation, image by image in NumPy, after the authors' code."""

import numpy as np
import pytest
import torch

from facegan.training.augment import COLUMNS, augment, flip


def by_hand(image: np.ndarray, kinds: tuple[str, ...], u: np.ndarray) -> np.ndarray:
    """One image, (C, H, W)."""
    x = image.astype(np.float64)
    height, width = x.shape[1:]
    if "color" in kinds:
        x = x + (u[0] - 0.5)
        grey = x.mean(axis=0)
        x = (x - grey) * (u[1] * 2) + grey
        x = (x - x.mean()) * (u[2] + 0.5) + x.mean()
    if "translation" in kinds:
        most_down, most_right = int(height * 0.125 + 0.5), int(width * 0.125 + 0.5)
        down, right = int(u[3] * (2 * most_down + 1)) - most_down, int(u[4] * (2 * most_right + 1)) - most_right
        moved = np.zeros_like(x)
        for row in range(height):
            for column in range(width):
                if 0 <= row - down < height and 0 <= column - right < width:
                    moved[:, row, column] = x[:, row - down, column - right]
        x = moved
    if "cutout" in kinds:
        high, wide = int(height * 0.5 + 0.5), int(width * 0.5 + 0.5)
        top, left = int(u[5] * (height + 1 - high % 2)) - high // 2, int(u[6] * (width + 1 - wide % 2)) - wide // 2
        x = x.copy()
        for row in range(top, top + high):
            for column in range(left, left + wide):
                x[:, np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)] = 0
    return x


KINDS = [("color",), ("translation",), ("cutout",), ("color", "translation", "cutout")]


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize(("side", "channels"), [(9, 3), (16, 1)])
def test_augment_equals_numpy(kinds, side, channels):
    rng = np.random.default_rng(side)
    images = rng.uniform(-1, 1, (12, channels, side, side)).astype(np.float32)
    u = rng.uniform(0, 1, (12, COLUMNS)).astype(np.float32)
    u[0], u[1] = 0, np.float32(1 - 2**-24)
    found = augment(torch.from_numpy(images), kinds, torch.from_numpy(u))
    expected = np.stack([by_hand(image, kinds, row) for image, row in zip(images, u, strict=True)])
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("kinds", KINDS)
def test_gradients_pass_twice(kinds):
    images = torch.rand(2, 3, 8, 8, dtype=torch.float32, requires_grad=True)
    u = torch.rand(2, COLUMNS)
    (gradient,) = torch.autograd.grad(augment(images, kinds, u).square().sum(), images, create_graph=True)
    step = torch.randn_like(images) * 1e-2
    with torch.no_grad():
        ahead, behind = (augment(images + sign * step, kinds, u).square().sum() for sign in (1, -1))
    assert (gradient * step).sum().item() == pytest.approx((ahead - behind).item() / 2, rel=2e-2, abs=1e-3)
    gradient.square().sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()


def test_flip_mirrors_below_a_half():
    images = torch.arange(2 * 3 * 4).float().reshape(2, 1, 3, 4)
    flipped = flip(images, torch.tensor([[0.49], [0.5]]))
    assert torch.equal(flipped[0], images[0].flip(2))
    assert torch.equal(flipped[1], images[1])

"""DiffAugment beside a second implementation, image by image in NumPy, after the authors' code."""

import numpy as np
import pytest
import torch

from facegan.training import augment as module
from facegan.training.augment import ADA_NORMAL, ADA_UNIFORM, CHANGES, COLUMNS, adapt, adapted, augment, flip, sample


@pytest.fixture(autouse=True, params=["as on a CPU", "as on a GPU"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_cheap_to_read", lambda numbers: request.param == "as on a CPU")


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


def draws_of(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.rand(count, ADA_UNIFORM, generator=rng), torch.randn(count, ADA_NORMAL, generator=rng)


IMAGE = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def changed(change: str, image: torch.Tensor = IMAGE, **values: float) -> torch.Tensor:
    """One change alone; ``values``: random numbers, of columns counted from the first after those of `CHANGES`."""
    uniform, normal = torch.ones(1, ADA_UNIFORM), torch.zeros(1, ADA_NORMAL)
    uniform[0, CHANGES.index(change)] = 0
    for name, value in values.items():
        kind, first = (uniform, len(CHANGES)) if name[0] == "u" else (normal, 0)
        kind[0, first + int(name[1:])] = value
    return adapt(image, torch.tensor(0.5), uniform, normal)


def test_ada_changes_of_places() -> None:
    close = {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(changed("flip", u0=0.1), IMAGE.flip(3), **close)
    torch.testing.assert_close(changed("flip", u0=0.6), IMAGE, **close)
    for quarters in range(4):
        turned = changed("quarter", u1=quarters / 4 + 0.1)
        assert min((turned - IMAGE.rot90(k, (2, 3))).abs().max() for k in (quarters, -quarters)) < 1e-5
    # An eighth of 16 pixels to the right and down; the places it leaves are mirrored.
    moved = changed("whole", u2=0.9999, u3=0.9999)
    torch.testing.assert_close(moved[:, :, 2:, 2:], IMAGE[:, :, :-2, :-2], **close)
    torch.testing.assert_close(moved[:, :, :2, 2:], IMAGE[:, :, :2, :-2].flip(2), **close)
    torch.testing.assert_close(changed("shift", n2=0.5)[..., 1:], IMAGE[..., :-1], **close)  # ½ · ⅛ of 16 pixels
    for half_turn in ("before", "after"):
        turned = changed(half_turn, u4=0.9999999, u5=0.9999999)
        torch.testing.assert_close(turned, IMAGE.flip(2, 3), atol=1e-4, rtol=0)
    ramp = torch.linspace(-1, 1, 16).expand(1, 3, 16, 16)  # whose slope a scale divides
    slope = (ramp[..., 1:] - ramp[..., :-1])[0, 0, 0, 0]
    for octaves, factor in ((1.0, 0.5), (-0.5, 2**0.5)):
        middle = changed("scale", ramp, n0=octaves / 0.2)[0, 0, 8, 6:10]
        torch.testing.assert_close(middle[1:] - middle[:-1], (slope * factor).expand(3), **close)
    stretched = changed("stretch", ramp, n1=5.0)[0, 0]  # twice as wide, half as high
    torch.testing.assert_close(stretched[8, 7:9].diff(), (slope / 2).expand(1), **close)


def test_ada_changes_of_colours() -> None:
    close = {"atol": 1e-5, "rtol": 0}
    grey = IMAGE.mean(1, keepdim=True)
    torch.testing.assert_close(changed("brightness", n4=2.0), IMAGE + 0.4, **close)
    torch.testing.assert_close(changed("contrast", n5=2.0), IMAGE * 2, **close)
    torch.testing.assert_close(changed("luma", u6=0.1), IMAGE - 2 * grey, **close)
    torch.testing.assert_close(changed("saturation", n6=1.0), grey + (IMAGE - grey) * 2, **close)
    third = changed("hue", u7=0.5 + 1 / 3)  # a third of a turn: each channel becomes the next one
    assert min((third - IMAGE.roll(k, 1)).abs().max() for k in (1, 2)) < 1e-5
    one = IMAGE[:, :1]
    torch.testing.assert_close(changed("contrast", one, n5=2.0), one * 2, **close)
    torch.testing.assert_close(changed("luma", one, u6=0.1), -one, **close)


def test_ada_makes_each_change_with_its_probability() -> None:
    images = IMAGE.expand(2000, -1, -1, -1)
    assert torch.equal(adapt(images, torch.tensor(0.0), *draws_of(2000)), images)
    rng = torch.Generator().manual_seed(0)
    for number, change in enumerate(CHANGES):
        uniform = torch.ones(2000, ADA_UNIFORM)
        uniform[:, number] = torch.rand(2000, generator=rng)
        uniform[:, len(CHANGES) :] = torch.tensor([0.1, 0.3, *[0.1] * 6])
        found = adapt(images, torch.tensor(0.3), uniform, torch.ones(2000, ADA_NORMAL))
        share = 1 - (found == images).flatten(1).all(1).float().mean().item()
        # One or both of the rotations with probability p.
        assert share == pytest.approx(1 - 0.7**0.5 if change in ("before", "after") else 0.3, abs=0.04), change
    everything = adapt(images, torch.tensor(1.0), *draws_of(2000))
    assert not (everything == images).flatten(1).all(1).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_ada_changes_each_image_by_itself(channels: int) -> None:
    images, p, (uniform, normal) = torch.rand(32, channels, 16, 16), torch.tensor(0.1), draws_of(32)
    found = adapt(images, p, uniform, normal)
    same = (found == images).flatten(1).all(1)
    assert 0 < same.sum() < 32
    for row in range(32):
        alone = adapt(images[row, None], p, uniform[row, None], normal[row, None])
        torch.testing.assert_close(found[row, None], alone)


@pytest.mark.parametrize("channels", [1, 3])
def test_ada_passes_gradients(channels: int) -> None:
    images, one = torch.rand(8, channels, 16, 16, requires_grad=True), torch.tensor(1.0)
    draws, weights = draws_of(8), torch.rand(8, channels, 16, 16)
    (gradient,) = torch.autograd.grad((adapt(images, one, *draws) * weights).sum(), images)
    step = torch.randn_like(images)
    with torch.no_grad():  # it is linear in the pixels
        change = ((adapt(images + step, one, *draws) - adapt(images, one, *draws)) * weights).sum().item()
    assert (gradient * step).sum().item() == pytest.approx(change, rel=1e-3, abs=1e-3)


def test_deterministic_sampling_is_the_same() -> None:
    images, grid = torch.rand(4, 3, 16, 16, requires_grad=True), torch.rand(4, 16, 16, 2) * 8 - 4  # far outside, too
    found = [sample(images, grid, deterministic=each) for each in (False, True)]
    torch.testing.assert_close(*found, atol=1e-4, rtol=0)
    gradients = [torch.autograd.grad(each.square().sum(), images)[0] for each in found]
    torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-3)


def test_p_follows_the_sign_of_the_excess() -> None:
    p, excess, seen = torch.tensor(0.0), torch.tensor(0.0), []
    for number, sign in enumerate([1, 1, 1, 1, 0.5, 0.5, 0.5, 1, 0, 0, 0, 0, -1, -1, -1, -1, 1, 1, 1, 1]):
        p, excess = adapted(p, excess + (sign - 0.6), torch.tensor((number + 1) % 4 == 0), 0.25)
        seen.append(round(p.item(), 3))
    assert seen == [0, 0, 0, 0.25, 0.25, 0.25, 0.25, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0, 0, 0, 0, 0.25]
    assert excess.item() == 0

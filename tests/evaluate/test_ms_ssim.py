"""MS-SSIM against a second implementation by scipy's filters, and as a measure of diversity."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from facegan.evaluate.ms_ssim import SIGMA, WEIGHTS, ms_ssim, ms_ssim_pairs, scales
from tests.evaluate.drawn import textures


def by_scipy(a: Tensor, b: Tensor, count: int) -> list[float]:
    """The paper's equations, a channel at a time, in float64."""

    def window(image: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(image, SIGMA, truncate=5 / SIGMA)[5:-5, 5:-5]

    found = []
    for first, second in zip(a.double().numpy(), b.double().numpy(), strict=True):
        channels = []
        for x, y in zip(first, second, strict=True):
            value = 1.0
            for scale in range(count):
                mx, my = window(x), window(y)
                vx, vy, vxy = window(x * x) - mx**2, window(y * y) - my**2, window(x * y) - mx * my
                term = (2 * vxy + 7.65**2) / (vx + vy + 7.65**2)
                if scale == count - 1:
                    term = term * (2 * mx * my + 2.55**2) / (mx**2 + my**2 + 2.55**2)
                value *= max(0.0, term.mean()) ** (WEIGHTS[scale] / sum(WEIGHTS[:count]))
                x, y = (each.reshape(len(each) // 2, 2, -1, 2).mean((1, 3)) for each in (x, y))
            channels.append(value)
        found.append(float(np.mean(channels)))
    return found


@pytest.mark.parametrize(("size", "channels", "count"), [(64, 3, 3), (28, 1, 2), (32, 3, 2), (128, 1, 4)])
def test_values_equal_the_papers_equations(size: int, channels: int, count: int) -> None:
    a = textures(4, size, channels)
    b = (a.float() * 0.8 + 0.2 * textures(4, size, channels, seed=1)).round().to(torch.uint8)
    assert scales(size) == count
    assert ms_ssim(a, b).tolist() == pytest.approx(by_scipy(a, b, count), abs=1e-4)


def test_similarity_falls_from_1() -> None:
    a, other = textures(6, 64), textures(6, 64, seed=1)
    mixed = [(a.float() * (1 - part) + other * part).round().to(torch.uint8) for part in (0, 0.2, 0.5, 1)]
    found = [float(ms_ssim(a, images).mean()) for images in mixed]
    assert found[0] == pytest.approx(1, abs=1e-5)
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.2

    assert ms_ssim(a[:2], 255 - a[:2]).tolist() == [0, 0]


def test_mean_over_random_pairs() -> None:
    images = textures(4)
    every = [(i, j) for i in range(4) for j in range(4) if i != j]
    known = ms_ssim(images[[i for i, _ in every]], images[[j for _, j in every]]).mean()
    assert ms_ssim_pairs(images, 4000, 0) == pytest.approx(float(known), abs=0.005)
    assert ms_ssim_pairs(images, 30, 1) == ms_ssim_pairs(images, 30, 1) != ms_ssim_pairs(images, 30, 2)
    assert ms_ssim_pairs(images[:1].expand(9, -1, -1, -1), 20, 0) == pytest.approx(1, abs=1e-5)

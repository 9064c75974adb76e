"""The random net: known features, a second implementation, and what the features respond to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from facegan.evaluate.random_net import FEATURES, RANDOM_NET, _weights, random_features
from tests.evaluate.drawn import textures

KNOWN = [4.2511, -2.1365, -2.0019, -1.0478, 6.3193, -3.7399, -1.5904, -1.6692, 8.8477, -3.2136, -1.9318, 0.6166]
KNOWN_SUMS = [99.72, 151.48, 206.62]


def waves(size: int = 64) -> Tensor:
    """Images by a formula: uint8 (3, 3, size, size)."""
    x, y = np.mgrid[0:size, 0:size] / size
    planes = [
        [np.sin((3 + image) * x + (5 + 4 * channel) * y * (image + 1)) for channel in range(3)] for image in range(3)
    ]
    return torch.from_numpy((127.5 + 100 * np.array(planes)).round().astype(np.uint8))


def by_loops(images: Tensor) -> np.ndarray:
    """The docstring's lines in float64 numpy, place by place."""
    *convolutions, projection = (weight.double().numpy() for weight in _weights())
    rows = []
    for image in images.double().numpy() / 127.5 - 1:
        maps = image if len(image) == 3 else np.concatenate([image] * 3)
        numbers = [maps.mean((1, 2)), maps.std((1, 2))]
        for weight in convolutions:
            padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)))
            side = (maps.shape[1] + 1) // 2
            maps = np.zeros((len(weight), side, side))
            for i in range(side):
                for j in range(side):
                    patch = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
                    maps[:, i, j] = np.maximum(0, np.einsum("ocyx,cyx->o", weight, patch))
            numbers += [maps.mean((1, 2)), maps.std((1, 2))]
        rows.append(projection @ np.concatenate(numbers))
    return np.array(rows)


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3), (64, 3)])
def test_features_equal_loops(size: int, channels: int) -> None:
    images = textures(2, size, channels)
    found = random_features(images)
    assert found.shape == (2, FEATURES)
    assert found.dtype == np.float32
    assert np.allclose(found, by_loops(images), atol=3e-4)


def test_features_of_this_name_are_fixed() -> None:
    """If these change, the name must change: values do not compare across nets."""
    assert RANDOM_NET == "facegan-random-1"
    found = random_features(waves())
    assert found[:, :4].ravel() == pytest.approx(KNOWN, abs=5e-4)
    assert np.abs(found).sum(1) == pytest.approx(KNOWN_SUMS, rel=1e-4)


def test_rows_are_independent_and_grey_is_rgb() -> None:
    images = textures(9)
    assert np.allclose(random_features(images, batch=4), random_features(images), atol=3e-5)
    assert np.allclose(random_features(images[5:6]), random_features(images)[5:6], atol=3e-5)
    grey = textures(3, channels=1)
    assert np.allclose(random_features(grey), random_features(grey.repeat(1, 3, 1, 1)), atol=3e-5)

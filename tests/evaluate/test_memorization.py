"""Copies and nearest training faces, on drawn portraits; tests/prep/test_celeba.py has photographs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from facegan.evaluate.memorization import Gallery, copy_rate, neighbours_picture
from facegan.evaluate.random_net import random_features
from tests.evaluate.drawn import blurred, compressed, drawn_faces, learnt, noisy, uniform_noise, untrained


@pytest.fixture(scope="module")
def training() -> Tensor:
    return drawn_faces(100)


@pytest.fixture(scope="module")
def unseen() -> Tensor:
    return drawn_faces(20, first=100)


def test_training_faces_are_copies_others_not(training: Tensor, unseen: Tensor) -> None:
    assert copy_rate(training, [training]) == 1
    assert copy_rate(unseen, [training]) <= 0.05
    mixed = torch.cat([unseen, training[:20]])
    assert copy_rate(mixed, [training]) == copy_rate(mixed, training.split(7)) == pytest.approx(0.5, abs=0.03)


def test_altered_copies_are_found(training: Tensor) -> None:
    for copies in (
        compressed(training, 95),
        training.flip(-1),
        training.roll(1, 3),
        noisy(training, 4),
        blurred(training, 0.8),
        ((training.float() / 127.5 - 1).half() * 127.5 + 127.5).round().to(torch.uint8),
    ):
        assert copy_rate(copies, [training]) >= 0.95


def test_bad_samples_are_not_copies(training: Tensor) -> None:
    for samples in (uniform_noise(40), untrained(40), training[:1].float().mean().to(torch.uint8).expand(9, 3, 64, 64)):
        assert copy_rate(samples, [training]) == 0
    assert copy_rate(learnt(training, 40), [training]) <= 0.05


def test_other_sizes_and_one_channel() -> None:
    small = drawn_faces(60, 28).float().mean(1, keepdim=True).round().to(torch.uint8)
    assert copy_rate(small[:40], [small[:40]]) == 1
    assert copy_rate(small[40:], [small[:40]]) <= 0.05


@pytest.mark.parametrize(("size", "channels", "times"), [(64, 3, 1), (28, 1, 3)])
def test_picture_shows_the_nearest_faces(size: int, channels: int, times: int) -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (25, channels, size, size), dtype=np.uint8))
    samples, faces = images[:5], images[5:]
    picture = neighbours_picture(samples, faces.split(6))
    assert picture.dtype == np.uint8
    nearest = []
    for embed in (lambda each: each.flatten(1).numpy(), random_features):
        ours, theirs = embed(samples).astype(float), embed(faces).astype(float)
        nearest.append(np.linalg.norm(ours[:, None] - theirs[None], axis=2).argsort()[:, :3])
    side = size * times
    for row in range(5):
        column, line = divmod(row, 3)  # three rows in the first column, two in the second
        shown = [samples[row], *faces[nearest[0][row]], *faces[nearest[1][row]]]
        for place, image in enumerate(shown):
            tile = image.expand(3, -1, -1).permute(1, 2, 0).numpy().repeat(times, 0).repeat(times, 1)
            left = column * picture.shape[1] // 2 + 8 * (1 + (place > 0) + (place > 3)) + place * side
            top = 20 + line * side
            assert (picture[top : top + side, left : left + side] == tile).all()
    assert (picture[20 + 2 * side : 20 + 3 * side, picture.shape[1] // 2 + 8 :] == 255).all()
    assert (picture[:20] < 128).any()  # titles


def test_gallery_finds_what_the_evaluation_finds(training: Tensor, unseen: Tensor) -> None:
    gallery = Gallery(training.split(7))
    for samples in (training, unseen, torch.cat([unseen, training[:20]]), noisy(training, 4)):
        assert gallery.compare(samples)["copied"] == copy_rate(samples, [training])
    values = [
        gallery.compare(samples)["nearest"] for samples in (uniform_noise(40), unseen, noisy(training, 8), training)
    ]
    assert values == sorted(values)
    assert 4 * values[1] < values[2] < values[3] == 1


def test_training_faces_among_each_other(training: Tensor) -> None:
    others = Gallery([training[1:]]).compare(training[:1])
    assert Gallery([training]).compare(training[:1], own=True) == pytest.approx(others)
    twice = Gallery([training[:40], training]).compare(training[:40], own=True)
    assert twice == {"copied": 1, "nearest": 1}

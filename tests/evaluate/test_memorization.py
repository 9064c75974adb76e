"""Copies and nearest training faces, on drawn portraits and, where available, on photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from facegan.errors import SettingsError
from facegan.evaluate import Neighbours, copy_rate, neighbours, neighbours_picture, random_features
from tests.evaluate.drawn import blurred, compressed, drawn_faces, learnt, noisy, uniform_noise, untrained


@pytest.fixture(scope="module")
def drawn() -> Tensor:
    return drawn_faces(240)


@pytest.fixture(scope="module")
def training(drawn: Tensor) -> Tensor:
    return drawn[:200]


@pytest.fixture(scope="module")
def unseen(drawn: Tensor) -> Tensor:
    return drawn[200:]


def test_training_faces_are_copies_others_not(training: Tensor, unseen: Tensor) -> None:
    assert copy_rate(training, training) == 1
    assert copy_rate(unseen, training) <= 0.05
    assert copy_rate(torch.cat([unseen, training[:40]]), training) == pytest.approx(0.5, abs=0.03)


def test_altered_copies_are_found(training: Tensor) -> None:
    for copies in (
        compressed(training, 95),
        training.flip(-1),
        training.roll(1, 3),
        noisy(training, 4),
        blurred(training, 0.8),
        ((training.float() / 127.5 - 1).half() * 127.5 + 127.5).round().to(torch.uint8),
    ):
        assert copy_rate(copies, training) >= 0.95


def test_bad_samples_are_not_copies(training: Tensor) -> None:
    for samples in (uniform_noise(40), untrained(40), training[:1].float().mean().to(torch.uint8).expand(9, 3, 64, 64)):
        assert copy_rate(samples, training) == 0
    assert copy_rate(learnt(training, 40), training) <= 0.05


def test_other_sizes_and_one_channel() -> None:
    small = drawn_faces(60, 28).float().mean(1, keepdim=True).round().to(torch.uint8)
    assert copy_rate(small[:40], small[:40]) == 1
    assert copy_rate(small[40:], small[:40]) <= 0.05


def test_block_size_changes_nothing(training: Tensor, unseen: Tensor) -> None:
    samples = torch.cat([unseen[:5], training[::50]])
    whole, parted = neighbours(samples, training), neighbours(samples, iter(training.split(7)))
    assert (whole.pixel_indices == parted.pixel_indices).all()
    assert (whole.feature_indices == parted.feature_indices).all()
    assert np.allclose(whole.pixel_distances, parted.pixel_distances)
    assert copy_rate(samples, iter(training.split(7))) == copy_rate(samples, training) == pytest.approx(4 / 9)


def test_neighbours_are_the_nearest(training: Tensor, unseen: Tensor) -> None:
    found = neighbours(unseen[:6], training, 4)
    flat, every = unseen[:6].flatten(1).double().numpy(), training.flatten(1).double().numpy()
    errors = np.sqrt(np.square(flat[:, None] - every[None]).mean(2))
    assert (found.pixel_indices == np.argsort(errors)[:, :4]).all()
    assert np.allclose(found.pixel_distances, np.sort(errors)[:, :4])
    ours, theirs = random_features(unseen[:6]), random_features(training)
    apart = np.linalg.norm(ours[:, None].astype(float) - theirs[None], axis=2)
    assert np.allclose(found.feature_distances, np.sort(apart)[:, :4], atol=1e-3)
    assert (found.feature_indices[:, 0] == apart.argmin(1)).all()


@pytest.mark.parametrize(("size", "channels", "times"), [(64, 3, 1), (28, 1, 3)])
def test_picture_layout(size: int, channels: int, times: int) -> None:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (25, channels, size, size), dtype=np.uint8))
    samples, faces = images[:5], images[5:]
    found = Neighbours(
        np.arange(15).reshape(5, 3), np.zeros((5, 3)), np.arange(15)[::-1].reshape(5, 3), np.zeros((5, 3))
    )
    picture = neighbours_picture(samples, iter(faces.split(6)), found)
    assert picture.dtype == np.uint8
    assert picture.shape == neighbours_picture(samples, faces, found).shape
    side = size * times
    for row in range(5):
        column, line = divmod(row, 3)  # three rows in the first column, two in the second
        shown = [samples[row], *faces[3 * row : 3 * row + 3], *faces[14 - 3 * row - torch.arange(3)]]
        for place, image in enumerate(shown):
            tile = image.expand(3, -1, -1).permute(1, 2, 0).numpy().repeat(times, 0).repeat(times, 1)
            left = column * picture.shape[1] // 2 + 8 * (1 + (place > 0) + (place > 3)) + place * side
            top = 20 + line * side
            assert (picture[top : top + side, left : left + side] == tile).all()
    assert (picture[20 + 2 * side : 20 + 3 * side, picture.shape[1] // 2 + 8 :] == 255).all()
    assert (picture[:20] < 128).any()  # titles


def test_wrong_faces_are_errors(training: Tensor) -> None:
    with pytest.raises(SettingsError, match="There are no samples"):
        neighbours(training[:0], training)
    with pytest.raises(SettingsError, match="needs 3 of them, not 2"):
        neighbours(training, training[:2])
    with pytest.raises(SettingsError, match="many training faces, not 1"):
        copy_rate(training, iter([training[:1], training[:0]]))
    with pytest.raises(SettingsError, match=r"not 64×64 pixels in 3 channels and 32×32 pixels in 1 channel\."):
        neighbours(torch.zeros(2, 1, 32, 32, dtype=torch.uint8), training)
    with pytest.raises(SettingsError, match="no training face 199: there are only 150"):
        neighbours_picture(training[199:], training[:150], neighbours(training[199:], training))


@pytest.mark.slow
def test_copies_among_photographs(celeba: Path, models: Path, tmp_path: Path) -> None:
    from facegan import FaceShards, prepare
    from facegan.config import PrepConfig

    prepare(celeba, tmp_path / "out", PrepConfig(), workers=2, limit=1500)
    faces = FaceShards(tmp_path / "out")
    images = np.empty((len(faces), 64, 64, 3), np.uint8)
    faces.read(np.arange(len(faces)), images)
    real = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    training, unseen = real[:1200], real[1200:]
    assert copy_rate(unseen, training) <= 0.05
    assert copy_rate(compressed(training[:300], 95).flip(-1), training) >= 0.95

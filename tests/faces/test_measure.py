"""Measures of a face: the pose against a projected head, light and hash against second implementations."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy import fft
from scipy.spatial.transform import Rotation

from facegan.faces.detect import Face
from facegan.faces.measure import AlignedCrop, perceptual_hash, pose

# In units of the distance from the eyes to the mouth, x to the right, y down, z away: the proportions of the paper.
HEAD = np.array([(-0.5, 0, 0), (0.5, 0, 0), (0, 0.6, -0.6), (0, 1, 0), (-0.9, 0.2, 0.8), (0.9, 0.2, 0.8)])


def head(yaw: float, pitch: float, roll: float, scale: float = 40.0) -> Face:
    """The keypoints of a head under weak perspective: pitch about its own axis first, roll in the picture last."""
    turned = Rotation.from_euler("xyz", [-pitch, -yaw, roll], degrees=True).apply(HEAD)
    return Face((60, 70, 80, 80), tuple(map(tuple, (turned[:, :2] * scale + 100).tolist())), 0.9)


@pytest.mark.parametrize("yaw", [-60, -25, 0, 10, 45])
@pytest.mark.parametrize("roll", [-40, 0, 15])
def test_yaw_and_roll_of_a_head(yaw: float, roll: float) -> None:
    assert pose(head(yaw, 0, roll)) == pytest.approx((yaw, 0, roll), abs=0.11)


@pytest.mark.parametrize("pitch", [-30, -10, 20, 35])
def test_pitch_of_a_head(pitch: float) -> None:
    assert pose(head(0, pitch, 0)) == pytest.approx((0, pitch, 0), abs=0.11)
    yaw, found, roll = pose(head(20, pitch, 0))
    assert abs(yaw - 20) < 8  # roll is taken from the eyes, whose line leans if both angles are large
    assert abs(found - pitch) < 10
    assert abs(roll) < 13


def test_degenerate_keypoints_have_a_pose() -> None:
    assert pose(Face((0, 0, 1, 1), ((5.0, 5.0),) * 6, 0.5)) == (0, 0, 0)
    right = ((50.0, 60.0), (80.0, 60.0), (95.0, 78.0), (65.0, 90.0), (40.0, 65.0), (90.0, 65.0))
    assert all(abs(angle) <= 90 for angle in pose(Face((0, 0, 1, 1), right, 0.5)))


def test_light_and_hash_of_a_crop() -> None:
    pixels = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8), (0, 0), 3)
    quad = np.array([(0, 0), (0, 30), (40, 30), (40, 0)], np.float64)
    found = AlignedCrop(head(0, 0, 0), quad, (0.12345, 0.5), pixels).measure()
    grey = np.round(pixels @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    assert (found.side, found.outside, found.outside_box) == (40, 0.1235, 0.5)
    assert found.brightness == pytest.approx(grey.mean(), abs=0.02)
    assert found.contrast == pytest.approx(grey.std(), abs=0.02)
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_LINEAR_EXACT).astype(np.float64)
    low = np.asarray(fft.dctn(small, norm="ortho"))[:8, :8]
    low[0, 0] = 0  # the mean brightness
    expected = int.from_bytes(np.packbits(low.ravel() > low.mean(), bitorder="little").tobytes())
    assert (found.hash ^ expected).bit_count() <= 3
    assert found.hash == perceptual_hash(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))


def test_hash_survives_scaling_and_brightness() -> None:
    rng = np.random.default_rng(2)
    one, other = (cv2.resize(rng.integers(0, 256, (8, 8), dtype=np.uint8), (64, 64)) for _ in range(2))
    changed = cv2.resize(cv2.resize((one * 0.8 + 20).astype(np.uint8), (40, 40)), (64, 64))
    assert (perceptual_hash(one) ^ perceptual_hash(changed)).bit_count() <= 4
    assert (perceptual_hash(one) ^ perceptual_hash(other)).bit_count() > 16

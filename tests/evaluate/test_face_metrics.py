"""Faces and keypoints by the real detector, on drawn portraits whose keypoints are known."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from facegan.demo import draw_portrait
from facegan.errors import ModelError, SettingsError
from facegan.evaluate import FacesFound, find_faces, keypoint_distance
from tests.evaluate.drawn import CENTRE, SIDE, drawn_faces, uniform_noise

SHORT_RANGE = "face_detection_short_range.tflite"


@pytest.fixture(scope="module")
def faces() -> Tensor:
    return drawn_faces(40)


@pytest.fixture(scope="module")
def found(faces: Tensor, models: Path) -> FacesFound:
    return find_faces(faces, models / SHORT_RANGE)


def test_faces_are_found_where_drawn(found: FacesFound) -> None:
    assert found.images == 40
    assert found.share >= 0.95
    assert found.keypoints.shape == (len(found.indices), 6, 2)
    assert found.keypoints.dtype == np.float32
    corner = np.array(CENTRE[::-1]) - SIDE // 2
    drawn = [(draw_portrait(0, int(index)).keypoints.array() - corner) / SIDE for index in found.indices]
    off = np.linalg.norm(found.keypoints[:, :4] - np.array(drawn), axis=2)
    assert np.median(off) < 0.03


def test_noise_and_two_faces_do_not_count(faces: Tensor, models: Path) -> None:
    assert find_faces(uniform_noise(10)).share == 0
    beside = torch.full((10, 3, 128, 128), 128, dtype=torch.uint8)
    beside[:, :, 32:96] = torch.cat([faces[:10], faces[10:20]], dim=3)
    assert find_faces(beside).share <= 0.2


def test_small_grey_faces_are_found(faces: Tensor, models: Path) -> None:
    small = drawn_faces(20, 28)
    assert find_faces(small.float().mean(1, keepdim=True).to(torch.uint8)).share >= 0.9


def faces_at(keypoints: np.ndarray, images: int | None = None) -> FacesFound:
    return FacesFound(images or len(keypoints), np.arange(len(keypoints)), keypoints.astype(np.float32))


def scattered(count: int, deviation: float = 0.02, seed: int = 0) -> np.ndarray:
    return 0.5 + deviation * np.random.default_rng(seed).standard_normal((count, 6, 2))


def test_keypoint_distance_of_gaussians() -> None:
    real = faces_at(scattered(500))
    moved = faces_at(scattered(500) + np.array([0.01, 0]))
    assert keypoint_distance(moved, real) == pytest.approx(6**0.5, rel=1e-3)  # 1 % of the width, six keypoints
    wider = faces_at(0.5 + 2 * (scattered(500) - 0.5))
    spread = 100 * np.sqrt(np.trace(np.cov(scattered(500).reshape(500, 12), rowvar=False)))
    assert keypoint_distance(wider, real) == pytest.approx(spread, rel=0.02)  # |2σ − σ| over all twelve
    assert keypoint_distance(real, real) == pytest.approx(0, abs=1e-3)


def test_too_few_faces_for_a_distance() -> None:
    assert keypoint_distance(faces_at(scattered(1), 50), faces_at(scattered(9))) == float("inf")
    with pytest.raises(SettingsError, match="1 of 50 have one"):
        keypoint_distance(faces_at(scattered(9)), faces_at(scattered(1), 50))


def test_wrong_arguments_are_errors(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="There are no images"):
        find_faces(torch.zeros(0, 3, 64, 64, dtype=torch.uint8))
    (tmp_path / "other.tflite").write_bytes(b"x")
    with pytest.raises(ModelError, match="its SHA-256 is"):
        find_faces(uniform_noise(1), tmp_path / "other.tflite")
    with pytest.raises(ModelError, match=r"There is no model .*none\.tflite"):
        find_faces(uniform_noise(1), tmp_path / "none.tflite")


def test_stderr_stays_empty(models: Path) -> None:
    """MediaPipe prints from C++ when it loads and closes."""
    program = (
        "import torch; from facegan.evaluate import find_faces\n"
        "print(find_faces(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).share)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("0.0\n", "")


def test_missing_mediapipe_is_an_error(models: Path) -> None:
    """The module can be imported without it."""
    program = (
        "import sys; sys.modules['mediapipe'] = None\n"  # cannot be imported
        "import torch; from facegan.evaluate import find_faces\n"
        "find_faces(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "ModelError: Detecting faces in samples needs mediapipe, which cannot be imported" in done.stderr
    assert "pip install mediapipe" in done.stderr

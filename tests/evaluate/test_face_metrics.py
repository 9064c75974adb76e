"""Faces and keypoints by the real detector, on drawn portraits whose keypoints are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from facegan.demo import draw_portrait
from facegan.errors import ModelError
from facegan.evaluate.extractors import one_face
from facegan.evaluate.face_metrics import find_faces, keypoint_distance, with_one_face
from facegan.faces.detect import MediaPipeDetector
from tests.evaluate.drawn import CENTRE, SIDE, drawn_faces, uniform_noise


def share_found(images: torch.Tensor) -> float:
    return len(with_one_face(find_faces(images))) / len(images)


def test_faces_are_found_where_drawn(models: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """And MediaPipe, which prints from C++ when it loads and closes, stays silent."""
    found = find_faces(drawn_faces(40))
    assert (found.shape, found.dtype) == ((40, 6, 2), np.float32)
    indices = np.flatnonzero(~np.isnan(found).any((1, 2)))
    assert len(indices) >= 38
    corner = np.array(CENTRE[::-1]) - SIDE // 2
    drawn = [(draw_portrait(0, int(index)).keypoints - corner) / SIDE for index in indices]
    off = np.linalg.norm(found[indices, :4] - np.array(drawn), axis=2)
    assert np.median(off) < 0.03
    assert capfd.readouterr().err == ""


def test_noise_and_two_faces_do_not_count(models: Path) -> None:
    assert share_found(uniform_noise(10)) == 0
    faces, beside = drawn_faces(20), torch.full((10, 3, 128, 128), 128, dtype=torch.uint8)
    beside[:, :, 32:96] = torch.cat([faces[:10], faces[10:]], dim=3)
    assert share_found(beside) <= 0.2


def test_small_grey_faces_are_found(models: Path) -> None:
    assert share_found(drawn_faces(20, 28).float().mean(1, keepdim=True).to(torch.uint8)) >= 0.9


def test_keypoint_distance_of_gaussians() -> None:
    real = (0.5 + 0.02 * np.random.default_rng(0).standard_normal((500, 6, 2))).astype(np.float32)
    moved = real + np.array([0.01, 0], np.float32)
    assert keypoint_distance(moved, real) == pytest.approx(6**0.5, rel=1e-3)  # 1 % of the width, six keypoints
    spread = 100 * np.sqrt(np.trace(np.cov(real.reshape(500, 12), rowvar=False)))
    assert keypoint_distance(0.5 + 2 * (real - 0.5), real) == pytest.approx(
        spread, rel=0.02
    )  # |2σ − σ| over all twelve
    assert keypoint_distance(real, real) == pytest.approx(0, abs=1e-3)


def test_too_few_faces_have_no_distance(models: Path) -> None:
    extractor, found = one_face(), np.full((4, 6, 2), np.nan, np.float32)
    found[0] = 0.5
    many = np.zeros_like(found)
    assert extractor.compare({"keypoints": found}, {"keypoints": many}, extractor.metrics) == {"one_face": 0.25}
    assert extractor.compare({"keypoints": many}, {"keypoints": found}, extractor.metrics) == {"one_face": 1}


def test_missing_mediapipe_is_an_error(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> None:
        raise ImportError("no mediapipe")

    monkeypatch.setattr(MediaPipeDetector, "load", load)
    with pytest.raises(ModelError, match=r"cannot be imported \(no mediapipe\)\.\nInstall it: pip install mediapipe"):
        find_faces(uniform_noise(1))

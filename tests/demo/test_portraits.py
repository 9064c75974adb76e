"""Drawn portraits: reproducible, all different, with correct keypoints, and found by MediaPipe."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from facegan.demo import Portrait, draw_portrait, write_portraits
from facegan.demo.paint import Canvas, ellipse
from facegan.errors import DiskError, SettingsError

COUNT = 30

MODEL_FILE = "face_detection_short_range.tflite"


@pytest.fixture(scope="module")
def portraits() -> list[Portrait]:
    return [draw_portrait(11, index) for index in range(COUNT)]


def pixel(portrait: Portrait, x: float, y: float, reach: int = 1) -> np.ndarray:
    """Mean colour of the (2 reach + 1)² pixels about the pixel that holds (x, y)."""
    column, row = int(x), int(y)
    patch = portrait.pixels[row - reach : row + reach + 1, column - reach : column + reach + 1]
    return patch.reshape(-1, 3).mean(axis=0)


def head_frame(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The eyes' middle, and the vectors from the image-left to the image-right eye and, as long, down the face."""
    left, right, _, _ = points
    across = right - left
    return (left + right) / 2, across, np.array([-across[1], across[0]])


def test_portraits_are_different_and_repeatable(portraits: list[Portrait]) -> None:
    assert {(p.pixels.shape, p.pixels.dtype.name) for p in portraits} == {((218, 178, 3), "uint8")}
    others = [*portraits, draw_portrait(12, 0), draw_portrait(0, 11)]
    assert len({p.pixels.tobytes() for p in others}) == len({p.keypoints.tobytes() for p in others}) == len(others)
    for index in (7, 0):
        again = draw_portrait(11, index)
        assert np.array_equal(again.pixels, portraits[index].pixels)
        assert np.array_equal(again.keypoints, portraits[index].keypoints)


def test_larger_portrait_scales_keypoints() -> None:
    small, large = draw_portrait(5, 2), draw_portrait(5, 2, width=356, height=436)
    assert np.allclose(large.keypoints, 2 * small.keypoints)
    shrunk = cv2.resize(large.pixels, (178, 218), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(int) - small.pixels).mean() < 2


def test_keypoints_are_in_anatomical_order(portraits: list[Portrait]) -> None:
    for p in portraits:
        points = p.keypoints
        assert ((points > 0) & (points < (178, 218))).all()
        middle, across, down = head_frame(p.keypoints)
        nose, mouth = ((points[k] - middle) @ down / (down @ down) for k in (2, 3))
        assert across[0] > max(25, abs(across[1]) / 0.3)
        assert 0.4 < nose < mouth - 0.2 < 1.2


def test_eyes_match_their_keypoints(portraits: list[Portrait]) -> None:
    """The pupil is far darker than the cheek, and what is dark about it is centred on the keypoint."""
    offsets = []
    for index, p in enumerate(portraits):
        _, across, down = head_frame(p.keypoints)
        for eye in p.keypoints[:2]:
            x0, y0 = (int(v) for v in eye)
            darkest = p.pixels[y0 - 1 : y0 + 2, x0 - 1 : x0 + 2].mean(axis=2).min()
            assert darkest < 0.6 * pixel(p, *(eye + 0.42 * down)).mean(), index
            grey = p.pixels[y0 - 5 : y0 + 6, x0 - 5 : x0 + 6].astype(float).mean(axis=2)
            weight = np.clip(np.percentile(grey, 30) - grey, 0, None)
            y, x = np.mgrid[-5:6, -5:6] + 0.5
            offset = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum() + (x0, y0) - eye
            offsets.append(np.array([offset @ across, offset @ down]) / np.linalg.norm(across))
    sideways, downwards = np.median(offsets, axis=0)
    assert abs(sideways) < 0.4
    assert -2.2 < downwards < -0.8  # the lashes above pull it up


def test_mouth_and_nose_match_keypoints(portraits: list[Portrait]) -> None:
    """Lips and nostrils stand out from the skin a fifth of the eyes' distance away."""

    def contrast(p: Portrait, at: np.ndarray, skin: np.ndarray) -> float:
        return float(np.abs(pixel(p, *at) - pixel(p, *skin)).mean())

    mouth, beside, tip, above = [], [], [], []
    for p in portraits:
        _, across, down = head_frame(p.keypoints)
        _, _, n, m = p.keypoints
        mouth.append(contrast(p, m, m + 0.34 * down))
        beside.append(contrast(p, m + 0.26 * down, m + 0.34 * down))
        tip.append(pixel(p, *n, reach=0).mean() - pixel(p, *(n + 0.15 * down)).mean())
        above.append(pixel(p, *(n + 0.15 * across)).mean() - pixel(p, *(n + 0.15 * (across + down))).mean())
    assert np.median(mouth) > 2 * np.median(beside)
    assert np.median(tip) > 10
    assert np.median(tip) > np.median(above)


def test_skin_hair_and_background_vary(portraits: list[Portrait]) -> None:
    frames = [head_frame(p.keypoints) for p in portraits]
    skin, crowns = (
        np.array([pixel(p, *(middle - height * down)) for p, (middle, _, down) in zip(portraits, frames, strict=True)])
        for height in (0.33, 1.3)
    )
    lightness = skin.mean(axis=1)
    assert lightness.min() < 80
    assert lightness.max() > 175
    assert lightness.std() > 30
    corners = np.array([p.pixels[:20, :20].reshape(-1, 3).mean(axis=0) for p in portraits])
    assert (corners.std(axis=0) > 25).all()
    assert (crowns.std(axis=0) > 20).all()


def test_files_show_portraits_in_order(tmp_path: Path) -> None:
    threads = cv2.getNumThreads()
    paths = write_portraits(tmp_path / "faces", 3, seed=11)
    assert [p.name for p in paths] == ["000001.jpg", "000002.jpg", "000003.jpg"]
    assert sorted((tmp_path / "faces").iterdir()) == paths
    for index, path in enumerate(paths):
        decoded = np.asarray(Image.open(path))
        assert np.abs(decoded.astype(int) - draw_portrait(11, index).pixels).mean() < 2
    assert cv2.getNumThreads() == threads


def test_invalid_portraits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="177 × 218 px is too small"):
        draw_portrait(0, width=177)
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match="a file is in the way"):
        write_portraits(tmp_path / "file", 1)


def test_shape_is_centred_on_points() -> None:
    """Its centre to 0.3 canvas pixels; OpenCV's smooth edges reach about half a pixel outwards."""
    for cx, cy, soft in ((40.0, 30.0, 0.0), (41.3, 29.8, 0.0), (40.5, 30.5, 1.5), (40.2, 31.1, 3.0)):
        mask = Canvas(np.zeros((3, 60, 80), np.float32)).shape(ellipse(cx, cy, 9, 7), soft)
        y, x = np.mgrid[0 : mask.alpha.shape[0], 0 : mask.alpha.shape[1]] + 0.5
        area = mask.alpha.sum()
        assert (mask.alpha * x).sum() / area + mask.left == pytest.approx(cx, abs=0.3)
        assert (mask.alpha * y).sum() / area + mask.top == pytest.approx(cy, abs=0.3)
        assert np.pi * 9 * 7 < area < np.pi * 10.3 * 8.3


def test_paint_stays_inside_shape() -> None:
    canvas = Canvas(np.zeros((3, 20, 30), np.float32))
    canvas.lay(canvas.shape(np.array([(10.0, 4.0), (20.0, 4.0), (20.0, 12.0), (10.0, 12.0)])), (100, 50, 0))
    assert canvas.planes[:, 8, 15] == pytest.approx([100, 50, 0])
    assert canvas.planes[0, 8, 5] == 0
    canvas.lay(canvas.shape(ellipse(130, 8, 5, 5)), (255, 255, 255))
    assert canvas.planes.max() == pytest.approx(100)


def test_mediapipe_finds_each_face_once(portraits: list[Portrait], models: Path) -> None:
    os.environ.setdefault("GLOG_minloglevel", "3")
    mediapipe = pytest.importorskip("mediapipe")
    from mediapipe.tasks.python import BaseOptions, vision

    options = vision.FaceDetectorOptions(BaseOptions(str(models / MODEL_FILE)), min_detection_confidence=0.5)
    detector = vision.FaceDetector.create_from_options(options)
    try:
        results = [detector.detect(mediapipe.Image(mediapipe.ImageFormat.SRGB, p.pixels)).detections for p in portraits]
    finally:
        detector.close()
    assert [len(found) for found in results] == [1] * COUNT
    found = np.array([[(k.x * 178, k.y * 218) for k in faces[0].keypoints[:4]] for faces in results])
    distance = np.linalg.norm(found - [p.keypoints for p in portraits], axis=2)
    assert (distance.mean(axis=0) < 2).all(), distance.mean(axis=0)
    assert np.percentile(distance[:, :2], 95) < 3  # 60 eyes are few: of 1,000, the 99th percentile is 2.4

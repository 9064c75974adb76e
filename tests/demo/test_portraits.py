"""Drawn portraits: the same every time, all different, their keypoints where the features are, found by MediaPipe."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from facegan.demo import Keypoints, Portrait, draw_portrait, draw_portraits, write_portraits
from facegan.demo.paint import Canvas
from facegan.errors import DiskError, SettingsError

COUNT = 30


@pytest.fixture(scope="module")
def portraits() -> list[Portrait]:
    return list(draw_portraits(COUNT, seed=11))


def pixel(portrait: Portrait, x: float, y: float, reach: int = 1) -> np.ndarray:
    """Mean colour of the (2 reach + 1)² pixels about the pixel that holds (x, y)."""
    column, row = int(x), int(y)
    patch = portrait.pixels[row - reach : row + reach + 1, column - reach : column + reach + 1]
    return patch.reshape(-1, 3).mean(axis=0)


def head_frame(points: Keypoints) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The eyes' middle, and the vectors from the image-left to the image-right eye and, as long, down the face."""
    left, right, _, _ = points.array()
    across = right - left
    return (left + right) / 2, across, np.array([-across[1], across[0]])


def test_the_same_seed_and_index_give_the_same_portrait_in_any_order(portraits: list[Portrait]) -> None:
    for index in (7, 0, 29):
        again = draw_portrait(11, index)
        assert np.array_equal(again.pixels, portraits[index].pixels)
        assert again.keypoints == portraits[index].keypoints


def test_every_index_and_seed_draws_someone_else(portraits: list[Portrait]) -> None:
    others = [*portraits, draw_portrait(12, 0), draw_portrait(0, 11)]
    assert len({p.pixels.tobytes() for p in others}) == len(others)
    assert len({p.keypoints for p in others}) == len(others)


def test_pixels_are_rgb_bytes_of_the_size_asked_for(portraits: list[Portrait]) -> None:
    assert {(p.pixels.shape, p.pixels.dtype.name) for p in portraits} == {((218, 178, 3), "uint8")}
    large = draw_portrait(11, 3, width=401, height=333)
    assert large.pixels.shape == (333, 401, 3)
    assert large.pixels.flags.c_contiguous


def test_a_larger_portrait_is_the_same_one_with_its_truth_scaled() -> None:
    small, large = draw_portrait(5, 2), draw_portrait(5, 2, width=356, height=436)
    assert np.allclose(large.keypoints.array(), 2 * small.keypoints.array())
    shrunk = cv2.resize(large.pixels, (178, 218), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(int) - small.pixels).mean() < 2


def test_keypoints_are_inside_and_in_anatomical_order(portraits: list[Portrait]) -> None:
    for p in portraits:
        points = p.keypoints.array()
        assert points.shape == (4, 2)
        assert (points > 0).all()
        assert (points < (178, 218)).all()
        middle, across, down = head_frame(p.keypoints)
        nose, mouth = ((points[k] - middle) @ down / (down @ down) for k in (2, 3))
        assert across[0] > 25
        assert abs(across[1]) < 0.3 * across[0]
        assert 0.4 < nose < mouth - 0.2
        assert mouth < 1.4


def test_the_eyes_are_where_the_truth_says(portraits: list[Portrait]) -> None:
    """The iris is darker than the cheek below, and each dark spot's centre is at the truth."""
    for index, p in enumerate(portraits):
        _, _, down = head_frame(p.keypoints)
        for eye in p.keypoints.array()[:2]:
            cheek = eye + 0.42 * down
            assert pixel(p, *eye).mean() < 0.8 * pixel(p, *cheek).mean(), index
    # A pixel is dark where it is darker than half the cheek; averaged over people, brows and glasses left out.
    offsets = []
    for p in portraits:
        for eye in p.keypoints.array()[:2]:
            x0, y0 = (int(v) - 5 for v in eye)
            grey = p.pixels[y0 : y0 + 11, x0 : x0 + 11].astype(float).mean(axis=2)
            weight = np.clip(np.percentile(grey, 40) - grey, 0, None)
            y, x = np.mgrid[0:11, 0:11] + 0.5
            offsets.append(
                [(weight * x).sum() / weight.sum() + x0 - eye[0], (weight * y).sum() / weight.sum() + y0 - eye[1]]
            )
    assert np.abs(np.median(offsets, axis=0)).max() < 1.0


def test_the_mouth_is_redder_than_the_cheek(portraits: list[Portrait]) -> None:
    def redness(colour: np.ndarray) -> float:
        return float(colour[0] / colour[1:].mean())

    redder = 0
    for p in portraits:
        _, _, down = head_frame(p.keypoints)
        mouth = p.keypoints.array()[3]
        redder += redness(pixel(p, *mouth)) > redness(pixel(p, *(mouth + 0.32 * down)))
    assert redder > 0.85 * COUNT


def test_people_differ_in_skin_hair_and_background(portraits: list[Portrait]) -> None:
    skin = np.array([pixel(p, *(head_frame(p.keypoints)[0] - 0.33 * head_frame(p.keypoints)[2])) for p in portraits])
    lightness = skin.mean(axis=1)
    assert lightness.min() < 80
    assert lightness.max() > 175
    assert lightness.std() > 30
    corners = np.array([p.pixels[:20, :20].reshape(-1, 3).mean(axis=0) for p in portraits])
    assert (corners.std(axis=0) > 25).all()
    crowns = np.array([pixel(p, *(head_frame(p.keypoints)[0] - 1.3 * head_frame(p.keypoints)[2])) for p in portraits])
    assert (crowns.std(axis=0) > 20).all()


def test_files_are_named_in_order_and_show_the_portraits(tmp_path: Path) -> None:
    paths = write_portraits(tmp_path / "faces", 3, seed=11)
    assert [p.name for p in paths] == ["000001.jpg", "000002.jpg", "000003.jpg"]
    assert sorted((tmp_path / "faces").iterdir()) == paths
    for index, path in enumerate(paths):
        read = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        assert np.abs(read.astype(int) - draw_portrait(11, index).pixels).mean() < 2
    before = [p.read_bytes() for p in paths]
    assert [p.read_bytes() for p in write_portraits(tmp_path / "faces", 3, seed=11)] == before


def test_opencvs_threads_are_left_alone(tmp_path: Path) -> None:
    before = cv2.getNumThreads()
    write_portraits(tmp_path, 2)
    assert cv2.getNumThreads() == before


def test_impossible_portraits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"177 × 218 px is too small for a portrait: at least 178 × 218\."):
        draw_portrait(0, width=177)
    with pytest.raises(SettingsError, match="Seed -1, index 0: both must be 0 or more"):
        draw_portrait(-1)
    with pytest.raises(SettingsError, match=r"-1 portraits"):
        write_portraits(tmp_path, -1)
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match="a file is in the way"):
        write_portraits(tmp_path / "file", 1)


def test_a_shape_covers_the_pixels_inside_it() -> None:
    canvas = Canvas(np.zeros((3, 20, 30), np.float32))
    square = np.array([(10.0, 4.0), (20.5, 4.0), (20.5, 12.0), (10.0, 12.0)])
    canvas.lay(canvas.shape(square), (100, 50, 0))
    assert canvas.planes[0, 8, 15] == pytest.approx(100)
    assert canvas.planes[1, 8, 15] == pytest.approx(50)
    assert canvas.planes[0, 8, 5] == 0
    assert canvas.planes[0].sum() / 100 == pytest.approx(10.5 * 8, rel=0.06)
    outside = canvas.shape(square + 100)
    canvas.lay(outside, (255, 255, 255))
    assert canvas.planes.max() == pytest.approx(100)


def test_mediapipe_finds_everyone_once_and_agrees(portraits: list[Portrait], short_range_model: Path) -> None:
    os.environ.setdefault("GLOG_minloglevel", "3")
    mediapipe = pytest.importorskip("mediapipe")
    from mediapipe.tasks.python import BaseOptions, vision

    options = vision.FaceDetectorOptions(BaseOptions(str(short_range_model)), min_detection_confidence=0.5)
    detector = vision.FaceDetector.create_from_options(options)
    try:
        results = [detector.detect(mediapipe.Image(mediapipe.ImageFormat.SRGB, p.pixels)).detections for p in portraits]
    finally:
        detector.close()
    assert [len(found) for found in results] == [1] * COUNT
    found = np.array([[(k.x * 178, k.y * 218) for k in faces[0].keypoints[:4]] for faces in results])
    distance = np.linalg.norm(found - [p.keypoints.array() for p in portraits], axis=2)
    assert (distance.mean(axis=0) < 2).all(), distance.mean(axis=0)
    assert np.percentile(distance[:, :2], 95) < 2.5

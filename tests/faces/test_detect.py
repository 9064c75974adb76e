"""The second look at pictures where no face reaches ``--min-score``: it tells faces from what is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from facegan.faces.detect import MediaPipeDetector, look_again
from facegan.manifests import known_models
from tests.conftest import SHARED
from tests.prep.fake import FakeDetector, face_at


@pytest.fixture(scope="module")
def detector(models: Path) -> Iterator[MediaPipeDetector]:
    files = [models / known_models()[name].file for name in known_models()]
    with MediaPipeDetector(files) as detector:
        yield detector


def drawn(portraits: Path, number: int) -> np.ndarray:
    picture = cv2.imread(str(portraits / f"{number:06d}.jpg"))
    assert picture is not None
    return np.ascontiguousarray(picture[:, :, ::-1])


def scenes() -> dict[str, np.ndarray]:
    """Pictures without a face, some of which a model scores as high as 0.4."""
    rows, columns = np.mgrid[:200, :200]
    noise = np.random.default_rng(0)
    return {
        "black": np.zeros((200, 200, 3), np.uint8),
        "red": np.full((200, 200, 3), (255, 0, 0), np.uint8),
        "noise": noise.integers(0, 256, (200, 200, 3), dtype=np.uint8),
        "hills": np.stack([(rows + 20 * np.sin(columns / 15)) % 256] * 3, axis=2).astype(np.uint8),
        "blots": cv2.resize(
            noise.integers(0, 256, (6, 6, 3), dtype=np.uint8), (200, 200), interpolation=cv2.INTER_CUBIC
        ),
    }


@pytest.mark.parametrize("name", scenes())
def test_a_scene_is_no_face(detector: MediaPipeDetector, name: str) -> None:
    assert not look_again(detector, scenes()[name]).is_face


def test_one_model_alone_takes_a_red_square_for_a_face(detector: MediaPipeDetector) -> None:
    """The score alone is above the look-again score: what refuses it is that the models disagree."""
    best = look_again(detector, scenes()["red"]).best
    assert best is not None
    assert best.score > 0.3


def test_a_dim_face_is_a_face(detector: MediaPipeDetector, portraits: Path) -> None:
    for number, brightness in ((3, 0.03), (4, None)):
        rgb = drawn(portraits, number)
        rgb = (rgb * brightness).astype(np.uint8) if brightness else cv2.GaussianBlur(rgb, (0, 0), 10)
        assert detector.detect(rgb, 0.5) == []
        again = look_again(detector, rgb)
        assert again.best is not None
        assert 0.3 <= again.best.score < 0.5
        assert again.is_face


def test_a_single_model_has_to_be_sure(models: Path, portraits: Path) -> None:
    rgb = cv2.GaussianBlur(drawn(portraits, 4), (0, 0), 10)
    for model in known_models().values():
        with MediaPipeDetector([models / model.file]) as detector:
            assert not look_again(detector, rgb).is_face
            assert look_again(detector, drawn(portraits, 4)).is_face


@pytest.mark.parametrize(("score", "is_face"), [(0.29, False), (0.3, True), (0.9, True)])
def test_of_other_detectors_the_score_decides(score: float, is_face: bool) -> None:
    again = look_again(
        FakeDetector(face_at(100, 100, score=score), face_at(50, 50, score=0.05)), np.zeros((200, 200, 3))
    )
    assert (again.best, again.is_face) == (face_at(100, 100, score=score), is_face)


def test_where_there_is_nothing_at_all() -> None:
    again = look_again(FakeDetector(), np.zeros((200, 200, 3), np.uint8))
    assert (again.best, again.is_face) == (None, False)


def test_landscapes_are_no_faces(detector: MediaPipeDetector) -> None:
    folder = SHARED / "data" / "awkward" / "exif"
    if not folder.is_dir():
        pytest.skip("needs the awkward pictures beside the repository (../shared/data/awkward)")
    from facegan.faces.decode import Photo

    for path in sorted(folder.glob("*.jpg")):
        assert not look_again(detector, Photo(path.read_bytes()).pixels(2)).is_face

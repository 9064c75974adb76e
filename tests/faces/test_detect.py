"""The second look where no face reaches ``--min-score``, and detector models in the user cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from facegan.faces.decode import Photo
from facegan.faces.detect import MediaPipeDetector, find_model, look_again
from facegan.manifests import known_models
from tests.prep.fake import FakeDetector, face_at


@pytest.fixture(scope="module")
def detector(models: Path) -> Iterator[MediaPipeDetector]:
    with MediaPipeDetector([models / model.file for model in known_models().values()]) as detector:
        yield detector


def portrait(portraits: Path, number: int) -> np.ndarray:
    return Photo((portraits / f"{number:06d}.jpg").read_bytes()).pixels()


def scenes() -> dict[str, np.ndarray]:
    """Images without a face; one model scores some of them as high as 0.4."""
    rows, columns = np.mgrid[:200, :200]
    rng = np.random.default_rng(0)
    blots = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return {
        "black": np.zeros((200, 200, 3), np.uint8),
        "red": np.full((200, 200, 3), (255, 0, 0), np.uint8),
        "noise": rng.integers(0, 256, (200, 200, 3), dtype=np.uint8),
        "hills": np.stack([(rows + 20 * np.sin(columns / 15)) % 256] * 3, axis=2).astype(np.uint8),
        "blots": cv2.resize(blots, (200, 200), interpolation=cv2.INTER_CUBIC),
    }


def test_scenes_are_not_faces(detector: MediaPipeDetector) -> None:
    """The score of the red square is high enough: it is refused because the models disagree."""
    looks = {name: look_again(detector, rgb) for name, rgb in scenes().items()}
    assert not any(look.is_face for look in looks.values())
    assert looks["red"].best is not None
    assert looks["red"].best.score > 0.3


def test_dim_and_blurred_faces_are_faces(detector: MediaPipeDetector, portraits: Path) -> None:
    dim = (portrait(portraits, 3) * 0.03).astype(np.uint8)
    for rgb in (dim, cv2.GaussianBlur(portrait(portraits, 4), (0, 0), 10)):
        assert detector.detect(rgb, 0.5) == []
        again = look_again(detector, rgb)
        assert again.best is not None
        assert 0.3 <= again.best.score < 0.5
        assert again.is_face


def test_single_model_must_be_sure(models: Path, portraits: Path) -> None:
    rgb = portrait(portraits, 4)
    for model in known_models().values():
        with MediaPipeDetector([models / model.file]) as detector:
            assert not look_again(detector, cv2.GaussianBlur(rgb, (0, 0), 10)).is_face
            assert look_again(detector, rgb).is_face


@pytest.mark.parametrize(("score", "is_face"), [(None, False), (0.29, False), (0.3, True), (0.9, True)])
def test_other_detectors_decide_by_score(score: float | None, is_face: bool) -> None:
    best = face_at(100, 100, score=score) if score else None
    again = look_again(
        FakeDetector(*([best, face_at(50, 50, score=0.05)] if best else [])), np.zeros((200, 200, 3), np.uint8)
    )
    assert (again.best, again.is_face) == (best, is_face)


def test_altered_model_in_cache_is_ignored(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = known_models()["short"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("FACEGAN_MODELS", "")
    cached = tmp_path / "facegan" / "models" / model.file
    cached.parent.mkdir(parents=True)
    data = bytearray((models / model.file).read_bytes())
    for path in (cached, None):
        cached.write_bytes(data)
        assert find_model(model) == path
        data[1000] ^= 4
    assert f"{cached} does not match its checksum and is ignored." in capsys.readouterr().err

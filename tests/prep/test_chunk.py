"""A chunk: every photograph gets its row, and every reason is provoked by a file that deserves it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from facegan.faces.detect import Face
from facegan.shards.format import REASONS
from tests.prep.fake import FakeDetector, Memory, bomb, face_at, noise, photo, run_chunk
from tests.prep.outputs import samples

GOOD = face_at(100, 90)
# The tip of the nose 0.6 · 24 · sin 30° px beside its base: 30° to the right.
TURNED = replace(GOOD, keypoints=(*GOOD.keypoints[:2], (107.2, 98.4), *GOOD.keypoints[3:]))


def reason_of(tmp_path: Path, data: bytes, *faces: Face, **config) -> str:
    row = run_chunk(tmp_path, {b"1.jpg": data}, FakeDetector(*faces), **config).rows[0]
    assert (row.outcome == "kept") is (row.reason == "") is bool(row.keys)
    return row.reason


FACELESS: dict = {"detector": "none"}
PROVOKED: list[tuple[str, bytes, list[Face], dict]] = [
    ("", photo(), [GOOD], {}),
    ("unreadable", b"no picture", [GOOD], {}),
    ("unreadable", b"no picture", [], {**FACELESS, "crop": "squash"}),
    ("truncated", photo()[:-400], [GOOD], {}),
    ("too_large", bomb(), [GOOD], {}),
    ("no_face", photo(), [], {}),
    ("low_score", photo(), [face_at(100, 90, score=0.3)], {}),
    ("no_face", photo(), [face_at(100, 90, score=0.05)], {}),
    ("bad_keypoints", photo(), [face_at(100, 100, upside_down=True)], {}),
    ("several_faces", photo(), [GOOD, face_at(60, 60)], {"faces": "only"}),
    ("off_edge", photo(), [face_at(10, 90)], {}),
    ("", photo(), [face_at(10, 90)], {"max_outside": 1.0}),
    ("", photo(), [face_at(10, 90)], {"crop": "dcgan108"}),  # the crop is inside, wherever the face is
    ("too_small", photo(), [GOOD], {"crop": "box", "min_face": 61}),
    ("", photo(), [GOOD], {"crop": "box", "min_face": 61, "margin": 1.02}),  # the crop counts, not the face
    ("too_small", photo(), [GOOD], {"min_face": 97}),  # 2 × 1.8 × 0.4 × 60 = 86.4, 2 × 2 × 0.4 × 60 = 96
    ("", photo(), [GOOD], {"min_face": 96}),
    ("too_small", photo(), [], {**FACELESS, "crop": "squash", "min_face": 201}),
    ("too_small", photo(107, 300), [], {**FACELESS, "crop": "dcgan108"}),
    ("blurry", photo(), [GOOD], {"min_sharpness": 100}),
    ("", noise(), [GOOD], {"min_sharpness": 100}),
    ("blurry", photo(), [], {**FACELESS, "crop": "dcgan108", "min_sharpness": 100}),
    ("dark", photo(), [GOOD], {"min_brightness": 250}),
    ("turned_away", photo(), [TURNED], {"max_yaw": 20}),
    ("", photo(), [TURNED], {"max_yaw": 45}),
    ("crashed", photo(), [Face((70, 60, 60, 60), (), 0.9)], {}),  # a detector that gives no keypoints
]


@pytest.mark.parametrize(("reason", "data", "faces", "config"), PROVOKED)
def test_each_reason(tmp_path: Path, reason: str, data: bytes, faces: list[Face], config: dict) -> None:
    assert reason_of(tmp_path, data, *faces, **config) == reason


@pytest.mark.parametrize(
    ("reason", "face", "config"),
    [
        ("no_face", face_at(100, 90, score=0.05), {}),
        ("low_score", face_at(100, 90, score=0.4), {}),
        ("off_edge", face_at(10, 90), {}),
        ("off_edge", face_at(10, 90, score=0.4), {}),  # a lower --min-score alone would not keep it
        ("bad_keypoints", face_at(100, 100, upside_down=True), {}),
        ("blurry", GOOD, {"min_sharpness": 100}),
    ],
)
def test_rejected_photo_keeps_best_score(tmp_path: Path, reason: str, face: Face, config: dict) -> None:
    worse = Face((0.0, 0.0, 9.0, 9.0), face.keypoints, face.score - 0.02)
    result = run_chunk(tmp_path, {b"1.jpg": photo()}, FakeDetector(worse, face), **config)
    row = result.rows[0]
    assert (row.reason, max(row.scores), row.box) == (reason, face.score, list(face.box))
    assert [(reject.path, reject.score) for reject in result.rejects] == [("1.jpg", face.score)]
    assert row.faces == (0 if face.score < 0.5 else 2)


def test_all_reasons_are_provoked() -> None:
    of_the_run = {"duplicate", "near_duplicate", "unreachable"}  # found before the chunks, or by the source
    assert {reason for reason, *_ in PROVOKED if reason} == set(REASONS) - of_the_run


def test_unreadable_file_is_unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self, entry) -> bytes:
        raise OSError("input/output error")

    monkeypatch.setattr(Memory, "read", refuse)
    assert reason_of(tmp_path, photo(), GOOD) == "unreachable"  # it may be there another time: --repair asks again


def test_best_face_is_near_centre(tmp_path: Path) -> None:
    near, far = face_at(100, 100, score=0.8), face_at(40, 100, 40, score=0.9)
    run_chunk(tmp_path, {b"1.jpg": photo()}, FakeDetector(far, near))
    assert metas(tmp_path)[0]["box"] == [70.0, 70.0, 60.0, 60.0]


def test_upright_face_beats_inverted_ghost(tmp_path: Path) -> None:
    ghost, upright = face_at(100, 100, upside_down=True, score=0.95), face_at(90, 100, score=0.6)
    assert reason_of(tmp_path, photo(), ghost, upright) == ""
    assert metas(tmp_path)[0]["score"] == 0.6


def test_all_faces_have_own_keys(tmp_path: Path) -> None:
    faces = [face_at(50, 60, 30, 0.7), face_at(140, 60, 30, 0.9), face_at(5, 190, 60, 0.8)]
    row = run_chunk(tmp_path, {b"a.png": photo(kind="PNG")}, FakeDetector(*faces), faces="all").rows[0]
    assert row.keys == ["a=2Epng", "a=2Epng=f1"]  # the third is off the edge
    assert (row.faces, row.scores) == (3, [0.7, 0.9, 0.8])
    assert [m["score"] for m in metas(tmp_path)] == [0.9, 0.7]


def metas(tmp_path: Path) -> list[dict]:
    return [meta for _, meta in samples(tmp_path / "000000.tar")]


def test_row_and_json_describe_photo(tmp_path: Path) -> None:
    data = photo(190, 210)
    row = run_chunk(tmp_path, {b"x y.jpg": data}, FakeDetector(GOOD)).rows[0]
    assert (row.path, row.bytes, row.width, row.height) == ("x y.jpg", len(data), 190, 210)
    assert row.sha256 == hashlib.sha256(data).hexdigest()
    found = metas(tmp_path)[0]
    assert [found[name] for name in ("path", "sha256", "width", "height")] == [row.path, row.sha256, 190, 210]


def test_large_photos_are_detected_small(tmp_path: Path) -> None:
    detector = FakeDetector(face_at(300, 200, 120))  # in the shrunk picture's pixels
    row = run_chunk(tmp_path, {b"1.jpg": photo(2401, 1601)}, detector).rows[0]
    assert detector.seen == [(401, 601, 3)]
    assert (row.width, row.height) == (2401, 1601)
    assert metas(tmp_path)[0]["box"] == [960.0, 560.0, 480.0, 480.0]

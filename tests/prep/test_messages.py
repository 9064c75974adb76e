"""Advice after a run that rejected many photographs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from facegan.config import PrepConfig
from facegan.prep.messages import advice
from facegan.shards.format import PHOTOS_FILE, REASONS
from tests.shards.made import Made, make_dataset


@pytest.mark.parametrize(("rejected", "photos"), [({}, 0), ({"no_face": 5}, 100)])
def test_up_to_five_percent_is_silent(rejected: dict[str, int], photos: int) -> None:
    assert advice(rejected, photos, PrepConfig()) == []
    assert advice(rejected | {"no_face": 6}, 100, PrepConfig()) != []


def test_reasons_come_by_frequency() -> None:
    """Rare ones are left out; all together have one sentence each."""
    said = advice({"truncated": 3, "off_edge": 40, "low_score": 100, "no_face": 100}, 2000, PrepConfig(min_score=0.8))
    assert said[0] == "Rejected: 243 of 2,000 photographs (12.2%)."
    assert [sentence.split(":")[0] for sentence in said[1:-1]] == ["100 low_score", "100 no_face", "40 off_edge"]
    assert "--force" in said[-1]
    assert len(advice(dict.fromkeys(REASONS, 1), 13, PrepConfig())) == 1 + len(REASONS) + 1


@pytest.mark.parametrize(
    ("reason", "settings", "said"),
    [
        ("unreadable", {}, "etch them again"),
        ("too_large", {}, "over 100 megapixels"),
        ("too_small", {"min_face": 90}, "90 pixels. A lower --min-face"),
        ("too_small", {"crop": "dcgan108"}, "--crop dcgan108 needs 108 × 108 pixels. --crop squash"),
        ("no_face", {}, "--rotate auto"),
        ("no_face", {"rotate": "auto"}, "MODULE:CLASS"),
        ("no_face", {"detector": "mediapipe-short"}, "--detector mediapipe also finds small faces"),
        ("no_face", {"crop": "dcgan108"}, "--detector none keeps them"),
        ("low_score", {"min_score": 0.9}, "less than 0.9. A lower --min-score"),
        ("bad_keypoints", {}, "--rotate auto"),
        ("bad_keypoints", {"rotate": "auto"}, "Another --detector"),
        ("several_faces", {"faces": "only"}, "--faces best or all"),
        ("off_edge", {}, "more than 20% of the crop .* A higher --max-outside keeps more.$"),
        ("off_edge", {"margin": 1.5}, "smaller --margin"),
        ("blurry", {"min_sharpness": 40}, "less sharp than 40. A lower --min-sharpness"),
        ("unreachable", {}, "--repair"),
    ],
)
def test_each_reason_has_a_remedy(reason: str, settings: dict, said: str) -> None:
    sentences = advice({reason: 50}, 100, PrepConfig.of(settings))
    assert re.search(said, sentences[1])
    assert sentences[1].endswith(".")
    by_settings = reason not in ("unreadable", "truncated", "too_large", "unreachable", "crashed")
    assert ("--force" in sentences[-1]) is by_settings


@pytest.mark.parametrize(
    ("faint", "none", "said"),
    [
        ([0.4] * 20, [0.1] * 20, "--min-score 0.4 would keep 20 of them."),
        ([0.401, 0.49], [], "--min-score 0.4 would keep 2 of them."),
        ([0.455] * 19 + [0.31], [0.46, 0.4, 0.35], "0.45 would keep 19 of them, and 1 of no_face"),
        ([0.4] * 8, [0.41], "also keeps pictures without a face."),
    ],
)
def test_useful_min_score_is_named(tmp_path: Path, faint: list[float], none: list[float], said: str) -> None:
    photos = [Made(f"f{i}.jpg", scores=[score], reason="low_score") for i, score in enumerate(faint)]
    photos += [Made(f"n{i}.jpg", scores=[score], reason="no_face") for i, score in enumerate(none)]
    out = make_dataset(tmp_path / "out", [*photos, Made("kept.jpg"), Made("torn.jpg", scores=[], reason="truncated")])
    rejected = {"low_score": len(faint), "no_face": len(none)}
    sentences = advice(rejected, len(photos), PrepConfig(), out / PHOTOS_FILE)
    (sentence,) = (sentence for sentence in sentences if "low_score:" in sentence)
    assert said in sentence

"""Keys are unique and can be read back; KEY.json has one type per field; dataset.json is checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegan.errors import DatasetError
from facegan.shards.format import (
    PHOTO_SUFFIXES,
    DatasetInfo,
    SampleMeta,
    SampleRecord,
    key_agrees,
    key_path,
    readable_path,
    sample_key,
)

PATHS = st.builds(
    lambda stem, suffix: stem + suffix.encode(),
    st.binary(min_size=1, max_size=40).filter(lambda stem: b"\0" not in stem),
    st.sampled_from([*sorted(PHOTO_SUFFIXES), ".JPG", ".Png"]),
)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (b"000001.jpg", "000001"),
        (b"a/b.png", "a=2Fb=2Epng"),
        (b"a b.jpg", "a=20b"),
        (b"x.JPG", "x=2EJPG"),
        (b"\xff.jpg", "=FF"),
        (b"x.png.jpg", "x=2Epng=2Ejpg"),
        (b".jpg", "=2Ejpg"),
    ],
)
def test_keys_of_paths(path: bytes, key: str) -> None:
    assert sample_key(path) == key
    assert key_path(key) == path


@given(PATHS, st.integers(0, 3))
def test_key_is_read_back(path: bytes, face: int) -> None:
    """So no two photographs share a key."""
    key = sample_key(path, face)
    assert key_path(key) == path
    assert all(c.isascii() and (c.isalnum() or c in "_-=") for c in key)


def test_long_paths_are_cut_and_distinct() -> None:
    one, two = (b"x/" * 120 + end + b".jpg" for end in (b"a", b"b"))
    assert sample_key(one) != sample_key(two)
    assert max(len(sample_key(one)), len(sample_key(one, 12))) <= 200
    with pytest.raises(ValueError, match="complete path"):
        key_path(sample_key(one))


def test_undecodable_paths_agree_with_their_keys() -> None:
    assert readable_path(b"caf\xe9/1.jpg") == r"caf\xe9/1.jpg"
    for raw in (b"caf\xe9.jpg", b"a\\x41.png", b"a\\xe9\xe9.jpg", b"\xe9" * 90 + b".jpg"):
        assert key_agrees(sample_key(raw), readable_path(raw))
        assert key_agrees(sample_key(raw, 2), readable_path(raw))
    assert not key_agrees("caf=E8", "caf\\xe9.jpg")
    assert not key_agrees("a", "b.jpg")
    assert not key_agrees("\udcff", "b.jpg")


def test_json_has_one_type_per_field() -> None:
    record = SampleRecord("a", "b", width=1, height=2, quad=[[0, 0]], box=[1, 2, 3, 4], keypoints=[[1, 2]], score=1)
    meta = json.loads(record.to_json())
    assert list(meta) == [name for name, field in SampleMeta.model_fields.items() if field.description]
    assert {type(v) for v in (*meta["box"], *meta["keypoints"][0], *meta["quad"][0], meta["score"])} == {float}


def test_folder_without_dataset_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    for folder, text, message in (
        (tmp_path, "", "it is not a dataset"),
        (tmp_path / "face", "", "Did you mean 'faces'"),
        (tmp_path, '{"format": 99}', "damaged or of another version"),
    ):
        if text:
            (tmp_path / "dataset.json").write_text(text)
        with pytest.raises(DatasetError, match=message):
            DatasetInfo.read(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("photos_sha256", "../../x"),
        ("detections_sha256", "x"),
        ("chunks", [{"split": "val", "photos": 1, "shard": "/x"}]),
    ],
)
def test_checksums_and_files_are_no_paths(field: str, value: object) -> None:
    totals = {"photos": 0, "kept": 0, "rejected": {}, "ignored": {}, "faces": 0, "bytes": 0}
    fields = {
        "settings": {},
        "versions": {},
        "fingerprint": "",
        "totals": totals,
        "shards": [],
        "photos_sha256": "0" * 64,
    }
    DatasetInfo.parse(json.dumps(fields).encode(), "x")
    with pytest.raises(DatasetError, match=rf"x is damaged.*{field}"):
        DatasetInfo.parse(json.dumps(fields | {field: value}).encode(), "x")

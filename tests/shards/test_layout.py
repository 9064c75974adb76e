"""Keys: every path has its own, and can be read back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegan.errors import DatasetError
from facegan.shards.format import PHOTO_SUFFIXES, DatasetInfo, SampleRecord, key_path, readable_path, sample_key

paths = st.builds(
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
def test_known_keys(path: bytes, key: str) -> None:
    assert sample_key(path) == key
    assert key_path(key) == path


@given(paths, st.integers(0, 3))
def test_a_key_is_read_back_without_loss(path: bytes, face: int) -> None:
    key = sample_key(path, face)
    assert key_path(key) == path
    assert all(c.isascii() and (c.isalnum() or c in "_-=") for c in key)


@given(st.lists(paths, unique=True, max_size=30))
def test_no_two_photos_share_a_key(names: list[bytes]) -> None:
    assert len({sample_key(name) for name in names}) == len(names)


def test_long_paths_are_cut_and_stay_apart() -> None:
    one, two = (b"x/" * 120 + end + b".jpg" for end in (b"a", b"b"))
    assert sample_key(one) != sample_key(two)
    assert max(len(sample_key(one)), len(sample_key(one, 12))) <= 200
    with pytest.raises(ValueError, match="not contain a complete path"):
        key_path(sample_key(one))


def test_undecodable_paths_are_readable() -> None:
    assert readable_path(b"caf\xe9/1.jpg") == r"caf\xe9/1.jpg"


def test_the_json_has_every_field_with_one_type() -> None:
    values = {
        "path": "a",
        "sha256": "b",
        "width": 1,
        "height": 2,
        "box": [1, 2, 3, 4],
        "keypoints": [[1, 2]],
        "score": 1,
    }
    meta = json.loads(SampleRecord(**values, quad=[[0, 0]]).to_json())
    assert list(meta) == ["path", "sha256", "width", "height", "box", "keypoints", "score", "quad", "turned", "label"]
    assert {type(v) for v in (*meta["box"], *meta["keypoints"][0], *meta["quad"][0], meta["score"])} == {float}


def test_a_folder_that_is_no_dataset_says_so(tmp_path) -> None:
    with pytest.raises(DatasetError, match="it is not a dataset"):
        DatasetInfo.read(tmp_path)
    (tmp_path / "faces").mkdir()
    with pytest.raises(DatasetError, match="Did you mean 'faces'"):
        DatasetInfo.read(tmp_path / "face")
    (tmp_path / "dataset.json").write_text('{"format": 99}')
    with pytest.raises(DatasetError, match="has format 99, and this facegan reads format 1"):
        DatasetInfo.read(tmp_path)
    (tmp_path / "dataset.json").write_text('{"format": 1}')
    with pytest.raises(DatasetError, match="damaged or of another version"):
        DatasetInfo.read(tmp_path)

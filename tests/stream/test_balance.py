"""Epochs in which attributes have chosen shares: exact, repeatable, and fair to every face."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegan.errors import SettingsError
from facegan.prep.prepare import prepare
from facegan.stream import FaceShards
from facegan.stream.sampler import MOST_SHOWN, BalancedSampler, places_of
from tests.prep.fake import TINY, write_photos
from tests.recipes.program import facegan

RNG = np.random.default_rng(0)
GLASSES, MALE, HAIR = RNG.random(1_000) < 0.06, RNG.random(1_000) < 0.4, RNG.integers(0, 3, 1_000)


def epochs(columns: dict[str, np.ndarray], shares: dict[str, float | None], count: int = 3) -> Iterator[np.ndarray]:
    sampler, faces = BalancedSampler(*places_of(columns, shares), seed=5), len(next(iter(columns.values())))
    return (sampler.at(epoch * faces, faces) for epoch in range(count))


def test_each_epoch_has_the_shares_exactly() -> None:
    columns = {"glasses": GLASSES, "male": MALE, "hair": HAIR}
    for faces in epochs(columns, {"glasses": 0.3, "male": 0.5, "hair": None}):
        assert len(faces) == 1_000
        assert GLASSES[faces].sum() == pytest.approx(300, abs=3)
        assert MALE[faces].sum() == pytest.approx(500, abs=3)
        assert np.bincount(HAIR[faces]) == pytest.approx([1_000 / 3] * 3, abs=3)


def test_other_proportions_stay_as_they_are() -> None:
    """One share: within those with glasses and within those without, as many men as before."""
    (faces,) = epochs({"glasses": GLASSES}, {"glasses": 0.5}, 1)
    for has in (True, False):
        here = faces[GLASSES[faces] == has]
        assert MALE[here].mean() == pytest.approx(MALE[has == GLASSES].mean(), abs=0.05)


def test_faces_of_a_cell_come_equally_often() -> None:
    shown = np.bincount(np.concatenate([*epochs({"glasses": GLASSES}, {"glasses": 0.3}, 7)]), minlength=1_000)
    for has in (True, False):
        counts = shown[has == GLASSES]
        assert counts.max() - counts.min() <= 1
    assert shown[~GLASSES].min() > 0  # rarer than before, but none is left out
    (faces,) = epochs({"glasses": GLASSES}, {"glasses": 0.3}, 1)
    assert np.bincount(faces).max() <= MOST_SHOWN


def test_sequence_does_not_depend_on_how_it_is_read() -> None:
    sampler = BalancedSampler(*places_of({"glasses": GLASSES}, {"glasses": 0.3}), seed=1)
    whole = sampler.at(0, 5_000)
    again = BalancedSampler(*places_of({"glasses": GLASSES}, {"glasses": 0.3}), seed=1)
    assert np.array_equal(np.concatenate([again.at(start, 7) for start in range(4_200, 4_900, 7)]), whole[4_200:4_900])
    other = BalancedSampler(*places_of({"glasses": GLASSES}, {"glasses": 0.3}), seed=2)
    assert not np.array_equal(other.at(0, 1_000), whole[:1_000])


@given(st.lists(st.booleans(), min_size=8, max_size=25), st.sampled_from([0.2, 0.4, 0.5, 0.7]), st.integers(0, 9))
def test_places_fill_an_epoch(values: list[bool], share: float, seed: int) -> None:
    column = np.array(values)
    if column.all() or not column.any():
        with pytest.raises(SettingsError, match=r"(no|every) face has a\."):
            places_of({"a": column}, {"a": share})
        return
    cells, places = places_of({"a": column}, {"a": share})
    faces = BalancedSampler(cells, places, seed).at(0, len(column))
    assert (places.sum(), places.min() > 0) == (len(column), True)
    assert abs(column[faces].sum() - share * len(column)) <= 1


def test_shares_out_of_reach_are_refused() -> None:
    rare = np.arange(1_000) < 5
    with pytest.raises(
        SettingsError,
        match=r"the 5 faces with a = 1 would come 4[01] times an epoch,\nand .* The largest share .* a can .* 0\.096\.",
    ):
        places_of({"a": rare}, {"a": 0.2})
    places_of({"a": rare}, {"a": 0.096})
    with pytest.raises(SettingsError, match=r"The smallest share that a can have is 0\.904\."):
        places_of({"a": ~rare}, {"a": 0.9})
    places_of({"a": ~rare}, {"a": 0.904})
    with pytest.raises(SettingsError, match=r"by a=0\.5, b=0\.2: no mixture .*\n.* dataset, a=0\.0.*, b=0\.0"):
        places_of({"a": GLASSES, "b": GLASSES}, {"a": 0.5, "b": 0.2})


def test_shares_just_within_reach_are_found() -> None:
    """Exclusive attributes that leave little to faces with neither: the fit converges slowly."""
    number = np.arange(1_000)
    for share in (0.499, 0.4999, 0.5):
        columns = {"a": number < 100, "b": (number >= 100) & (number < 200)}
        cells, places = places_of(columns, {"a": share, "b": share})
        assert [places[cells[0]], places[cells[100]]] == pytest.approx([share * 1_000] * 2, abs=1)


@pytest.fixture(scope="module")
def attributed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 faces, of which every fifth has the attribute ``square``."""
    folder = tmp_path_factory.mktemp("attributed")
    photos = write_photos(folder / "photos", 40)
    rows = (f"{path.name},{int(number % 5 == 0)}" for number, path in enumerate(sorted(photos.iterdir())))
    (folder / "list.csv").write_text("\n".join(["photo,square", *rows]))
    prepare(photos, folder / "out", TINY, workers=0, attributes=folder / "list.csv")
    return folder / "out"


def test_batches_of_a_dataset_are_balanced(attributed: Path) -> None:
    faces = FaceShards(attributed, cache="off")
    squares = faces.attributes(["square"])["square"].to_numpy()
    with_share = faces.batches(10, seed=3, balance={"square": 0.75})
    seen = [with_share.indices.numpy() for _ in range(len(faces) // 10) if next(with_share) is not None]
    assert squares[np.concatenate(seen)].mean() == pytest.approx(0.75, abs=1 / len(faces))
    position = with_share.state_dict()
    following = next(with_share).clone()
    resumed = faces.batches(10, seed=3, balance={"square": 0.75})
    resumed.load_state_dict(position)
    assert np.array_equal(next(resumed).numpy(), following.numpy())
    parts = [faces.batches(10, seed=3, balance={"square": 0.75}, rank=rank, world_size=2) for rank in range(2)]
    assert np.array_equal(np.concatenate([(next(part), part.indices.numpy())[1] for part in parts]), seen[0])
    with pytest.raises(SettingsError, match="has no attribute squares"):
        faces.batches(10, balance={"squares": 0.5})
    with pytest.raises(SettingsError, match="--balance-by takes one with classes"):
        faces.batches(10, balance={"square": None})
    for each in (with_share, resumed, *parts):
        each.close()


def test_balanced_training_resumes_to_the_bit(attributed: Path, tmp_path: Path) -> None:
    small = (
        "--set",
        "train.nets=dcgan-fc",
        "--set",
        "train.width=4",
        "--set",
        "train.latent=8",
        "--batch",
        8,
        "--device",
        "cpu",
        "--quiet",
    )
    asked = ("train", "--shards", attributed, "--balance", "square=0.75", "--condition", "square", *small)
    for name, lengths in {"whole": [32], "parts": [16, 32]}.items():
        for length in lengths:
            assert facegan(*asked, "--run", tmp_path / name, "--images", length).code == 0
    record = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert record["settings"]["balance"] == "square=0.75"
    assert record["nets"]["condition"]["counts"] == [32, 8]  # samples are drawn as among the faces
    one, other = ((tmp_path / name / "generator.safetensors").read_bytes() for name in ("whole", "parts"))
    assert one == other
    page = tmp_path / "page.html"
    assert facegan("report", tmp_path / "whole", "--out", page).code == 0
    assert "square=0.75" in page.read_text()
    record["dataset"]["epoch"] = "0" * 64  # as if the attributes had been others
    (tmp_path / "whole" / "run.json").write_text(json.dumps(record))
    ended = facegan(*asked, "--run", tmp_path / "whole", "--images", 48)
    assert "when its faces had other values of square" in ended.stderr
    for share, said in (
        (",", "--balance , has no shares"),
        ("square=0.3,square=0.6", "has two shares of square"),
        ("square", "Write NAME=SHARE"),
        ("square=1.5", "Write NAME=SHARE"),
        ("sqare=0.5", "'square'"),
    ):
        ended = facegan("train", "--shards", attributed, "--balance", share, "--run", tmp_path / "no", *small)
        assert (ended.code, said in ended.stderr) == (2, True), ended.stderr

"""Every manifest fits its schema, is consistent, and agrees with those who published its facts."""

from __future__ import annotations

import gzip
import random
import re
from typing import Any

import pytest

from facegan.errors import SourceError
from facegan.files import packaged
from facegan.manifests import KnownDataset, known_datasets, known_models, recognise, split_of
from tests.conftest import SHARED

CELEBA = known_datasets()["celeba-aligned"]


def names_of(numbers: Any) -> list[bytes]:
    return [b"img_align_celeba/%06d.jpg" % number for number in numbers]


def test_every_manifest_fits_its_schema() -> None:
    files = {path.stem for path in packaged("manifests").glob("*.toml")}
    assert files == {*known_datasets(), "models", "web"}
    assert set(known_datasets()) == {"celeba-aligned", "cifar-10", "fashion-mnist", "mnist"}
    assert {name: model.input_px for name, model in known_models().items()} == {"short": 128, "full": 192}


def test_celeba_splits_are_official() -> None:
    path = SHARED / "data" / "list_eval_partition.txt.gz"
    if not path.is_file():
        pytest.skip("needs CelebA's list of splits beside the repository (../shared/data)")
    with gzip.open(path, "rb") as file:
        lines = [line.split() for line in file]
    assert len(lines) == CELEBA.photographs
    assert all(("train", "val", "test")[int(part)] == split_of(CELEBA, name) for name, part in lines)


@pytest.mark.parametrize("known", known_datasets().values(), ids=lambda known: known.name)
def test_manifest_is_consistent(known: KnownDataset) -> None:
    splits = list(known.splits.values())
    assert sum(split.photographs for split in splits) == known.photographs
    assert (known.licence == "other") == (known.licence_name is not None)
    if known.file_name is None:
        assert all(split.first is split.last is None for split in splits)
    else:
        assert re.compile(known.file_name).groups == 1
        numbers = [number for split in splits for number in range(split.first or 0, (split.last or 0) + 1)]
        assert numbers == list(range(1, known.photographs + 1))
        assert all(split.photographs == (split.last or 0) - (split.first or 0) + 1 for split in splits)


@pytest.mark.parametrize(
    "numbers",
    [
        range(1, 202_600, 13),
        range(182_638, 202_600),  # the test split alone
        random.Random(0).sample(range(1, 202_600), 100),
    ],
)
def test_celeba_is_recognised_by_names(numbers: Any) -> None:
    names = names_of(numbers)
    assert recognise(iter(names), len(names)) is CELEBA
    few_others = [*names, *(b"notes-%d.jpg" % i for i in range(len(names) // 120))]
    assert recognise(few_others, len(few_others)) is CELEBA


@pytest.mark.parametrize(
    "names",
    [
        [],
        [b"%06d.jpg" % i for i in range(1, 5001)],  # anyone's, numbered
        [b"%06d.png" % i for i in range(1, 60_000, 7)],
        [*names_of(range(1, 202_600, 13)), *(b"a%d.jpg" % i for i in range(400))],
        [b"\xff\n.jpg", b"000001.jpg\n", b"/", b""],
    ],
)
def test_other_names_are_not_recognised(names: list[bytes]) -> None:
    assert recognise(names, len(names)) is None


def test_split_by_file_number() -> None:
    at = {1: "train", 162_770: "train", 162_771: "val", 182_637: "val", 182_638: "test", 202_599: "test"}
    assert {number: split_of(CELEBA, b"a/%06d.jpg" % number) for number in at} == at


def test_photograph_without_number_is_an_error() -> None:
    for name in (b"000000.jpg", b"202600.jpg", b"portrait.jpg", b"caf\xe9.jpg"):
        with pytest.raises(SourceError, match=r"has no file number of CelebA aligned \(1 to 202,599\)"):
            split_of(CELEBA, name)
    with pytest.raises(SourceError, match=r"MNIST are not numbered.*--split source"):
        split_of(known_datasets()["mnist"], name)

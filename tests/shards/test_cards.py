"""The cards describe the dataset, to people and in the formats of other tools."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from facegan.manifests import known_datasets
from facegan.shards.cards import size_category, write_cards
from facegan.shards.format import CARD_NAME, DatasetInfo
from tests.shards.made import PHOTOS, TRAIN, VAL, Made, front_matter, json_of, make_dataset, opened

CARDS = ["README.md", "croissant.json", "_info.json", "index-train.json", "index-val.json"]


@pytest.fixture(scope="module")
def readme(two_splits: Path) -> str:
    return (two_splits / "README.md").read_text(encoding="utf-8")


def test_cards_follow_from_dataset_alone(two_splits: Path, tmp_path: Path) -> None:
    assert write_cards(tmp_path, DatasetInfo.read(two_splits), None) == CARDS
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        name: (two_splits / name).read_bytes() for name in CARDS
    }
    assert all(CARD_NAME.fullmatch(name) for name in CARDS)


def test_front_matter_fits_the_hub(readme: str) -> None:
    from huggingface_hub import DatasetCard

    files = [{"split": "train", "path": "train-*.tar"}, {"split": "validation", "path": "val-*.tar"}]
    assert DatasetCard(readme).data.to_dict() == front_matter(readme)
    assert front_matter(readme) == {
        "license": "unknown",
        "task_categories": ["unconditional-image-generation"],
        "size_categories": ["n<1K"],
        "tags": ["webdataset"],
        "configs": [{"config_name": "default", "data_files": files}],
    }


def test_size_categories() -> None:
    sizes = {0: "n<1K", 999: "n<1K", 1000: "1K<n<10K", 202_599: "100K<n<1M", 10**7: "10M<n<100M"}
    assert {samples: size_category(samples) for samples in sizes} == sizes


def test_readme_has_counts_settings_and_terms(readme: str) -> None:
    for line in (
        "9 faces of 64 × 64 pixels, cropped from 10 photographs",
        "| val | validation | 1 | 4 |",
        "| `no_face` | 1 | no face found |",
        "| `margin` | `auto` | scale of the crop about its centre; auto: ",
        "| facegan | 1 |",
        "facegan does not know the origin of these photographs",
        "A face is personal data",
    ):
        assert line in readme


def test_known_data_set_brings_its_terms(tmp_path: Path) -> None:
    known = known_datasets()["celeba-aligned"]
    out = make_dataset(tmp_path / "out", PHOTOS, data_set="celeba-aligned")
    readme = (out / "README.md").read_text(encoding="utf-8")
    assert (front_matter(readme)["license"], front_matter(readme)["license_name"]) == ("other", "celeba")
    assert "# Faces of CelebA aligned, 64 × 64" in readme
    assert "9 faces of 64 × 64 pixels, cropped from 10 of 202,599 photographs of CelebA aligned.\n" in readme
    assert "For non-commercial research only" in readme
    assert known.citation in readme
    croissant = json_of(out / "croissant.json")
    assert (croissant["name"], croissant["license"]) == ("celeba-aligned-faces", known.terms)
    without_people = make_dataset(tmp_path / "digits", TRAIN, data_set="mnist")
    assert "personal data" not in (without_people / "README.md").read_text(encoding="utf-8")


def test_dataset_without_faces_has_cards(tmp_path: Path) -> None:
    out = make_dataset(tmp_path / "out", PHOTOS[-1:])
    readme = (out / "README.md").read_text(encoding="utf-8")
    assert "configs" not in front_matter(readme)
    assert "The dataset has no faces." in readme
    assert json_of(out / "_info.json") == {"splits": {}}


# mlcroissant calls deprecated functions of rdflib and pandas, leaves files open, and unpacks tars without a filter.
_mlcroissant = pytest.mark.filterwarnings(
    "ignore:ConjunctiveGraph is deprecated:DeprecationWarning",
    "ignore:The inplace keyword in DataFrame.reset_index:DeprecationWarning",
    "ignore:unclosed file:ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore:Python 3.14 will, by default, filter:DeprecationWarning",
)


@_mlcroissant
@pytest.mark.parametrize(
    ("image_format", "photos", "name"),
    [("png", PHOTOS, ""), ("jpg", VAL, "celeba-aligned"), ("webp", PHOTOS, "mnist"), ("png", PHOTOS[-1:], "")],
)
def test_mlcroissant_writes_the_same_croissant(
    tmp_path: Path, image_format: str, photos: list[Made], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    import mlcroissant as mlc

    path = make_dataset(tmp_path / "out", photos, data_set=name, format=image_format) / "croissant.json"
    with caplog.at_level(logging.WARNING, "absl"):
        read = mlc.Dataset(str(path))
    assert read.metadata.ctx.issues.report() == ""
    assert read.metadata.to_json() == json_of(path)
    assert list(read.metadata.to_json()) == list(json_of(path))
    assert not caplog.records


@_mlcroissant
@pytest.mark.parametrize("image_format", ["png", "webp"])
def test_mlcroissant_reads_both_record_sets(tmp_path: Path, image_format: str, monkeypatch) -> None:
    from etils import epath
    from mlcroissant._src.operation_graph.operations import extract

    # It reads $CROISSANT_CACHE when it is imported.
    monkeypatch.setattr(extract, "EXTRACT_PATH", epath.Path(tmp_path / "croissant"))
    out = make_dataset(tmp_path / "out", PHOTOS, format=image_format)
    names = opened(out, "mlcroissant")
    faces = {record["faces/key"].decode(): np.asarray(record["faces/image"]) for record in names["records"]}
    assert sorted(faces) == [photo.keys[0] for photo in PHOTOS[:-1]]
    assert all(np.array_equal(faces[photo.keys[0]], photo.pixels()) for photo in PHOTOS[:-1])
    photos = names["mlcroissant"].Dataset(str(out / "croissant.json")).records("photos")
    rows = [{key.removeprefix("photos/"): _text(value) for key, value in row.items()} for row in photos]
    assert rows == pq.read_table(out / "photos.parquet").to_pylist()


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value

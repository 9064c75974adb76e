"""The cards describe the dataset, to people and in the formats of other tools."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from facegan.manifests import known_datasets
from facegan.shards.cards import size_category, write_cards
from facegan.shards.format import CARD_NAME, IMAGE_FORMATS, DatasetInfo, SampleMeta
from facegan.shards.photos import COLUMNS
from tests.shards.made import Made, make_dataset, members
from tests.shards.two_splits import PHOTOS, TRAIN, VAL, front_matter, json_of

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


def test_wids_index(two_splits: Path) -> None:
    tars = [two_splits / f"train-{number:06d}.tar" for number in (0, 1)]
    assert json_of(two_splits / "index-train.json") == {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": "faces-train",
        "shardlist": [
            {
                "url": tar.name,
                "nsamples": samples,
                "filesize": tar.stat().st_size,
                "md5sum": hashlib.md5(tar.read_bytes(), usedforsecurity=False).hexdigest(),
            }
            for tar, samples in zip(tars, (4, 1), strict=True)
        ],
    }


def test_timm_info(two_splits: Path) -> None:
    assert json_of(two_splits / "_info.json")["splits"] == {
        split: {
            "name": split,
            "filenames": [f"{split}-{i:06d}.tar" for i in range(len(lengths))],
            "shard_lengths": lengths,
            "num_samples": sum(lengths),
            "alt_label": "label",
        }
        for split, lengths in (("train", [4, 1]), ("val", [4]))
    }


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


@pytest.mark.parametrize(
    ("samples", "category"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (202_599, "100K<n<1M"), (10**7, "10M<n<100M"), (10**12, "n>1T")],
)
def test_size_categories(samples: int, category: str) -> None:
    assert size_category(samples) == category


def test_readme_has_counts_settings_and_terms(readme: str) -> None:
    for line in (
        "9 faces of 64 × 64 pixels, cropped from 10 photographs",
        "| val | validation | 1 | 4 |",
        "| `no_face` | 1 | no face found |",
        "| `margin` | `1.0` | scales the crop about its centre |",
        "| facegan | 1 |",
        "facegan does not know the origin of these photographs",
        "A face is personal data",
    ):
        assert line in readme


def test_known_data_set_brings_its_terms(tmp_path: Path) -> None:
    known = known_datasets()["celeba-aligned"]
    out = make_dataset(tmp_path / "out", PHOTOS, known=known, cards=True)
    readme = (out / "README.md").read_text(encoding="utf-8")
    assert (front_matter(readme)["license"], front_matter(readme)["license_name"]) == ("other", "celeba")
    assert "# Faces of CelebA aligned, 64 × 64" in readme
    assert "9 faces of 64 × 64 pixels, cropped from 10 of 202,599 photographs of CelebA aligned.\n" in readme
    assert "For non-commercial research only" in readme
    assert known.citation in readme
    croissant = json_of(out / "croissant.json")
    assert (croissant["name"], croissant["license"]) == ("celeba-aligned-faces", known.terms)


def test_no_people_no_consent(tmp_path: Path) -> None:
    make_dataset(tmp_path / "out", TRAIN, known=known_datasets()["mnist"], cards=True)
    assert "personal data" not in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_dataset_without_faces_has_cards(tmp_path: Path) -> None:
    out = make_dataset(tmp_path / "out", PHOTOS[-1:], cards=True)
    readme = (out / "README.md").read_text(encoding="utf-8")
    assert "configs" not in front_matter(readme)
    assert "The dataset has no faces." in readme
    assert json_of(out / "_info.json") == {"splits": {}}


def test_every_field_has_a_meaning(two_splits: Path) -> None:
    meta = json.loads(members(two_splits / "val-000000.tar")["000006.json"])
    assert list(meta) == [name for name, field in SampleMeta.model_fields.items() if field.description]


# mlcroissant calls deprecated functions of rdflib and pandas, leaves files open, and unpacks tars without a filter.
_mlcroissant = pytest.mark.filterwarnings(
    "ignore:ConjunctiveGraph is deprecated:DeprecationWarning",
    "ignore:The inplace keyword in DataFrame.reset_index:DeprecationWarning",
    "ignore:unclosed file:ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore:Python 3.14 will, by default, filter:DeprecationWarning",
)


def by_mlcroissant(info: DatasetInfo, description: str, version: str, cite_as: str, licence: str, name: str) -> Any:
    """The dataset's Croissant as mlcroissant's classes write it."""
    import mlcroissant as mlc

    ctx = mlc.Context(conforms_to="http://mlcommons.org/croissant/1.0")  # type: ignore[arg-type] # it casts the text

    def source(**of: Any) -> mlc.Source:
        extract = mlc.Extract(ctx=ctx, **of.pop("extract"))
        return mlc.Source(ctx=ctx, extract=extract, **of)

    def field(record_set: str, column: str, meaning: str, kind: Any, origin: mlc.Source, **more: Any) -> mlc.Field:
        name = f"{record_set}/{column}"
        return mlc.Field(ctx=ctx, id=name, name=name, description=meaning, data_types=[kind], source=origin, **more)

    def file(name: str, kind: str, sha256: str, size: str | None = None) -> mlc.FileObject:
        return mlc.FileObject(
            ctx=ctx, id=name, name=name, content_url=name, content_size=size, encoding_formats=[kind], sha256=sha256
        )

    image_format = info.settings["format"]
    tars = [file(s.name, mlc.EncodingFormat.TAR, s.sha256, f"{s.bytes} B") for s in info.shards]
    images = mlc.FileSet(
        ctx=ctx,
        id="images",
        name="images",
        contained_in=[shard.name for shard in info.shards],
        includes=[f"*.{image_format}"],
        encoding_formats=[IMAGE_FORMATS[image_format]],
    )
    key = source(
        file_set="images",
        extract={"file_property": "filename"},
        transforms=[mlc.Transform(ctx=ctx, regex=rf"^(.+)\.{image_format}$")],
    )
    content = source(file_set="images", extract={"file_property": "content"})
    faces = mlc.RecordSet(
        ctx=ctx,
        id="faces",
        name="faces",
        description="Every face with its key, which encodes the photograph's path.",
        key="faces/key",  # type: ignore[arg-type] # a list would be written as one
        fields=[
            field("faces", "key", "the sample's key", mlc.DataType.TEXT, key),
            field("faces", "image", "the face", mlc.DataType.IMAGE_OBJECT, content),
        ],
    )
    text, integer, real = mlc.DataType.TEXT, mlc.DataType.INTEGER, mlc.DataType.FLOAT
    kinds = dict.fromkeys(COLUMNS, text) | dict.fromkeys(["bytes", "width", "height", "faces"], integer)
    kinds |= {"scores": real, "box": real}
    columns = [
        field(
            "photos",
            column,
            meaning,
            kinds[column],
            source(file_object="photos.parquet", extract={"column": column}),
            repeated=True if column in ("scores", "box", "keys") else None,
        )
        for column, (_, meaning) in COLUMNS.items()
    ]
    photos = mlc.RecordSet(
        ctx=ctx,
        id="photos",
        name="photos",
        description="Every photograph that prep read, and its outcome.",
        key="photos/path",  # type: ignore[arg-type] # as above
        fields=columns,
    )
    metadata = mlc.Metadata(
        ctx=ctx,
        name=name,
        description=description,
        cite_as=cite_as,
        date_published="1970-01-01",  # type: ignore[arg-type] # it casts the text
        license=[licence],
        version=version,
        distribution=[
            *tars,
            *([images] if tars else []),
            file("photos.parquet", mlc.EncodingFormat.PARQUET, info.photos_sha256),
        ],
        record_sets=[*([faces] if tars else []), photos],
    )
    assert metadata.ctx.issues.report() == ""
    return metadata.to_json()


@_mlcroissant
@pytest.mark.parametrize(
    ("image_format", "photos", "name"),
    [("png", PHOTOS, None), ("jpg", VAL, "celeba-aligned"), ("webp", PHOTOS, "mnist"), ("png", PHOTOS[-1:], None)],
)
def test_croissant_equals_mlcroissants_own(
    tmp_path: Path, image_format: str, photos: list[Made], name: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    import mlcroissant as mlc

    known = known_datasets()[name] if name else None
    out = make_dataset(tmp_path / "out", photos, known=known, cards=True, format=image_format)
    ours = json_of(out / "croissant.json")
    texts = {key: ours[key] for key in ("description", "version", "name")}
    theirs = by_mlcroissant(DatasetInfo.read(out), cite_as=ours["citeAs"], licence=ours["license"], **texts)
    assert ours == theirs
    assert list(ours) == list(theirs)
    with caplog.at_level(logging.WARNING, "absl"):
        read = mlc.Dataset(str(out / "croissant.json"))
    assert read.metadata.ctx.issues.report() == ""
    assert read.metadata.to_json() == ours
    assert not caplog.records


@_mlcroissant
@pytest.mark.parametrize("image_format", ["png", "webp"])
def test_mlcroissant_reads_both_record_sets(tmp_path: Path, image_format: str, croissant_cache: None) -> None:
    import mlcroissant as mlc

    out = make_dataset(tmp_path / "out", PHOTOS, cards=True, format=image_format)
    read = mlc.Dataset(str(out / "croissant.json"))
    faces = {record["faces/key"].decode(): np.asarray(record["faces/image"]) for record in read.records("faces")}
    assert sorted(faces) == [photo.keys[0] for photo in PHOTOS[:-1]]
    assert all(np.array_equal(faces[photo.keys[0]], photo.pixels()) for photo in PHOTOS[:-1])
    rows = [{key.removeprefix("photos/"): _text(value) for key, value in row.items()} for row in read.records("photos")]
    assert rows == pq.read_table(out / "photos.parquet").to_pylist()


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value


@_mlcroissant
def test_mlcroissant_notices_an_altered_shard(tmp_path: Path, croissant_cache: None) -> None:
    import mlcroissant as mlc

    out = make_dataset(tmp_path / "out", PHOTOS, cards=True)
    shard = out / "val-000000.tar"
    shard.write_bytes(shard.read_bytes().replace(b"000006", b"000007"))
    with pytest.raises(mlc.GenerationError) as error:
        list(mlc.Dataset(str(out / "croissant.json")).records("faces"))
    assert "is not identical with the reference" in str(error.value.__cause__)

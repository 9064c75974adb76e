"""Datasets of grey faces: prep, verify, inspect and select."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facegan.config import PrepConfig, SelectConfig
from facegan.errors import DatasetError, SettingsError
from facegan.faces.crop import grey
from facegan.prep.prepare import prepare
from facegan.prep.select import select
from facegan.shards.format import DatasetInfo
from facegan.shards.images import encode_image
from facegan.shards.inspect import extract
from facegan.shards.verify import verify
from facegan.stream import FaceShards
from tests.digits import write_idx
from tests.prep.fake import write_photos
from tests.prep.outputs import digest
from tests.shards.made import Made, make_dataset, members, reseal, rewrite

DIGITS = np.random.default_rng(0).integers(0, 256, (9, 28, 28), dtype=np.uint8)
PLAIN = PrepConfig(crop="squash", detector="none", size=28, split="source", shard_size=3)
GREY = PLAIN.model_copy(update={"channels": 1})


@pytest.fixture(scope="module")
def idx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("idx")
    write_idx(folder, "train", DIGITS[:7], list(range(7)), packed=False)
    write_idx(folder, "t10k", DIGITS[7:], [7, 8], packed=True)
    return folder


@pytest.fixture(scope="module")
def out(idx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("grey") / "out"
    prepare(idx, out, GREY, workers=0)
    return out


def pixels(folder: Path, split: str = "train") -> np.ndarray:
    faces = FaceShards(folder, split=split)
    return np.stack([faces[i][0] for i in range(len(faces))])


def test_grey_pictures_keep_their_pixels(out: Path, tmp_path: Path) -> None:
    assert np.array_equal(pixels(out), DIGITS[:7, ..., None])
    assert np.array_equal(pixels(out, "test"), DIGITS[7:, ..., None])
    assert [FaceShards(out)[i][1]["label"] for i in range(7)] == list(range(7))
    assert DatasetInfo.read(out).channels == 1
    with Image.open(io.BytesIO(members(out / "train-000000.tar")["train=2F000000=2Epng.png"])) as image:
        assert (image.mode, image.size) == ("L", (28, 28))
    assert extract(out, tmp_path / "faces") == 9
    with Image.open(tmp_path / "faces/train/3/train=2F000003=2Epng.png") as image:
        assert np.array_equal(np.asarray(image), DIGITS[3])
    assert "9 faces of 28 × 28 pixels, grey, cropped from" in (out / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("image_format", ["png", "jpg", "webp"])
def test_photographs_become_their_luma(tmp_path: Path, image_format: str) -> None:
    photos = write_photos(tmp_path / "photos", 3)
    for channels in (1, 3):
        config = PrepConfig.of({**GREY.model_dump(), "split": "none", "format": image_format, "channels": channels})
        prepare(photos, tmp_path / str(channels), config, workers=0)
        assert verify(tmp_path / str(channels), deep=True).ok
    found, wanted = pixels(tmp_path / "1"), np.stack([grey(face) for face in pixels(tmp_path / "3")])
    assert found.shape == (3, 28, 28, 1)
    assert np.abs(found.astype(int) - wanted).max() <= (12 if image_format == "jpg" else 0)


def test_additions_and_repairs_stay_grey(idx: Path, out: Path, tmp_path: Path) -> None:
    prepare(idx, tmp_path / "grown", GREY, workers=0, limit=4)
    prepare(idx, tmp_path / "grown", GREY, workers=0)
    assert DatasetInfo.read(tmp_path / "grown").totals.faces == 9
    assert verify(tmp_path / "grown", deep=True).ok
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    (copy / "train-000001.tar").unlink()
    prepare(idx, copy, GREY, workers=0, repair=True)
    assert digest(copy) == digest(out)
    with pytest.raises(DatasetError, match=r"prepared with --set prep.channels=1.*--set prep.channels=3\."):
        prepare(idx, copy, PLAIN)


@pytest.mark.parametrize("image_format", ["png", "jpg", "webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_verify_finds_other_channels(tmp_path: Path, channels: int, image_format: str) -> None:
    folder = make_dataset(tmp_path / "out", [Made("a.jpg")], size=32, channels=channels, format=image_format)
    assert verify(folder, deep=True).ok
    name, files = f"a.{image_format}", members(folder / "train-000000.tar")
    shape = (32, 32, 4 - channels)
    files[name] = encode_image(np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8), image_format)
    rewrite(folder / "train-000000.tar", files)
    reseal(folder)
    if (channels, image_format) != (3, "webp"):  # WebP stores grey as three equal channels
        (problem,) = verify(folder, deep=True).problems
        assert name in problem.problem
        assert problem.problem.endswith(f"; dataset.json says {channels}.")


@pytest.mark.parametrize("channels", [2, "1", None])
def test_false_channels_are_refused(tmp_path: Path, channels: object) -> None:
    folder = make_dataset(tmp_path / "out", [Made("a.jpg")], size=28)
    record = json.loads((folder / "dataset.json").read_text())
    record["settings"]["channels"] = channels
    (folder / "dataset.json").write_text(json.dumps(record))
    with pytest.raises(DatasetError, match=r"channels is .*, not 1 or 3"):
        FaceShards(folder)
    assert not verify(folder, deep=True).ok


@pytest.mark.parametrize("size", [None, 28])
def test_select_makes_colours_grey(tmp_path: Path, size: int | None) -> None:
    coloured = make_dataset(tmp_path / "coloured", [Made("a.jpg"), Made("b.jpg")], size=32)
    plain = make_dataset(tmp_path / "plain", [Made("c.jpg")], size=32, channels=1)
    with pytest.raises(DatasetError, match=r"channels = 3, .* with channels = 1.*\n.*--set select.channels=1"):
        select([coloured, plain], tmp_path / "both")
    with pytest.raises(SettingsError, match=r"select.channels = 3: the faces of .*plain have channels = 1"):
        select([coloured, plain], tmp_path / "both", SelectConfig(channels=3))
    select([coloured, plain], tmp_path / "both", SelectConfig.of({"channels": 1, "size": size}))
    assert verify(tmp_path / "both", deep=True).ok
    assert pixels(tmp_path / "both").shape == (3, size or 32, size or 32, 1)
    if size is None:
        wanted = [*(grey(face) for face in pixels(coloured)), *pixels(plain)]
        assert np.array_equal(pixels(tmp_path / "both"), np.stack(wanted))
    select([plain], tmp_path / "copy")
    assert members(tmp_path / "copy/train-000000.tar") == members(plain / "train-000000.tar")

"""Datasets of grey faces: what prep writes, and all that is done with it afterwards."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import cv2
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
from facegan.shards.verify import verify
from facegan.stream import FaceShards
from tests.cli.run import facegan
from tests.digits import write_idx
from tests.prep.outputs import digest
from tests.shards.made import Made, make_dataset, members, reseal, rewrite

DIGITS = np.random.default_rng(0).integers(0, 256, (9, 28, 28), dtype=np.uint8)
PLAIN = {"crop": "squash", "detector": "none", "size": 28}


@pytest.fixture(scope="module")
def idx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("idx")
    write_idx(folder, "train", DIGITS[:7], list(range(7)), packed=False)
    write_idx(folder, "t10k", DIGITS[7:], [7, 8], packed=True)
    return folder


@pytest.fixture(scope="module")
def out(idx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By the command, as anybody would."""
    out = tmp_path_factory.mktemp("grey") / "out"
    settings = ["--crop", "squash", "--detector", "none", "--size", "28", "--split", "source", "--shard-size", "3"]
    done = facegan("prep", idx, out, *settings, "--set", "prep.channels=1", "--workers", "1")
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def photos(portraits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for path in sorted(portraits.iterdir())[:6]:
        shutil.copy2(path, folder)
    return folder


def pixels(folder: Path, split: str = "train") -> np.ndarray:
    faces = FaceShards(folder, split=split)
    return np.stack([faces[i][0] for i in range(len(faces))])


def test_pictures_that_are_grey_already_keep_their_bytes(out: Path) -> None:
    assert np.array_equal(pixels(out), DIGITS[:7, ..., None])
    assert np.array_equal(pixels(out, "test"), DIGITS[7:, ..., None])
    assert [FaceShards(out)[i][1]["label"] for i in range(7)] == list(range(7))
    info = DatasetInfo.read(out)
    assert (info.settings["channels"], info.channels) == (1, 1)
    for name, data in members(out / "train-000000.tar").items():
        if name.endswith(".png"):
            with Image.open(io.BytesIO(data)) as image:
                assert (image.mode, image.size) == ("L", (28, 28))


@pytest.mark.parametrize("image_format", ["png", "jpg", "webp"])
def test_photographs_become_the_luma_of_their_colours(photos: Path, tmp_path: Path, image_format: str) -> None:
    both = {"crop": "center178", "detector": "none", "size": 32, "format": image_format}
    for channels in (1, 3):
        prepare(photos, tmp_path / str(channels), PrepConfig.of({**both, "channels": channels}), workers=1)
        assert verify(tmp_path / str(channels), deep=True).problems == ()
    found, colours = pixels(tmp_path / "1"), pixels(tmp_path / "3")
    wanted = np.stack([grey(face) for face in colours])
    assert found.shape == (6, 32, 32, 1)
    assert np.abs(found.astype(int) - wanted).max() <= (12 if image_format == "jpg" else 0)
    assert np.abs(found.astype(int) - wanted).mean() < 1


def test_found_and_aligned_faces_too(photos: Path, models: Path, tmp_path: Path) -> None:
    for channels in (1, 3):
        prepare(photos, tmp_path / str(channels), PrepConfig(size=64, channels=channels), workers=1)
    colours = pixels(tmp_path / "3")
    assert len(colours) >= 5
    assert np.array_equal(pixels(tmp_path / "1"), np.stack([grey(face) for face in colours]))
    metas = [[FaceShards(tmp_path / name)[i][1] for i in range(len(colours))] for name in "13"]
    assert metas[0] == metas[1]


def test_the_same_bytes_killed_extended_and_with_more_workers(idx: Path, out: Path, tmp_path: Path) -> None:
    config = PrepConfig.of({**PLAIN, "channels": 1, "split": "source", "shard_size": 3})
    prepare(idx, tmp_path / "again", config, workers=2)
    assert digest(tmp_path / "again") == digest(out)
    prepare(idx, tmp_path / "grown", config, workers=1, limit=4)
    prepare(idx, tmp_path / "grown", config, workers=1)
    assert DatasetInfo.read(tmp_path / "grown").totals.faces == 9
    assert verify(tmp_path / "grown", deep=True).ok


def test_repair_makes_a_grey_shard_again(idx: Path, out: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    (copy / "train-000001.tar").unlink()
    config = PrepConfig.of({**PLAIN, "channels": 1, "split": "source", "shard_size": 3})
    prepare(idx, copy, config, workers=1, repair=True)
    assert digest(copy) == digest(out)


def test_other_channels_on_a_dataset_that_stands(idx: Path, out: Path) -> None:
    with pytest.raises(DatasetError, match=r"prepared with --set prep.channels=1.*--set prep.channels=3\."):
        prepare(idx, out, PrepConfig.of({**PLAIN, "split": "source", "shard_size": 3}))


def test_a_dataset_older_than_the_setting_goes_on_in_colours(photos: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    paths = sorted(photos.iterdir())
    for path in paths[:3]:
        shutil.copy2(path, few)
    config = PrepConfig.of({**PLAIN, "crop": "center178"})
    prepare(few, tmp_path / "out", config, workers=1)
    record = json.loads((tmp_path / "out/dataset.json").read_text())
    del record["settings"]["channels"]
    (tmp_path / "out/dataset.json").write_text(json.dumps(record))
    assert DatasetInfo.read(tmp_path / "out").channels == 3
    shutil.copy2(paths[3], few)
    prepare(few, tmp_path / "out", config, workers=1)
    assert verify(tmp_path / "out", deep=True).ok
    assert pixels(tmp_path / "out").shape == (4, 28, 28, 3)


@pytest.mark.parametrize("channels", [0, 2, 4, "grey"])
def test_channels_that_can_not_be(channels: object) -> None:
    with pytest.raises(SettingsError, match=rf"--channels {channels} is not available. Choose 1 or 3\."):
        PrepConfig.of({"channels": channels})


@pytest.mark.parametrize("image_format", ["png", "jpg", "webp"])
def test_verify_tells_of_colours_among_grey_faces(tmp_path: Path, image_format: str) -> None:
    folder = make_dataset(tmp_path / "out", [Made("a.jpg")], size=32, channels=1, format=image_format)
    assert verify(folder, deep=True).ok
    name, files = f"a.{image_format}", members(folder / "train-000000.tar")
    files[name] = encode_image(np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8), image_format)
    rewrite(folder / "train-000000.tar", files)
    reseal(folder)
    (problem,) = verify(folder, deep=True).problems
    assert problem.problem == f"{name} in {folder / 'train-000000.tar'} has 3 channels; dataset.json says 1."
    with pytest.raises(DatasetError, match="is not a complete grey image of 32×32 pixels"):
        FaceShards(folder)[0]


def test_verify_tells_of_grey_among_colours(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "out", [Made("a.jpg")], size=32)
    files = members(folder / "train-000000.tar")
    files["a.png"] = encode_image(np.zeros((32, 32, 1), np.uint8), "png")
    rewrite(folder / "train-000000.tar", files)
    reseal(folder)
    (problem,) = verify(folder, deep=True).problems
    assert "a.png" in problem.problem
    assert problem.problem.endswith("has 1 channel; dataset.json says 3.")


@pytest.mark.parametrize("channels", [2, "1", True, None])
def test_a_dataset_that_claims_other_channels(tmp_path: Path, channels: object) -> None:
    folder = make_dataset(tmp_path / "out", [Made("a.jpg")], size=28)
    record = json.loads((folder / "dataset.json").read_text())
    record["settings"]["channels"] = channels
    (folder / "dataset.json").write_text(json.dumps(record))
    with pytest.raises(DatasetError, match="Only 1 and 3 are valid"):
        FaceShards(folder)
    assert not verify(folder, deep=True).ok


def test_inspect_extract_and_preview(out: Path, tmp_path: Path) -> None:
    assert json.loads(facegan("inspect", out, "--json").stdout)["settings"]["channels"] == 1
    done = facegan("inspect", out, "train=2F000001=2Epng", "--plot", tmp_path / "one.png")
    assert done.returncode == 0, done.stderr
    done = facegan("inspect", out, "--extract", tmp_path / "faces", "--json")
    assert json.loads(done.stdout)["faces"] == 9
    with Image.open(tmp_path / "faces/train/3/train=2F000003=2Epng.png") as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), DIGITS[3])
    with Image.open(out / "preview.png") as preview:
        first = np.asarray(preview.convert("RGB"))[40:104, 16:80]
    enlarged = [cv2.resize(digit, (64, 64), interpolation=cv2.INTER_NEAREST) for digit in DIGITS]
    assert any((first == digit[..., None]).all() for digit in enlarged)


def test_the_cards_tell_of_it(out: Path) -> None:
    card = (out / "README.md").read_text()
    assert "| `channels` | `1` | 3: RGB; 1: grey" in card
    assert "9 faces of 28 × 28 pixels, grey, cropped from" in card
    assert "9 faces of 28 × 28 pixels, grey, cropped from" in (out / "croissant.json").read_text()


@pytest.mark.parametrize("size", [None, 28])
def test_select_makes_colours_grey_and_never_the_other_way(tmp_path: Path, size: int | None) -> None:
    coloured = make_dataset(tmp_path / "coloured", [Made("a.jpg"), Made("b.jpg")], size=32)
    plain = make_dataset(tmp_path / "plain", [Made("c.jpg")], size=32, channels=1)
    with pytest.raises(DatasetError, match=r"channels = 3, .* with channels = 1.*\n.*--set select.channels=1"):
        select([coloured, plain], tmp_path / "both")
    with pytest.raises(SettingsError, match=r"select.channels=3: the faces of .*plain are grey"):
        select([coloured, plain], tmp_path / "both", SelectConfig(channels=3))
    select([coloured, plain], tmp_path / "both", SelectConfig.of({"channels": 1, "size": size}))
    assert verify(tmp_path / "both", deep=True).problems == ()
    assert DatasetInfo.read(tmp_path / "both").channels == 1
    if size is None:
        wanted = [*(grey(face) for face in pixels(coloured)), *pixels(plain)]
        assert np.array_equal(pixels(tmp_path / "both"), np.stack(wanted))
    else:
        assert pixels(tmp_path / "both").shape == (3, 28, 28, 1)


def test_select_of_grey_alone_copies_the_bytes(tmp_path: Path) -> None:
    plain = make_dataset(tmp_path / "plain", [Made("c.jpg")], size=32, channels=1)
    select([plain], tmp_path / "new")
    assert members(tmp_path / "new/train-000000.tar") == members(plain / "train-000000.tar")
    assert DatasetInfo.read(tmp_path / "new").channels == 1


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same_bytes(idx: Path, out: Path, tmp_path: Path) -> None:
    settings = ["--crop", "squash", "--detector", "none", "--size", "28", "--split", "source", "--shard-size", "3"]
    grey_on_ray = ["--set", "prep.channels=1", "--workers", "1", "--engine", "ray"]
    done = facegan("prep", idx, tmp_path / "out", *settings, *grey_on_ray)
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "out") == digest(out)


def test_a_remote_dataset_of_grey_faces(idx: Path, out: Path) -> None:
    import fsspec

    config = PrepConfig.of({**PLAIN, "channels": 1, "split": "source", "shard_size": 3})
    prepare(idx, "memory://grey/out", config, workers=1)
    memory = fsspec.filesystem("memory")
    for name in ("train-000000.tar", "test-000000.tar", "dataset.json", "README.md"):
        assert memory.cat_file(f"/grey/out/{name}") == (out / name).read_bytes()

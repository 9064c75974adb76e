"""`inspect OUT KEY --plot`: the photograph is read from where it was, and what is drawn lies where it belongs."""

from __future__ import annotations

import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from facegan.config import PrepConfig
from facegan.console import Console
from facegan.prep.pictures.look import draw_sample
from facegan.prep.pictures.original import read_original
from facegan.prep.prepare import prepare
from facegan.shards.images import decode_image
from facegan.shards.layout import DatasetInfo
from facegan.shards.samples import find_sample
from tests.cli.run import facegan


@pytest.fixture(scope="module")
def photos(portraits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos") / "photos"
    (folder / "faces").mkdir(parents=True)
    for number in (1, 2, 3):
        shutil.copy(portraits / f"{number:06d}.jpg", folder / "faces" / f"{number}.jpg")
    return folder


@pytest.fixture(scope="module")
def out(photos: Path, tmp_path_factory: pytest.TempPathFactory, models: Path) -> Path:
    out = tmp_path_factory.mktemp("out") / "out"
    prepare(photos, out, PrepConfig(), workers=1)
    return out


@pytest.fixture(params=["folder", "tar", "zip"])
def told(request: pytest.FixtureRequest, photos: Path, out: Path, tmp_path: Path) -> Path:
    """The dataset, with a note of where its photographs lie."""
    source = tmp_path / f"photos.{request.param}"
    if request.param == "folder":
        shutil.copytree(photos, source)
    elif request.param == "tar":
        with tarfile.open(source, "w") as tar:
            tar.add(photos, "")
    else:
        with zipfile.ZipFile(source, "w") as archive:
            for path in photos.rglob("*.jpg"):
                archive.write(path, path.relative_to(photos))
    return note(shutil.copytree(out, tmp_path / "out"), source)


def note(out: Path, source: Path, root: str = "faces/") -> Path:
    (out / ".facegan" / "source.json").write_text(json.dumps({"source": str(source), "root": root}))
    return out


def test_the_original_is_read_from_where_it_lay(told: Path, photos: Path) -> None:
    assert read_original(told, "2.jpg") == (photos / "faces/2.jpg").read_bytes()
    assert read_original(told, "9.jpg") is None


def test_the_original_where_it_was_moved_to(out: Path, photos: Path, tmp_path: Path) -> None:
    data = (photos / "faces/2.jpg").read_bytes()
    for source in (photos, photos / "faces", photos.parent):
        assert read_original(out, "2.jpg", str(source)) == data
    assert read_original(out, "2.jpg", str(tmp_path)) is None
    assert read_original(out, "2.jpg", str(tmp_path / "nowhere")) is None


@pytest.mark.parametrize("told_of", ["nothing", "rubbish", "[]", '{"source": 1}', '{"source": "/nowhere", "root": ""}'])
def test_nobody_knows_where(out: Path, tmp_path: Path, told_of: str) -> None:
    copy = shutil.copytree(out, tmp_path / "out")
    if told_of == "nothing":
        shutil.rmtree(copy / ".facegan")
    else:
        (copy / ".facegan/source.json").write_text(told_of)
    assert read_original(copy, "2.jpg") is None


def test_no_path_leads_out_of_the_folder(out: Path, photos: Path, tmp_path: Path) -> None:
    copy = note(shutil.copytree(out, tmp_path / "out"), photos / "faces", root="")
    (photos / "secret.jpg").write_bytes(b"secret")
    assert read_original(copy, "../secret.jpg") is None
    (photos / "secret.jpg").unlink()


def test_the_crop_drawn_on_the_photograph_is_the_face_beside_it(out: Path, photos: Path, tmp_path: Path) -> None:
    sample = find_sample(out, DatasetInfo.read(out), "1")
    picture = draw_sample(out, sample, str(photos), Console(quiet=True))
    face = decode_image(sample.image)
    assert face is not None
    right = picture.shape[1] - 256 - 2 * 16
    assert np.array_equal(picture[16 : 16 + 256, right : right + 256], cv2.resize(face, (256, 256), interpolation=0))
    # The quadrilateral's pixels, taken from the drawn photograph, are the face but for the lines drawn over them.
    scale = 640 / max(sample.meta.width, sample.meta.height)
    margin = -np.minimum(np.floor((np.array(sample.meta.quad) * scale).min(axis=0)) - 2, 0)
    corners = (np.array(sample.meta.quad) * scale + margin + 16 - 0.5).astype(np.float32)
    matrix = cv2.getAffineTransform(
        corners[[0, 1, 3]], np.array([(0, 0), (0, 64), (64, 0)], np.float32) - np.float32(0.5)
    )
    cut = cv2.warpAffine(cv2.blur(picture, (9, 9)), matrix, (64, 64))
    difference = np.abs(cut.astype(int) - face)
    assert np.median(difference) < 6
    assert (cut[0] != face[0]).any()
    red = (picture[:, :, 0] > 220) & (picture[:, :, 1] < 90) & (picture[:, :, 2] < 90)
    assert red.sum() > 1000  # the quadrilateral's outline


def test_a_photograph_that_is_gone_or_another_one(out: Path, photos: Path, tmp_path: Path) -> None:
    plot = tmp_path / "one.png"
    copy = note(shutil.copytree(out, tmp_path / "out"), photos)
    done = facegan("inspect", copy, "1", "--plot", plot)
    assert (done.returncode, done.stderr) == (0, "")
    whole = cv2.imread(str(plot))
    assert whole is not None
    shutil.rmtree(copy / ".facegan")
    done = facegan("inspect", copy, "1", "--plot", plot)
    assert done.returncode == 0
    assert done.stderr.startswith("warning: The photograph 1.jpg is gone, or nobody knows where it lay (--source SRC")
    assert done.stderr.count("\n") == 1
    alone = cv2.imread(str(plot))
    assert alone is not None
    assert alone.shape[1] < whole.shape[1]
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(photos / "faces/2.jpg", other / "1.jpg")
    done = facegan("inspect", copy, "1", "--plot", plot, "--source", other)
    assert done.returncode == 0
    assert "1.jpg is another one now (SHA-256" in done.stderr

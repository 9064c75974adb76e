"""`inspect OUT KEY --plot`: the photograph is found again, and what is drawn on it is in the right place."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from facegan.config import PrepConfig
from facegan.console import Console
from facegan.errors import DatasetError
from facegan.prep.inspect import draw_rejected, draw_sample, read_original
from facegan.prep.prepare import prepare
from facegan.prep.preview import fitted, font, legible
from facegan.shards.format import DatasetInfo
from facegan.shards.images import decode_image
from facegan.shards.inspect import find_row, find_sample
from tests.recipes.program import facegan
from tests.recording import RecordingConsole


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
    prepare(photos, out, workers=0)
    return out


def with_origin(out: Path, copy: Path, source: Path, root: str = "faces/") -> Path:
    """A copy of the dataset that records another source."""
    shutil.copytree(out, copy)
    (copy / ".facegan" / "source.json").write_text(json.dumps({"source": str(source), "root": root}))
    return copy


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_original_is_read_from_its_source(photos: Path, out: Path, tmp_path: Path, kind: str) -> None:
    source = photos
    if kind == "tar":
        source = tmp_path / "photos.tar"
        with tarfile.open(source, "w") as tar:
            tar.add(photos, "")
    copy = with_origin(out, tmp_path / "out", source)
    assert read_original(copy, "2.jpg") == (photos / "faces/2.jpg").read_bytes()
    assert read_original(copy, "9.jpg") is None


def test_original_is_read_from_its_new_folder(out: Path, photos: Path, tmp_path: Path) -> None:
    data = (photos / "faces/2.jpg").read_bytes()
    for source in (photos, photos / "faces", photos.parent):
        assert read_original(out, "2.jpg", str(source)) == data
    assert read_original(out, "2.jpg", str(tmp_path / "nowhere")) is None


@pytest.mark.parametrize("record", [None, "rubbish", "[]", '{"source": "/nowhere", "root": ""}'])
def test_missing_origin_finds_nothing(out: Path, tmp_path: Path, record: str | None) -> None:
    copy = shutil.copytree(out, tmp_path / "out")
    if record is None:
        shutil.rmtree(copy / ".facegan")
    else:
        (copy / ".facegan/source.json").write_text(record)
    assert read_original(copy, "2.jpg") is None


def test_no_path_leads_outside(out: Path, photos: Path, tmp_path: Path) -> None:
    copy = with_origin(out, tmp_path / "out", shutil.copytree(photos / "faces", tmp_path / "faces"), root="")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    assert read_original(copy, "2.jpg") is not None
    assert read_original(copy, "../secret.jpg") is None


def test_drawn_crop_is_the_face(out: Path, photos: Path) -> None:
    sample = find_sample(out, DatasetInfo.read(out), "1")
    picture = draw_sample(out, sample, str(photos), Console(quiet=True))
    face = decode_image(sample.image)
    assert face is not None
    right = picture.shape[1] - 256 - 2 * 16
    assert np.array_equal(picture[16 : 16 + 256, right : right + 256], cv2.resize(face, (256, 256), interpolation=0))
    # The quadrilateral's pixels, taken from the drawn photograph, are the face except for the lines drawn over them.
    scale = 640 / max(sample.meta.width, sample.meta.height)
    margin = -np.minimum(np.floor((np.array(sample.meta.quad) * scale).min(axis=0)) - 2, 0)
    corners = (np.array(sample.meta.quad) * scale + margin + 16 - 0.5).astype(np.float32)
    matrix = cv2.getAffineTransform(
        corners[[0, 1, 3]], np.array([(0, 0), (0, 64), (64, 0)], np.float32) - np.float32(0.5)
    )
    cut = cv2.warpAffine(cv2.blur(picture, (9, 9)), matrix, (64, 64))
    assert np.median(np.abs(cut.astype(int) - face)) < 6
    assert (cut[0] != face[0]).any()
    red = (picture[:, :, 0] > 220) & (picture[:, :, 1] < 90) & (picture[:, :, 2] < 90)
    assert red.sum() > 1000  # the quadrilateral's outline


def test_missing_or_changed_photo_is_reported(out: Path, photos: Path, tmp_path: Path) -> None:
    sample, console = find_sample(out, DatasetInfo.read(out), "1"), RecordingConsole()
    alone = draw_sample(out, sample, str(tmp_path / "nowhere"), console)
    assert alone.shape[1] < draw_sample(out, sample, str(photos), console).shape[1]
    (tmp_path / "other").mkdir()
    shutil.copy(photos / "faces/2.jpg", tmp_path / "other" / "1.jpg")
    draw_sample(out, sample, str(tmp_path / "other"), console)
    missing, changed = console.warnings
    assert missing.startswith("The photograph 1.jpg is not in")
    assert "1.jpg has changed (its SHA-256" in changed


@pytest.fixture(scope="module")
def rejects(tmp_path_factory: pytest.TempPathFactory, models: Path) -> tuple[Path, Path]:
    """Photographs and a dataset that keeps none of them."""
    photos, out = tmp_path_factory.mktemp("rejects") / "photos", tmp_path_factory.mktemp("rejected") / "out"
    photos.mkdir()
    rows = np.mgrid[:300, :400][0]
    red = np.full((200, 200, 3), (0, 0, 255), np.uint8)
    for name, pixels in (("hills.png", np.stack([rows % 200] * 3, axis=2).astype(np.uint8)), ("Äpfel\tт 漢.png", red)):
        (photos / name).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    (photos / "torn.jpg").write_bytes(cv2.imencode(".jpg", red)[1].tobytes()[:-300])
    (photos / "none.png").write_bytes(b"no picture")
    prepare(photos, out, PrepConfig(), workers=0)
    return photos, out


def test_rejected_photo_is_drawn_with_box(rejects: tuple[Path, Path], tmp_path: Path) -> None:
    out, plot = rejects[1], tmp_path / "one.png"
    done = facegan("inspect", out, "Äpfel\tт 漢.png", "--plot", plot, "--json")
    assert (done.code, done.stderr) == (0, "")
    row = json.loads(done.stdout)
    assert (row["outcome"], row["reason"], row["faces"], row["keys"]) == ("rejected", "no_face", 0, [])
    (score,) = row["scores"]
    assert score == round(score, 3)
    assert 0 < score < 0.5
    drawn = cv2.imread(str(plot))
    assert drawn is not None
    blue = (drawn == (245, 135, 66)).all(axis=2)[:, : 16 + 640]
    ys, xs = np.nonzero(blue)
    x, y, width, height = (16 + value * 640 / 200 for value in row["box"])
    assert (xs.min(), ys.min()) == pytest.approx((max(x, 16), max(y, 16)), abs=2)
    assert (xs.max() - xs.min(), ys.max() - ys.min()) == pytest.approx((width - 16, height - 16), abs=3)


@pytest.mark.parametrize(
    ("name", "said"),
    [("torn.jpg", "cannot be decoded. It was rejected as truncated."),
     ("none.png", "cannot be decoded (unreadable). It was rejected as unreadable.")],
)  # fmt: skip
def test_undecodable_photo_is_not_drawn(rejects: tuple[Path, Path], name: str, said: str) -> None:
    with pytest.raises(DatasetError, match=re.escape(said)):
        draw_rejected(rejects[1], find_row(rejects[1], name), None, 0.5)


def test_moved_or_changed_reject_is_reported(rejects: tuple[Path, Path], tmp_path: Path) -> None:
    photos, out = rejects
    row = find_row(out, "hills.png")
    with pytest.raises(DatasetError, match=re.escape(f"hills.png is not in {tmp_path}")):
        draw_rejected(out, row, str(tmp_path), 0.5)
    shutil.copy(photos / "none.png", tmp_path / "hills.png")
    with pytest.raises(DatasetError, match=r"hills\.png has changed"):
        draw_rejected(out, row, str(tmp_path), 0.5)
    shutil.copy(photos / "hills.png", tmp_path / "hills.png")
    assert draw_rejected(out, row, str(tmp_path), 0.5).shape[2] == 3


def test_text_is_legible_and_fitted() -> None:
    assert legible("a\tb\n\u202e.jpg") == "a\\tb\\n\\u202e.jpg"
    assert legible("Äpfel Привет αβ.png") == "Äpfel Привет αβ.png"
    assert legible("漢字") == "\\u6f22\\u5b57"
    long = "Ein sehr langer Dateiname 000123.jpg"
    end, start = fitted(long, 100, 11, keep_end=True), fitted(long, 100, 11)
    assert end.startswith("…")
    assert end.endswith("000123.jpg")
    assert start.startswith("Ein sehr")
    assert font(11).getlength(start) <= 100
    assert fitted("short", 100, 11) == "short"

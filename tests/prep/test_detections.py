"""detections.parquet, and datasets made from it: byte for byte those of a fresh prep, with whatever settings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from facegan.config import SelectConfig
from facegan.errors import DatasetError, Interrupted, SettingsError
from facegan.faces.measure import perceptual_hash
from facegan.files import sha256_file
from facegan.prep.prepare import PrepResult, _clear, prepare
from facegan.prep.select import select
from facegan.shards.detections import SCHEMA, read_detections
from facegan.shards.format import sample_key
from facegan.shards.images import decode_image
from facegan.shards.verify import verify
from tests.prep.outputs import samples
from tests.recipes.program import facegan
from tests.shards.made import flip
from tests.stopping import stopped_at_line

BASE: dict[str, Any] = {"size": 64, "split": "0.7,0.3", "shard_size": 9}


@pytest.fixture(scope="module")
def photos(portraits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Portraits as they are, on their side, dark and blurred ones, two in one picture, one without a face."""
    folder = tmp_path_factory.mktemp("detections") / "photos"
    folder.mkdir()
    for number in range(1, 13):
        shutil.copy(portraits / f"{number:06d}.jpg", folder / f"{number:02d}.jpg")
    one, two, three = (Image.open(portraits / f"{number:06d}.jpg") for number in (20, 21, 22))
    one.rotate(90, expand=True).save(folder / "side.png")
    two.point(lambda value: value * 0.1).save(folder / "dim.png")
    pair = Image.new("RGB", (one.width * 2, one.height))
    pair.paste(one, (0, 0))
    pair.paste(three.resize((120, 150)), (one.width + 20, 30))
    pair.save(folder / "two.png")
    Image.new("RGB", (200, 200), (40, 90, 40)).save(folder / "none.png")
    (folder / "torn.jpg").write_bytes((portraits / "000023.jpg").read_bytes()[:3000])
    return folder


def run(photos: Path, out: Path, /, **options: Any) -> PrepResult:
    return prepare(photos, out, **{**BASE, "workers": 0, **options})


@pytest.fixture(scope="module")
def out(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run(photos, out := tmp_path_factory.mktemp("detected") / "out")
    return out


def files(out: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in out.iterdir() if path.is_file()}


def rows(out: Path) -> list[dict[str, Any]]:
    return [row for batch in read_detections(out / "detections.parquet") for row in batch.to_pylist()]


def test_each_face_has_a_row(out: Path) -> None:
    found = rows(out)
    by_path = {row["path"]: row for row in found}
    assert {"01.jpg", "dim.png", "two.png"} <= by_path.keys()
    assert "torn.jpg" not in by_path
    assert [row["index"] for row in found if row["path"] == "two.png"] == [0, 1]
    assert min(row["score"] for row in found) >= 0.1
    made = {meta["path"]: meta for shard in out.glob("*.tar") for _, meta in samples(shard)}
    for row in (row for row in found if row["key"]):
        meta = made[row["path"]]
        assert row["key"] == sample_key(row["path"].encode())
        assert row["box"] == meta["box"]
        assert row["keypoints"] == [value for point in meta["keypoints"] for value in point]
        assert row["score"] == meta["score"]
        assert row["side"] == pytest.approx(np.hypot(*np.subtract(meta["quad"][3], meta["quad"][0])), abs=1e-3)
    assert verify(out, deep=True).ok


def test_measures_are_those_of_the_face(out: Path, tmp_path: Path) -> None:
    assert facegan("inspect", out, "--extract", tmp_path / "faces").code == 0
    by_key = {row["key"]: row for row in rows(out)}
    for path in (tmp_path / "faces").rglob("*.png"):
        pixels = decode_image(path.read_bytes())
        assert pixels is not None
        grey = np.round(pixels @ np.array([0.299, 0.587, 0.114]))
        assert by_key[path.stem]["brightness"] == pytest.approx(grey.mean(), abs=0.05)
        assert (by_key[path.stem]["hash"] ^ perceptual_hash(grey.astype(np.uint8))).bit_count() <= 1


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"crop": "box", "size": 32, "format": "jpg"},
        {"min_score": 0.8, "max_outside": 0.05},
        {"min_score": 0.2},
        {"min_score": 0.2, "faces": "all"},
        {"faces": "only", "margin": 1.1, "channels": 1},
        {"rotate": "auto", "shard_size": 4},
        {"min_sharpness": 60, "min_brightness": 90, "max_yaw": 10, "min_face": 60},
        {"crop": "squash", "split": "none"},
    ],
)
def test_known_detections_give_same_bytes(photos: Path, out: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    fresh = run(photos, tmp_path / "fresh", **settings)
    again = run(photos, tmp_path / "again", detections=out, **settings)
    assert files(tmp_path / "again") == files(tmp_path / "fresh")
    assert (again.kept, again.rejected) == (fresh.kept, fresh.rejected)
    # And the other way round: what was found with these settings serves the first ones.
    run(photos, tmp_path / "back", detections=tmp_path / "again")
    assert files(tmp_path / "back") == files(out)


def test_nothing_is_detected_again(photos: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a photograph was looked at again")

    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "none.png").unlink()
    monkeypatch.setattr("facegan.faces.detect.MediaPipeDetector.load", refuse)
    assert run(tmp_path / "photos", tmp_path / "new", detections=out, crop="box").rejected.keys() == {"truncated"}


def test_changed_photo_is_detected(photos: Path, out: Path, portraits: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    shutil.copy(portraits / "000030.jpg", tmp_path / "photos" / "03.jpg")
    run(tmp_path / "photos", tmp_path / "again", detections=out)
    run(tmp_path / "photos", tmp_path / "fresh")
    assert files(tmp_path / "again") == files(tmp_path / "fresh")


def test_dataset_is_prepared_again_from_itself(photos: Path, out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "out")
    run(photos, tmp_path / "out", detections=tmp_path / "out", force=True, crop="box")
    run(photos, tmp_path / "fresh", crop="box")
    assert files(tmp_path / "out") == files(tmp_path / "fresh")
    assert not (tmp_path / "out" / ".facegan" / "detections").exists()


def test_addition_keeps_detections(photos: Path, out: Path, tmp_path: Path) -> None:
    few = tmp_path / "photos"
    shutil.copytree(photos, few, ignore=lambda _, names: [name for name in names if name > "06.jpg"])
    run(few, tmp_path / "out", split="none")
    shutil.copytree(photos, few, dirs_exist_ok=True)
    run(few, tmp_path / "out", split="none")
    of_photo = {(row["path"], row["index"]): row for row in rows(out)}
    assert {(row["path"], row["index"]): row for row in rows(tmp_path / "out")} == of_photo
    paths = [row["path"] for row in rows(tmp_path / "out")]
    assert paths[:6] == [f"{number:02d}.jpg" for number in range(1, 7)]


@pytest.mark.parametrize("name", ["cpu", "mediapipe", "models"])
def test_detections_of_other_origin_are_refused(photos: Path, out: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(out, old := tmp_path / "old")
    table = pq.read_table(old / "detections.parquet")
    (origin,) = json.loads(table.schema.metadata[b"facegan"])
    origin[name] = ["00"] if name == "models" else "another"
    pq.write_table(table.replace_schema_metadata({b"facegan": json.dumps([origin])}), old / "detections.parquet")
    info = json.loads((old / "dataset.json").read_text())
    info["detections_sha256"] = sha256_file(old / "detections.parquet")
    (old / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(DatasetError, match=rf"with {name} (another|00); now it is .*\n.*without|Leave out"):
        run(photos, tmp_path / "new", detections=old)
    assert not (tmp_path / "new" / "dataset.json").exists()


def test_useless_detections_are_refused(photos: Path, out: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "fixed", detector="none", crop="squash")
    assert not (tmp_path / "fixed" / "detections.parquet").exists()
    with pytest.raises(DatasetError, match="were not detected"):
        run(photos, tmp_path / "new", detections=tmp_path / "fixed")
    with pytest.raises(SettingsError, match="no use with --detector none"):
        run(photos, tmp_path / "new", detections=out, detector="none", crop="squash")
    with pytest.raises(SettingsError, match="folder of this machine"):
        run(photos, tmp_path / "new", detections="s3://bucket/out")
    with pytest.raises(DatasetError, match="with detector mediapipe;"):
        run(photos, tmp_path / "new", detections=out, detector="mediapipe-short")


def test_altered_detections_are_found(photos: Path, out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, damaged := tmp_path / "damaged")
    flip(damaged / "detections.parquet", -3000)
    assert ["detections.parquet" in problem.problem for problem in verify(damaged).problems] == [True]
    for use in (lambda: run(photos, tmp_path / "new", detections=damaged), lambda: select([damaged], tmp_path / "few")):
        with pytest.raises(DatasetError, match=r"detections\.parquet was altered"):
            use()
    (damaged / "detections.parquet").unlink()
    assert not verify(damaged).ok
    with pytest.raises(DatasetError, match=r"detections\.parquet is missing.*\n.*\n.*--force"):
        run(photos, damaged)


def test_select_by_measures(out: Path, tmp_path: Path) -> None:
    sharp = sorted(row["sharpness"] for row in rows(out) if row["key"])[-4]
    result = select([out], tmp_path / "sharp", SelectConfig(where=f"sharpness >= {sharp} AND abs(yaw) < 90"))
    assert result.samples == 4
    taken = rows(tmp_path / "sharp")
    assert {row["path"] for row in taken} == {
        row["path"] for row in rows(out) if row["key"] and row["sharpness"] >= sharp
    }
    assert verify(tmp_path / "sharp", deep=True).ok
    assert pq.read_schema(tmp_path / "sharp" / "detections.parquet").equals(SCHEMA)


def test_inspect_shows_measures(out: Path) -> None:
    shown = json.loads(facegan("inspect", out, "--json").stdout)["histograms"]
    assert {"scores", "face_sizes", "sharpness", "brightness", "contrast", "yaw", "pitch", "roll"} <= shown.keys()
    assert sum(shown["yaw"]["counts"]) == len([row for row in rows(out) if row["key"]])


@pytest.mark.parametrize("deleted", [[], ["detections.parquet", "train-000000.tar"]])
def test_killed_rerun_needs_no_detector(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deleted: list[str]
) -> None:
    few, out = tmp_path / "photos", tmp_path / "out"
    shutil.copytree(photos, few, ignore=lambda _, names: [name for name in names if name > "03.jpg"])
    run(few, out)
    run(few, tmp_path / "fresh", crop="box")
    with stopped_at_line(_clear, 9), pytest.raises(Interrupted):  # after its first deletions
        run(few, out, detections=out, force=True, crop="box")
    assert not (out / "dataset.json").exists()
    for name in deleted:  # as by a kill a little later
        (out / name).unlink(missing_ok=True)
    monkeypatch.setattr("facegan.faces.detect.MediaPipeDetector.load", None)  # it must not be called
    run(few, out, detections=out, force=True, crop="box")
    assert files(out) == files(tmp_path / "fresh")

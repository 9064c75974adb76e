"""`select`: which faces are taken, how they are copied, and which conditions are refused."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from facegan.config import SelectConfig
from facegan.errors import DatasetError, FaceganError, SettingsError
from facegan.prep.select import plan_select, select
from facegan.shards.format import DatasetInfo
from facegan.shards.images import decode_image
from facegan.shards.inspect import extract
from facegan.shards.query import Where
from facegan.shards.verify import verify
from tests.recipes.program import facegan
from tests.shards.made import Made, flip, make_dataset, members

PHOTOS = [
    *(Made(f"{i:02d}.jpg", scores=[0.5 + i / 20], width=170 + i) for i in range(10)),
    Made("none.jpg", scores=[], reason="no_face"),
    Made("two.jpg", scores=[0.8, 0.55]),
    Made("v1.jpg", scores=[0.95], split="val"),
    Made("v2.jpg", scores=[0.6], split="val"),
]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("made") / "out", PHOTOS, size=64)


def keys(folder: Path, split: str = "train") -> list[str]:
    info = DatasetInfo.read(folder)
    names = [name for entry in info.split_shards(split) for name in members(folder / entry.name)]
    return [name.removesuffix(".png") for name in names if name.endswith(".png")]


def selected(outs: list[Path], new: Path, **settings: Any) -> list[str]:
    """The keys taken, split by split, of a dataset that `verify` accepts."""
    result = select(outs, new, SelectConfig.of(settings))
    found = verify(new, deep=True)
    assert found.problems == ()
    assert (result.samples, result.shards, result.out) == (found.samples, found.shards, str(new))
    planned = plan_select(outs, new.with_name("elsewhere"), SelectConfig.of(settings))
    assert (planned.samples, planned.photos) == (result.samples, result.photos)
    return [key for split in ("train", "val", "test") for key in keys(new, split)]


@pytest.mark.parametrize(
    ("settings", "taken"),
    [
        ({}, ["00", "01", "02", "03", "04", "05", "06", "07", "08", "09", "two", "two=f1", "v1", "v2"]),
        ({"where": "score >= 0.8"}, ["06", "07", "08", "09", "two", "v1"]),  # exactly 0.8, not its float32
        ({"where": "score = 0.55"}, ["01", "two=f1"]),
        ({"where": "key LIKE 'v%' -- only these"}, ["v1", "v2"]),
        ({"where": "len(scores) > 1 or path = '03.jpg'"}, ["03", "two", "two=f1"]),
        ({"where": "bytes >= 1000", "limit": 3}, ["00", "01", "02"]),
        ({"limit": 11}, ["00", "01", "02", "03", "04", "05", "06", "07", "08", "09", "two"]),
        ({"split": "val,train", "where": "score < 0.61"}, ["00", "01", "02", "two=f1", "v2"]),
    ],
)
def test_matching_faces_are_taken(out: Path, tmp_path: Path, settings: dict[str, Any], taken: list[str]) -> None:
    assert selected([out], tmp_path / "new", **settings) == taken


def test_samples_are_copied_byte_for_byte(out: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    selected([out], new, where="score > 0.6")
    before, after = ({}, {})
    for folder, files in ((out, before), (new, after)):
        for shard in folder.glob("*.tar"):
            files.update(members(shard))
    assert after == {name: before[name] for name in after}
    table = pq.read_table(new / "photos.parquet").to_pylist()
    assert [row["path"] for row in table if row["keys"] == ["two"]] == ["two.jpg"]
    info = DatasetInfo.read(new)
    assert max(entry.samples for entry in info.shards) == 4
    assert info.totals.model_dump() == {
        "photos": 9, "kept": 9, "rejected": {}, "ignored": {}, "faces": 9, "bytes": info.totals.bytes,
    }  # fmt: skip
    assert info.settings["selected"] == {
        "where": "score > 0.6", "limit": None, "splits": [], "from": [DatasetInfo.read(out).fingerprint],
    }  # fmt: skip
    assert new.stat().st_mode & 0o777 == out.stat().st_mode & 0o777


def test_selection_is_reproducible_and_selectable(out: Path, tmp_path: Path) -> None:
    files = []
    for new in (tmp_path / "a", tmp_path / "b"):
        select([out], new, SelectConfig(where="score > 0.6"))
        files.append({path.name: path.read_bytes() for path in new.iterdir() if path.is_file()})
    assert files[0] == files[1]
    assert selected([tmp_path / "a"], tmp_path / "c", where="score > 0.8") == ["07", "08", "09", "v1"]


def test_smaller_size_averages_faces(out: Path, tmp_path: Path) -> None:
    assert selected([out], tmp_path / "new", size=32, limit=2) == ["00", "01"]
    large, small = members(out / "train-000000.tar"), members(tmp_path / "new/train-000000.tar")
    assert small["00.json"] == large["00.json"]
    before, after = decode_image(large["00.png"]), decode_image(small["00.png"])
    assert before is not None
    assert after is not None
    averages = before.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.abs(after - averages).max() <= 0.5
    with pytest.raises(SettingsError, match=r"select.size = 128: the faces of .* have size = 64"):
        select([out], tmp_path / "large", SelectConfig(size=128))
    assert not (tmp_path / "large").exists()


def test_common_photos_are_taken_once(out: Path, tmp_path: Path) -> None:
    other = make_dataset(tmp_path / "other", [Made("z.jpg", scores=[0.7]), Made("05.jpg", scores=[0.75], width=175)])
    # 05.jpg is the same photograph with the same face in both.
    assert selected([out, other], tmp_path / "new", where="score between 0.7 and 0.76") == ["04", "05", "z"]
    assert selected([other, out], tmp_path / "turned", where="score between 0.7 and 0.76") == ["z", "05", "04"]


def test_different_datasets_are_refused(out: Path, tmp_path: Path) -> None:
    box = make_dataset(tmp_path / "box", [Made("z.jpg")], crop="box")
    with pytest.raises(DatasetError, match=r"crop = aligned.*box with crop = box"):
        select([out, box], tmp_path / "new")
    small = make_dataset(tmp_path / "small", [Made("z.jpg")], size=32)
    with pytest.raises(DatasetError, match=r"size = 64.*size = 32.*\n.*--size"):
        select([out, small], tmp_path / "new")
    assert selected([out, small], tmp_path / "both", size=32, where="score >= 0.9") == ["08", "09", "z", "v1"]
    clash = make_dataset(tmp_path / "clash", [Made("05.jpg", look=1)])
    with pytest.raises(DatasetError, match=r"different samples 05 \(of 05.jpg\)"):
        select([out, clash], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_empty_selections_are_refused(out: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="No face matches --where score > 2"):
        select([out], tmp_path / "new", SelectConfig(where="score > 2"))
    with pytest.raises(DatasetError, match=r"no split 'test'.*train or val"):
        select([out], tmp_path / "new", SelectConfig(split="test"))
    with pytest.raises(SettingsError, match="there is no 'trian'"):
        SelectConfig.of({"split": "trian"})
    assert list(tmp_path.iterdir()) == []


def test_new_folder_must_be_empty(out: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert selected([out], tmp_path / "new", limit=1) == ["00"]  # an empty one is filled
    with pytest.raises(FaceganError, match="not empty"):
        select([out], tmp_path / "new")
    with pytest.raises(FaceganError, match="not empty"):
        plan_select([out], out)


def test_damaged_dataset_is_refused(out: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(out, tmp_path / "copy")
    (copy / "train-000001.tar").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"train-000001.tar(.|\n)*facegan verify"):
        select([copy], tmp_path / "new")
    (copy / "photos.parquet").unlink()
    with pytest.raises(DatasetError, match=r"photos.parquet is missing"):
        select([copy], tmp_path / "new")
    assert list(tmp_path.iterdir()) == [copy]


@pytest.mark.parametrize(
    ("name", "at"), [("train-000000.tar", 700), ("train-000002.tar", -1), ("val-000000.tar", 0), ("photos.parquet", 99)]
)
def test_flipped_bits_are_found(out: Path, tmp_path: Path, name: str, at: int) -> None:
    copy = shutil.copytree(out, tmp_path / "copy")
    flip(copy / name, at)
    for where in ("", "score > 0.6"):
        with pytest.raises(DatasetError, match=rf"copy/{name} was altered: its SHA-256 .*\n.*facegan verify .*copy$"):
            select([out, copy], tmp_path / "new", SelectConfig(where=where))
    with pytest.raises(DatasetError, match=rf"copy/{name} was altered"):
        extract(copy, tmp_path / "new") if name.endswith(".tar") else plan_select([copy], tmp_path / "new")
    assert list(tmp_path.iterdir()) == [copy]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scor > 0.8", 'Referenced column "scor" not found.*\nThe columns are key, face, score, side, .*, path'),
        ("score", "is DOUBLE, but must be true or false"),
        ("true; DROP TABLE samples", "more than one statement"),
        ("true ORDER BY key", "not an expression list"),
        ("score > ?", "parameters"),
        ("COLUMNS(*) IS NULL", "without SELECT or *"),
        ("__number = 3", 'column "__number" not found'),
        ("(SELECT count(*) FROM '/etc/passwd') > 0", "without SELECT"),
        ("read_text('/etc/passwd') IS NULL", "columns are"),
        ("random() < 0.5", "random changes from run to run"),
        ("row_number() OVER () = 1", "window"),
        ("max(score) > 0.5", "aggregates"),
        ("\udcff", "is not an expression"),
        ("NOT " * 5000 + "true", "--where"),
    ],
)
def test_invalid_conditions_are_refused(text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Where(text)


def test_select_command(out: Path, tmp_path: Path) -> None:
    dry = facegan("select", out, tmp_path / "new", "--where", "score > 0.8", "--dry-run")
    assert (dry.code, dry.stdout) == (0, f"4 faces of 4 photographs would be written to {tmp_path / 'new'}\n")
    assert not (tmp_path / "new").exists()
    wrong = facegan("select", out, tmp_path / "new", "--where", "scor > 0.8")
    assert (wrong.code, wrong.stdout) == (2, "")
    assert "columns are key, face, score" in wrong.stderr


def test_killed_select_leaves_no_dataset(out: Path, tmp_path: Path) -> None:
    """It is killed after the last shard, before the preview; the next run deletes its files."""
    new = tmp_path / "new"
    script = (
        "import os, signal, sys\nfrom facegan.prep import select as module\n"
        "module.draw_preview = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "module.select([sys.argv[1]], sys.argv[2])"
    )
    process = subprocess.run([sys.executable, "-c", script, str(out), str(new)], check=False)
    assert process.returncode == -signal.SIGKILL
    left = list(tmp_path.iterdir())
    assert len(left) == 1
    assert left[0].name.startswith(".new.")
    assert selected([out], new, limit=1) == ["00"]
    assert list(tmp_path.iterdir()) == [new]

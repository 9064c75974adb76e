"""`prepare`: every photograph accounted for, the same bytes each way, additions, repair, force, and its errors."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from facegan import FaceShards
from facegan.config import PrepConfig
from facegan.config.resources import PhotosConfig
from facegan.errors import DatasetError, DiskError, FaceganError, ModelError, SettingsError, SourceError
from facegan.prep.chunk import Thumbnail
from facegan.prep.prepare import plan_prepare, prepare, run_prepare
from facegan.prep.preview import picture_bytes, read_rejects, with_rejects
from facegan.prep.request import PrepareRequest
from facegan.shards.format import DatasetInfo
from facegan.shards.verify import verify
from tests.prep.fake import TINY, photo, write_photos
from tests.prep.outputs import digest, rows
from tests.shards.made import flip


def test_every_photograph_is_accounted_for(portraits: Path, tmp_path: Path, models: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    shutil.copy(portraits / "000001.jpg", photos)
    (photos / "000002.jpg").write_bytes((portraits / "000002.jpg").read_bytes()[:3000])
    (photos / "000003.jpg").write_text("not a photograph")
    (photos / "notes.txt").write_text("x")
    config = PrepConfig(min_score=0.0, faces="all")  # the lowest score must not crash
    result = prepare(photos, out, config, workers=0)
    assert (result.photos, result.kept, result.rejected) == (3, 1, {"truncated": 1, "unreadable": 1})
    assert result.ignored == {".txt": 1}
    assert [(row["path"], row["outcome"], row["reason"], row["shard"]) for row in rows(out)] == [
        ("000001.jpg", "kept", "", "train-000000.tar"),
        ("000002.jpg", "rejected", "truncated", ""),
        ("000003.jpg", "rejected", "unreadable", ""),
    ]
    assert verify(out).ok


def test_workers_and_archives_give_same_bytes(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 9)
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(photos, "some/where")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted(photos.iterdir(), reverse=True):
            archive.write(path, f"else/{path.name}")
    prepare(photos, tmp_path / "out", TINY, workers=0)
    for source, workers in ((tmp_path / "photos.tar", 1), (tmp_path / "photos.zip", 0)):
        prepare(source, tmp_path / f"out-{source.name}", TINY, workers=workers)
        assert digest(tmp_path / f"out-{source.name}") == digest(tmp_path / "out")


def test_eyes_match_the_crop_formula(dataset: Path) -> None:
    """The true eyes of 20 portraits, carried through the quadrilateral, against FFHQ's formula.

    For a symmetric face whose eyes are 1 apart and m = (0, d) above the mouth, half a side is h = max(2, 1.8·d) and the
    centre 0.1·d below the eyes: they belong at (½ ± 1/4h, ½ − d/20h). A crooked mouth turns the crop about its centre
    by the angle of e − rot90(m).
    """
    from facegan.demo import draw_portrait

    faces, errors = FaceShards(dataset), []
    for i in range(20):
        meta = faces[i][1]
        truth = draw_portrait(0, int(Path(meta["path"]).stem) - 1).keypoints
        left, right, _, mouth = (complex(x, y) for x, y in truth)
        e, m = right - left, mouth - (left + right) / 2
        axis = e - 1j * m  # rot90 is a multiplication by i
        axis *= max(2 * abs(e), 1.8 * abs(m)) / abs(axis)
        quad = np.array(meta["quad"])
        axes = np.stack([quad[3] - quad[0], quad[1] - quad[0]], axis=1)
        for eye in (left, right):
            expected = (eye - ((left + right) / 2 + 0.1 * m)) / axis / 2 + (0.5 + 0.5j)
            found = np.linalg.solve(axes, np.array((eye.real, eye.imag)) - quad[0])
            errors.append(abs(complex(*found) - expected) * 64)
    assert max(errors) <= 1.5


def test_second_run_changes_nothing(dataset_copy: Path, portraits: Path) -> None:
    before = digest(dataset_copy)
    result = prepare(portraits, dataset_copy, shard_size=20)  # a setting by name
    assert digest(dataset_copy) == before
    assert (result.photos, result.kept, result.photos_per_second) == (60, 60, 0.0)
    names = "photos kept rejected ignored faces shards bytes seconds work_seconds photos_per_second"
    assert list(result.to_json()) == [*names.split(), "engine", "nodes", "workers", "out", "preflight", "lists"]


@pytest.mark.parametrize(
    ("options", "said"),
    [({"sise": 32}, "no option sise. Did you mean 'size'"), ({"size": 30}, "--size 30"),
     ({"repair": True, "force": True}, "--repair and --force")],
)  # fmt: skip
def test_wrong_options_are_refused(tmp_path: Path, options: dict, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        prepare(tmp_path, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_additions_go_into_new_shards(tmp_path: Path) -> None:
    """Earlier shards stay, and rejects are drawn again, even if .facegan was deleted meanwhile."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(8):
        (photos / f"{i}.jpg").write_bytes(b"broken" if i % 3 == 0 else photo(seed=i)[: 900 if i % 3 == 1 else None])
    before = {}
    for name in ("kept", "deleted"):
        prepare(photos, tmp_path / name, TINY, limit=5, workers=0)
        before = digest(tmp_path / name)
    shutil.rmtree(tmp_path / "deleted" / ".facegan")
    for name in ("kept", "deleted"):
        assert prepare(photos, tmp_path / name, TINY, workers=0).rejected == {"truncated": 3, "unreadable": 3}
    after = digest(tmp_path / "kept")
    assert digest(tmp_path / "deleted") == after
    changed = {name for name in before if after[name] != before[name]}
    assert not any(name.endswith(".tar") for name in changed)
    assert "preview.png" in changed
    assert [row["path"] for row in rows(tmp_path / "kept")] == [f"{i}.jpg" for i in range(8)]
    assert verify(tmp_path / "kept").ok


def test_a_dataset_as_source(tmp_path: Path) -> None:
    """A shard is a source if it is whole, the folder with its preview.png is none."""
    out, photos = tmp_path / "out", write_photos(tmp_path / "photos", 6)
    prepare(photos, out, TINY, workers=0)
    with pytest.raises(SourceError, match=r"out is a dataset that facegan wrote, .*\n.* facegan select .*out NEW"):
        prepare(out, tmp_path / "again", TINY, workers=0)
    shard = out / "train-000000.tar"
    assert prepare(shard, tmp_path / "whole", TINY, workers=0).photos > 0
    flip(shard, 700)
    for source in (shard, out / "train-{000000..000001}.tar"):
        with pytest.raises(DatasetError, match=r"train-000000.tar was altered: .*\n.*facegan verify"):
            prepare(source, tmp_path / "damaged", TINY, workers=0)
    assert not (tmp_path / "damaged" / "dataset.json").exists()
    (out / "dataset.json").write_text("{}")  # of another program
    assert prepare(out, tmp_path / "pictures", TINY, workers=0).photos == 1


def test_addition_refuses_damaged_dataset(tmp_path: Path) -> None:
    """Nothing is written; after a repair the same command adds its photographs."""
    photos, out = write_photos(tmp_path / "photos", 6), tmp_path / "out"
    prepare(photos, out, TINY, limit=4, workers=0)
    whole = digest(out)
    for name, said in (
        ("photos.parquet", r"was altered: its SHA-256 .*\n.*facegan verify .*\n.*--force"),
        ("train-000001.tar", r"was altered: its SHA-256 .*\n.*facegan verify .*\n.*--repair"),
    ):
        flip(out / name, 700)
        damaged = digest(out)
        with pytest.raises(DatasetError, match=f"{name} {said}"):
            prepare(photos, out, TINY, workers=0)
        assert digest(out) == damaged
        flip(out / name, 700)
    (out / "train-000000.tar").unlink()
    with pytest.raises(DatasetError, match=r"(?s)train-000000.tar is missing.*facegan verify .*--repair"):
        plan_prepare(PrepareRequest(photos, out, TINY))
    prepare(photos, out, TINY, workers=0, repair=True)
    assert digest(out) == whole
    assert prepare(photos, out, TINY, workers=0).photos == 6
    assert verify(out, deep=True).ok


def test_damaged_rejects_of_preview_are_ignored(tmp_path: Path) -> None:
    picture, reject = tmp_path / "preview.png", Thumbnail("a.jpg", "unreadable", "")
    picture.write_bytes(with_rejects(picture_bytes(np.zeros((2, 2, 3), np.uint8)), [(3, reject)]))
    assert read_rejects(picture) == [(3, reject)]
    flip(picture, picture.read_bytes().index(b"a.jpg"))
    assert read_rejects(picture) == []


def test_missing_photo_stays_changed_is_refused(tmp_path: Path) -> None:
    photos, out = write_photos(tmp_path / "photos", 3), tmp_path / "out"
    prepare(photos, out, TINY, workers=0)
    (photos / "01.jpg").unlink()
    assert prepare(photos, out, TINY, workers=0).photos == 3
    (photos / "02.jpg").write_bytes(photo(90, 90))
    with pytest.raises(DatasetError, match=r"02\.jpg has changed"):
        prepare(photos, out, TINY, workers=0)
    prepare(photos, out, TINY, workers=0, force=True)
    assert [row["bytes"] for row in rows(out)] == [path.stat().st_size for path in sorted(photos.iterdir())]


@pytest.mark.parametrize(("good", "shards"), [(2, ["train-000000.tar"]), (0, [])])
def test_empty_chunks_leave_no_gap(tmp_path: Path, good: int, shards: list[str]) -> None:
    photos = write_photos(tmp_path / "photos", 2 + good)
    for i in range(2):
        (photos / f"0{i}.jpg").write_bytes(b"broken")
    result = prepare(photos, tmp_path / "out", TINY, workers=0)
    assert (result.photos, result.kept) == (2 + good, good)
    assert [entry.name for entry in DatasetInfo.read(tmp_path / "out").shards] == shards
    assert verify(tmp_path / "out").ok


def test_other_settings_need_force(tmp_path: Path) -> None:
    photos, out = write_photos(tmp_path / "photos", 6), tmp_path / "out"
    prepare(photos, out, TINY, workers=0)
    other, before = TINY.model_copy(update={"size": 32}), digest(out)
    with pytest.raises(DatasetError, match=r"prepared with --size 28.*--size 32.*\n.*--force"):
        prepare(photos, out, other, workers=0)
    assert digest(out) == before
    prepare(photos, out, other, limit=2, force=True, workers=0)
    assert (DatasetInfo.read(out).settings["size"], len(list(out.glob("*.tar")))) == (32, 1)
    (out / "dataset.json").unlink()
    (out / "train-000007.tar").write_bytes(b"of a deleted dataset")
    prepare(photos, out, other, limit=2, force=True, workers=0)
    assert [path.name for path in out.glob("*.tar")] == ["train-000000.tar"]
    assert verify(out).ok


@pytest.mark.parametrize(
    ("file", "data"),
    [("photos.parquet", b"damaged"), ("dataset.json", b"damaged"),
     (".facegan/journal.json", b'{"files": {"dataset.json": "../victim.txt"}, "remove": [], "clear": "chunks"}'),
     (".facegan/journal.json", b'{"files": {}, "remove": ["../victim.txt"], "clear": "chunks"}')],
)  # fmt: skip
def test_force_replaces_damaged_dataset(tmp_path: Path, file: str, data: bytes) -> None:
    """A journal from elsewhere moves nothing outside of the folder."""
    photos, out, victim = write_photos(tmp_path / "photos", 4), tmp_path / "out", tmp_path / "victim.txt"
    victim.write_text("precious")
    prepare(photos, out, TINY, workers=0)
    fresh = digest(out)
    (out / file).write_bytes(data)
    with pytest.raises(DatasetError, match="--force"):
        prepare(photos, out, TINY, workers=0)
    prepare(photos, out, TINY, workers=0, force=True)
    assert digest(out) == fresh
    assert victim.read_text() == "precious"


def test_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    photos, out = write_photos(tmp_path / "photos", 1), tmp_path / "out"
    out.mkdir()
    (out / "thesis.doc").write_text("precious")
    for run in (run_prepare, plan_prepare):
        with pytest.raises(DatasetError, match="is not empty"):
            run(PrepareRequest(photos, out, TINY, PhotosConfig(workers="0"), force=True))
    assert [path.name for path in out.iterdir()] == ["thesis.doc"]


def test_second_run_names_the_first(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / ".facegan").mkdir(parents=True)
    (tmp_path / "empty").mkdir()  # photographs are not even listed: that may take minutes
    with FileLock(out / ".facegan" / "lock"):
        (out / ".facegan" / "lock").write_text("process 77 on elsewhere")
        with pytest.raises(FaceganError, match=r"Another facegan prep is writing.*process 77 on elsewhere"):
            prepare(tmp_path / "empty", out, TINY, workers=0)


def test_invalid_models_are_refused(
    portraits: Path, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, own = tmp_path / "out", tmp_path / "own.tflite"
    own.write_text("not a model")
    with pytest.raises(ModelError, match=r"own\.tflite"):
        prepare(portraits, out, model=own, workers=0)
    fake = tmp_path / "models" / "face_detection_short_range.tflite"
    fake.parent.mkdir()
    fake.write_bytes(b"altered")
    wrong = hashlib.sha256(b"altered").hexdigest()
    right = "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8"
    with pytest.raises(ModelError, match=wrong):
        prepare(portraits, out, model=fake)
    monkeypatch.setenv("FACEGAN_MODELS", str(fake.parent))
    with pytest.raises(ModelError, match=f"{wrong}(.|\n)*{right}"):
        prepare(portraits, out)
    assert not (out / "dataset.json").exists()


def test_unwritable_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=r"/proc/facegan-test"):
        prepare(write_photos(tmp_path / "photos", 1), "/proc/facegan-test/out", TINY, workers=0)


def test_cards_follow_the_dataset(tmp_path: Path) -> None:
    """They are rewritten by an addition, keep the terms of CelebA, and are replaced by --force."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for i in range(5):
        (photos / f"{170_000 + i:06d}.jpg").write_bytes(photo(178, 218, seed=i))
    prepare(photos, out, TINY, workers=0, limit=4)
    prepare(photos, out, TINY, workers=0)
    assert DatasetInfo.read(out).data_set == "celeba-aligned"
    assert "5 of 202,599 photographs" in (out / "README.md").read_text(encoding="utf-8")
    index = json.loads((out / "index-train.json").read_bytes())
    assert sum(shard["nsamples"] for shard in index["shardlist"]) == 5
    assert json.loads((out / "_info.json").read_bytes())["splits"]["train"]["num_samples"] == 5
    (out / "index-val.json").write_text("stale")
    (out / "notes.md").write_text("mine")
    prepare(write_photos(tmp_path / "other", 2), out, TINY, force=True, workers=0)
    names = {path.name for path in out.iterdir()} - {"dataset.json", "photos.parquet", "preview.png", ".facegan"}
    assert names == {"README.md", "croissant.json", "_info.json", "index-train.json", "train-000000.tar", "notes.md"}
    assert "license: unknown" in (out / "README.md").read_text(encoding="utf-8")

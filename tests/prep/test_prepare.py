"""`prepare` as its users see it: real detector, real processes, kills and second starts."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from facegan.config import PrepConfig
from facegan.errors import DatasetError, DiskError, FaceganError, ModelError, SourceError
from facegan.prep.chunk import Thumbnail
from facegan.prep.prepare import plan_prepare, prepare
from facegan.prep.preview import read_rejects, with_rejects
from facegan.prep.request import PrepareRequest
from facegan.shards.format import DatasetInfo
from facegan.shards.verify import verify
from tests.faces.supersample import psnr, supersampled
from tests.prep.fake import photo
from tests.prep.outputs import digest, rows
from tests.shards.made import flip

CONFIG = PrepConfig(shard_size=20)


@pytest.fixture
def mixed(portraits: Path, tmp_path: Path) -> Path:
    """Ten portraits, and beside them what goes wrong in practice."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for path in sorted(portraits.iterdir())[:10]:
        shutil.copy(path, folder)
    (folder / "000004.jpg").write_bytes((folder / "000004.jpg").read_bytes()[:3000])
    (folder / "000005.jpg").write_text("not a photograph")
    (folder / "notes.txt").write_text("x")
    return folder


def test_every_photograph_is_accounted_for(mixed: Path, tmp_path: Path, models: Path) -> None:
    result = prepare(mixed, tmp_path / "out", workers=1)
    assert (result.photos, result.kept, result.rejected) == (10, 8, {"truncated": 1, "unreadable": 1})
    assert result.ignored == {".txt": 1}
    assert [(row["path"], row["outcome"], row["reason"], row["shard"]) for row in rows(tmp_path / "out")[2:6]] == [
        ("000003.jpg", "kept", "", "train-000000.tar"),
        ("000004.jpg", "rejected", "truncated", ""),
        ("000005.jpg", "rejected", "unreadable", ""),
        ("000006.jpg", "kept", "", "train-000000.tar"),
    ]
    assert verify(tmp_path / "out").ok


def test_workers_archives_and_folders_give_the_same_bytes(
    dataset: Path, portraits: Path, tmp_path: Path, models: Path
) -> None:
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(portraits, "some/where")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted(portraits.iterdir(), reverse=True):
            archive.write(path, f"else/{path.name}")
    for source, workers in ((portraits.parent, 1), (tmp_path / "photos.tar", 2), (tmp_path / "photos.zip", 1)):
        out = tmp_path / f"out-{Path(source).name}"
        prepare(source, out, CONFIG, workers=workers)
        assert digest(out) == digest(dataset)


def test_eyes_stand_where_the_crop_formula_puts_them(dataset: Path, portraits: Path) -> None:
    """The true eyes of 50 portraits, carried through the quadrilateral, against where the formula wants them.

    By FFHQ's formula for a symmetric face whose eyes are 1 apart and m = (0, d) above the mouth, half a side is
    h = max(2, 1.8·d) and the centre 0.1·d below the eyes: they belong at (½ ± 1/4h, ½ − d/20h). A crooked mouth turns
    the crop about its centre by the angle of e − rot90(m).
    """
    from facegan.demo import draw_portrait

    worst = []
    for meta in metas(dataset)[:50]:
        truth = draw_portrait(0, int(Path(meta["path"]).stem) - 1).keypoints.array()
        left, right, _, mouth = (complex(x, y) for x, y in truth)
        e, m = right - left, mouth - (left + right) / 2
        axis = e - 1j * m  # rot90 is a multiplication by i
        axis *= max(2 * abs(e), 1.8 * abs(m)) / abs(axis)
        for eye in (left, right):
            belongs = (eye - ((left + right) / 2 + 0.1 * m)) / axis / 2 + (0.5 + 0.5j)
            found = inside(np.array(meta["quad"]), (eye.real, eye.imag))
            worst.append(abs(complex(*found) - belongs) * 64)
    assert len(worst) == 100
    assert max(worst) <= 1.5


def inside(quad: np.ndarray, point: tuple[float, float]) -> np.ndarray:
    """A point in the crop's own coordinates, 0 … 1."""
    axes = np.stack([quad[3] - quad[0], quad[1] - quad[0]], axis=1)
    return np.linalg.solve(axes, np.array(point) - quad[0])


def metas(out: Path) -> list[dict]:
    found = []
    for path in sorted(out.glob("train-*.tar")):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                file = tar.extractfile(member)
                if member.name.endswith(".json") and file is not None:
                    found.append(json.loads(file.read()))
    return found


def test_crops_are_what_their_json_says(dataset: Path, portraits: Path) -> None:
    from facegan import FaceShards
    from facegan.faces.decode import Photo

    faces = FaceShards(dataset)
    for i in range(50):
        pixels, meta = faces[i]
        photo = Photo((portraits / meta["path"]).read_bytes()).pixels()
        assert psnr(pixels, supersampled(photo, np.array(meta["quad"]), 64, factor=6)) >= 30


def test_a_second_start_does_nothing_and_says_the_same(dataset_copy: Path, portraits: Path) -> None:
    before = digest(dataset_copy)
    result = prepare(portraits, dataset_copy, CONFIG)
    assert digest(dataset_copy) == before
    assert (result.photos, result.kept, result.photos_per_second) == (60, 60, 0.0)


def test_new_photographs_go_into_new_shards(portraits: Path, tmp_path: Path, models: Path) -> None:
    out = tmp_path / "out"
    prepare(portraits, out, CONFIG, limit=25, workers=1)
    before = digest(out)
    assert [entry.samples for entry in DatasetInfo.read(out).shards] == [20, 5]
    shutil.rmtree(out / ".facegan")  # safe to delete once dataset.json stands
    result = prepare(portraits, out, CONFIG, limit=35, workers=2)
    assert (result.photos, result.kept, result.shards) == (35, 35, 3)
    assert {name: sum for name, sum in digest(out).items() if name in ("train-000000.tar", "train-000001.tar")} == {
        name: before[name] for name in ("train-000000.tar", "train-000001.tar")
    }
    assert [row["path"] for row in rows(out)] == [f"{i:06d}.jpg" for i in range(1, 36)]
    assert verify(out).ok


def test_an_addition_draws_earlier_rejects_again_though_facegans_own_folder_was_deleted(tmp_path: Path) -> None:
    config = PrepConfig(detector="none", crop="squash", size=28, shard_size=2)
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(8):
        (photos / f"{i}.jpg").write_bytes(b"broken" if i % 3 == 0 else photo(seed=i)[: 900 if i % 3 == 1 else None])
    for name in ("kept", "deleted"):
        prepare(photos, tmp_path / name, config, limit=5, workers=1)
    first = (tmp_path / "kept" / "preview.png").read_bytes()
    shutil.rmtree(tmp_path / "deleted" / ".facegan")
    for name in ("kept", "deleted"):
        assert prepare(photos, tmp_path / name, config, workers=1).rejected == {"truncated": 3, "unreadable": 3}
    assert digest(tmp_path / "deleted") == digest(tmp_path / "kept")
    with Image.open(tmp_path / "kept" / "preview.png") as picture, Image.open(io.BytesIO(first)) as before:
        picture.load()
        assert picture.height >= before.height
        assert picture.tobytes() != before.tobytes()


def test_an_addition_refuses_a_damaged_dataset(tmp_path: Path) -> None:
    """Nothing of the dataset is written; once it is repaired the same command adds what it had done before."""
    config = PrepConfig(detector="none", crop="squash", size=28, shard_size=2)
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for i in range(6):
        (photos / f"{i}.jpg").write_bytes(photo(seed=i))
    prepare(photos, out, config, limit=4, workers=1)
    whole = digest(out)
    for name, sentence in (
        ("photos.parquet", r"was altered: its SHA-256 .*\n.*facegan verify .*\n.*--force"),
        ("train-000001.tar", r"was altered: its SHA-256 .*\n.*facegan verify .*\nMake it again with --repair"),
    ):
        flip(out / name, 700)
        damaged = digest(out)
        for limit in (5, None):
            with pytest.raises(DatasetError, match=f"{name} {sentence}"):
                prepare(photos, out, config, limit=limit, workers=1)
        assert digest(out) == damaged
        flip(out / name, 700)
    (out / "train-000000.tar").unlink()
    with pytest.raises(DatasetError, match=r"train-000000.tar is missing.*facegan verify .*\nMake it again"):
        plan_prepare(PrepareRequest(photos, out, config))
    prepare(photos, out, config, workers=1, repair=True)
    assert digest(out) == whole
    assert prepare(photos, out, config, workers=1).photos == 6
    assert verify(out, deep=True).ok


def test_damaged_rejects_of_a_preview_are_not_drawn_again(tmp_path: Path) -> None:
    picture, reject = tmp_path / "preview.png", Thumbnail("a.jpg", "unreadable", "")
    picture.write_bytes(with_rejects(cv2.imencode(".png", np.zeros((2, 2, 3), np.uint8))[1].tobytes(), [(3, reject)]))
    assert read_rejects(picture) == [(3, reject)]
    flip(picture, picture.read_bytes().index(b"a.jpg"))
    assert read_rejects(picture) == []


def test_a_photo_that_changed_is_named_and_one_that_went_stays(portraits: Path, tmp_path: Path, models: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for name in ("000001.jpg", "000002.jpg", "000003.jpg"):
        shutil.copy(portraits / name, photos)
    prepare(photos, out, workers=1)
    (photos / "000002.jpg").unlink()
    assert prepare(photos, out, workers=1).photos == 3
    shutil.copy(portraits / "000009.jpg", photos / "000003.jpg")
    with pytest.raises(DatasetError, match=r"000003\.jpg has changed since it was added"):
        prepare(photos, out, workers=1)


def test_a_chunk_that_keeps_nothing_leaves_no_gap(portraits: Path, tmp_path: Path, models: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for i in range(3):
        (photos / f"000001_{i}.jpg").write_bytes(b"broken")
    for name in ("000001.jpg", "000002.jpg", "000003.jpg"):
        shutil.copy(portraits / name, photos / f"9{name}")
    prepare(photos, out, PrepConfig(shard_size=3), workers=1)
    assert [entry.name for entry in DatasetInfo.read(out).shards] == ["train-000000.tar"]
    assert verify(out).ok


def test_nothing_kept_at_all_is_still_a_dataset(tmp_path: Path, models: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_bytes(b"broken")
    result = prepare(tmp_path / "photos", tmp_path / "out", workers=1)
    assert (result.photos, result.kept, result.shards) == (1, 0, 0)
    assert verify(tmp_path / "out").ok


def test_other_settings_are_refused_by_name_and_forced_on_request(
    dataset_copy: Path, portraits: Path, models: Path
) -> None:
    other = PrepConfig(shard_size=20, size=32)
    before = digest(dataset_copy)
    with pytest.raises(DatasetError, match=r"made with --size 64, and this is --size 32.*\n.*--force"):
        prepare(portraits, dataset_copy, other)
    assert digest(dataset_copy) == before
    prepare(portraits, dataset_copy, other, limit=5, force=True, workers=1)
    assert (DatasetInfo.read(dataset_copy).settings["size"], len(list(dataset_copy.glob("*.tar")))) == (32, 1)
    assert verify(dataset_copy).ok


def test_force_makes_anew_what_can_not_be_continued(portraits: Path, tmp_path: Path, models: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for name in ("000001.jpg", "000002.jpg"):
        shutil.copy(portraits / name, photos)
    config = PrepConfig(shard_size=1)
    prepare(photos, out, config, workers=1)
    fresh = digest(out)

    def spoil(file: str, data: bytes) -> None:
        (out / file).write_bytes(data)
        with pytest.raises(DatasetError, match="--force"):
            prepare(photos, out, config, workers=1)
        prepare(photos, out, config, workers=1, force=True)
        assert digest(out) == fresh

    spoil("photos.parquet", b"damaged")
    spoil("dataset.json", b"damaged")
    spoil(".facegan/journal.json", b'[["../victim.txt", "../moved.txt"]]')
    shutil.copy(portraits / "000003.jpg", photos / "000002.jpg")
    with pytest.raises(DatasetError, match="has changed"):
        prepare(photos, out, config, workers=1)
    prepare(photos, out, config, workers=1, force=True)
    assert [row["bytes"] for row in rows(out)] == [path.stat().st_size for path in sorted(photos.iterdir())]


def test_a_journal_from_elsewhere_moves_nothing_outside(dataset_copy: Path, portraits: Path) -> None:
    victim = dataset_copy.parent / "victim.txt"
    victim.write_text("precious")
    (dataset_copy / ".facegan" / "journal.json").write_text('[["../victim.txt", "../moved.txt"]]')
    with pytest.raises(DatasetError, match="is damaged"):
        prepare(portraits, dataset_copy, CONFIG)
    assert victim.read_text() == "precious"


def test_shards_of_a_deleted_dataset_do_not_stay(portraits: Path, dataset_copy: Path) -> None:
    (dataset_copy / "dataset.json").unlink()
    prepare(portraits, dataset_copy, PrepConfig(shard_size=100), limit=5, workers=1, force=True)
    assert [path.name for path in dataset_copy.glob("*.tar")] == ["train-000000.tar"]
    assert verify(dataset_copy).ok


def test_a_model_that_is_no_model_gets_a_sentence(portraits: Path, tmp_path: Path) -> None:
    model = tmp_path / "own.tflite"
    model.write_text("this is no model")
    with pytest.raises(ModelError, match=r"own\.tflite is not a face detector that MediaPipe can load"):
        prepare(portraits, tmp_path / "out", model=model, workers=1)


def test_a_least_score_of_nothing_crashes_no_photograph(mixed: Path, tmp_path: Path, models: Path) -> None:
    result = prepare(mixed, tmp_path / "out", PrepConfig(min_score=0.0, faces="all"), workers=1)
    assert "crashed" not in result.rejected


def test_a_dry_run_refuses_what_the_run_would(portraits: Path, tmp_path: Path, models: Path) -> None:
    (tmp_path / "thesis.doc").write_text("precious")
    for force in (False, True):
        with pytest.raises(DatasetError, match="is not empty"):
            plan_prepare(PrepareRequest(portraits, tmp_path, CONFIG, force=force))


def test_a_dry_run_touches_nothing(portraits: Path, tmp_path: Path, models: Path) -> None:
    plan = plan_prepare(PrepareRequest(portraits, tmp_path / "out", CONFIG, limit=50))
    assert (plan.photos, plan.new, plan.chunks) == (50, 50, 3)
    assert not (tmp_path / "out").exists()


SCRIPT = """
import sys
from facegan.config import PrepConfig
from facegan.prep.prepare import prepare
if __name__ == "__main__":
    prepare(sys.argv[1], sys.argv[2], PrepConfig(shard_size=int(sys.argv[3])), workers=1)
"""


def start(photos: Path, out: Path, folder: Path, shard_size: int = 20) -> subprocess.Popen[bytes]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    arguments = [sys.executable, str(script), str(photos), str(out), str(shard_size)]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE)


def wait_for(path: Path, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not path.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)


def children(process_id: int) -> list[int]:
    tasks = Path(f"/proc/{process_id}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def alive(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("marker", ["chunks/000000.json", "chunks/000001.json"])
def test_killed_half_way_and_started_again_gives_the_same_bytes(
    dataset: Path, portraits: Path, tmp_path: Path, marker: str
) -> None:
    out = tmp_path / "out"
    process = start(portraits, out, tmp_path)
    wait_for(out / ".facegan" / marker, process)
    family = [process.pid, *children(process.pid)]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (out / "dataset.json").exists()
    prepare(portraits, out, CONFIG, workers=2)
    assert digest(out) == digest(dataset)
    end = time.monotonic() + 10
    while any(map(alive, family)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(alive, family))


def test_the_journal_is_carried_out_by_whoever_comes_next(
    dataset: Path, portraits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before each rename in turn: dataset.json never stands over half a dataset, and the next start ends it."""
    from facegan.prep import finish

    replace = Path.replace

    def stop_before(number: int) -> None:
        done = iter(range(100))

        def fail(self: Path, target: Path) -> Path:
            if self.parent.name in ("chunks", "final") and target.parent.name == "out" and next(done) == number:
                raise KeyboardInterrupt
            return replace(self, target)

        monkeypatch.setattr(finish.Path, "replace", fail)

    first = tmp_path / "0" / "out"
    stop_before(0)
    with pytest.raises(KeyboardInterrupt):
        prepare(portraits, first, CONFIG, workers=2)
    for number in range(1, 6):
        out = Path(shutil.copytree(first, tmp_path / str(number) / "out"))
        stop_before(number)
        with pytest.raises(KeyboardInterrupt):
            finish.replay_journal(out)
        assert not (out / "dataset.json").exists()
        monkeypatch.undo()
        finish.replay_journal(out)
        assert digest(out) == digest(dataset)
        assert not (out / ".facegan" / "journal.json").exists()
    assert not (first / "dataset.json").exists()
    prepare(portraits, first, CONFIG, workers=2)
    assert digest(first) == digest(dataset)


def test_a_second_run_into_one_folder_names_the_first(portraits: Path, tmp_path: Path, models: Path) -> None:
    out = tmp_path / "out"
    (out / ".facegan").mkdir(parents=True)
    with FileLock(out / ".facegan" / "lock"):
        (out / ".facegan" / "lock").write_text("process 77 on elsewhere")
        with pytest.raises(FaceganError, match=r"Another facegan prep is writing.*process 77 on elsewhere"):
            prepare(portraits, out, workers=1)
        (tmp_path / "none").mkdir()  # it is not even asked what the photographs are: to list them may take minutes
        with pytest.raises(FaceganError, match=r"Another facegan prep is writing"):
            prepare(tmp_path / "none", out, workers=1)


def test_a_folder_with_other_things_is_left_alone(portraits: Path, tmp_path: Path, models: Path) -> None:
    (tmp_path / "thesis.doc").write_text("precious")
    with pytest.raises(DatasetError, match="is not empty"):
        prepare(portraits, tmp_path, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.doc"]


def test_a_folder_without_photographs(tmp_path: Path, models: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("x")
    with pytest.raises(SourceError, match=r"holds no photographs \(but 1 \.txt\)"):
        prepare(tmp_path / "photos", tmp_path / "out")


def test_a_model_with_a_wrong_checksum_names_both_sums(
    portraits: Path, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "models" / "face_detection_short_range.tflite"
    fake.parent.mkdir()
    fake.write_bytes(b"altered")
    wrong, right = (
        hashlib.sha256(b"altered").hexdigest(),
        "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
    )
    monkeypatch.setenv("FACEGAN_MODELS", str(fake.parent))
    with pytest.raises(ModelError, match=f"{wrong},\n.*{right}"):
        prepare(portraits, tmp_path / "out")
    monkeypatch.delenv("FACEGAN_MODELS")
    with pytest.raises(ModelError, match=wrong):
        prepare(portraits, tmp_path / "out", model=fake)
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_a_disk_that_can_not_be_written(portraits: Path, models: Path) -> None:
    with pytest.raises(DiskError, match=r"/proc/facegan-test.*can't be made"):
        prepare(portraits, "/proc/facegan-test/out", workers=1)


def test_a_full_disk_gets_a_sentence_and_nothing_half_written(
    portraits: Path, small_disk: Path, models: Path, dataset: Path
) -> None:
    out = small_disk / "out"
    with pytest.raises(DiskError, match=r"The disk of .*small/out is full"):
        prepare(portraits, out, CONFIG, workers=1)
    assert not (out / "dataset.json").exists()
    assert not list(out.rglob("*.partial"))
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    prepare(portraits, out, CONFIG, workers=1)
    assert digest(out) == digest(dataset)


def test_prep_needs_no_torch(portraits: Path, models: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
import facegan.prep.prepare
from facegan.config import PrepConfig
from facegan.faces.decode import Photo
from facegan.prep.engines.worker import Job, Worker
from facegan.prep.request import find_models
from facegan.prep.sources import open_source
source = open_source({str(portraits)!r})
worker = Worker(Job(PrepConfig(), source, find_models(PrepConfig(), None), Path({str(tmp_path)!r})))
photo = Photo(worker.reader.read(next(source.photos({{}}))))
found = len(worker.detector.detect(photo.pixels(), 0.5))
worker.detector.close()
sys.exit(found != 1 or "torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_workers_memory_does_not_grow_with_the_photographs(portraits: Path, models: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(600):
        (photos / f"{i:06d}.jpg").hardlink_to(portraits / f"{i % 60 + 1:06d}.jpg")
    few, many = (
        prepare(photos, tmp_path / str(limit), CONFIG, limit=limit, workers=1).worker_peak_bytes for limit in (60, 600)
    )
    assert many < 400e6
    assert many - few < 25e6


def test_a_result_tells_what_design_says(dataset_copy: Path, portraits: Path) -> None:
    result = prepare(portraits, dataset_copy, CONFIG)
    names = ["photos", "kept", "rejected", "ignored", "faces", "shards", "bytes"]
    names += ["seconds", "work_seconds", "photos_per_second", "engine", "nodes", "workers", "out"]
    assert list(result.to_json()) == names

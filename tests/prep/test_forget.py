"""Photographs that are left out from the start, or taken out later: both give the same bytes, and no trace is left."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from PIL import Image

from facegan.config import SelectConfig
from facegan.errors import DamagedFile, DatasetError, SettingsError, SourceError
from facegan.files import sha256_file
from facegan.prep.forget import _Removal, forget
from facegan.prep.prepare import plan_prepare, prepare
from facegan.prep.request import PrepareRequest
from facegan.prep.reuse import keep_detections
from facegan.prep.select import select
from facegan.prep.storage import OutputStore
from facegan.shards.format import DatasetInfo
from facegan.shards.verify import verify
from tests.prep.fake import TINY, write_photos
from tests.prep.outputs import digest, reasons
from tests.process_tree import ProcessTree
from tests.recipes.program import facegan
from tests.stopping import stopped_at_line

BASE: dict[str, Any] = {"split": "0.5,0.3,0.2", "shard_size": 5, "faces": "all", "dedup": "exact", "workers": 0}
FIRST = "a/first.jpg"  # the only one in its folder


@pytest.fixture(scope="module")
def photos(portraits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forget") / "photos"
    for name, number in {FIRST: 40, **{f"b/{n:02d}.jpg": n for n in range(1, 11)}, "b/copy.jpg": 2}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(portraits / f"{number:06d}.jpg", folder / name)
    one, two = (Image.open(portraits / f"{number:06d}.jpg") for number in (20, 21))
    pair = Image.new("RGB", (one.width * 2, one.height))
    pair.paste(one, (0, 0))
    pair.paste(two, (one.width, 0))
    pair.save(folder / "b" / "two.png")
    for number in range(18):
        Image.new("RGB", (200, 200), (40, 90 + number, 40)).save(folder / "b" / f"none{number:02d}.png")
    (folder / "b" / "torn.jpg").write_bytes((portraits / "000023.jpg").read_bytes()[:3000])
    return folder


@pytest.fixture(scope="module")
def out(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    prepare(photos, out := tmp_path_factory.mktemp("whole") / "out", **BASE)
    return out


@pytest.fixture
def copy(out: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(out, tmp_path / "out"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven squashed photographs and a file that is none, in four shards."""
    photos = write_photos(tmp_path_factory.mktemp("tiny") / "photos", 7)
    (photos / "07.jpg").write_bytes(b"no photograph")
    prepare(photos, photos.parent / "out", TINY, workers=0)
    return photos.parent / "out"


def without(photos: Path, out: Path, paths: Sequence[str], **options: Any) -> dict[str, str]:
    """The files of a dataset that never had them."""
    out.with_name("exclude.txt").write_text("\n".join(paths))
    prepare(photos, out, **(options or BASE), exclude=out.with_name("exclude.txt"))
    return digest(out)


@pytest.mark.parametrize("chosen", ["first", "rejects", "copied", "chunk", "shard", "most", "tenth"])
def test_forgotten_equals_excluded(photos: Path, out: Path, copy: Path, tmp_path: Path, chosen: str) -> None:
    chunk = list(reasons(out))[: DatasetInfo.read(out).chunks[0].photos]
    paths = {
        "first": [FIRST],
        "rejects": ["b/none00.png", "b/none01.png", "b/none07.png", "b/torn.jpg"],
        "copied": ["b/02.jpg", "b/copy.jpg"],
        "chunk": sorted({*chunk, "b/copy.jpg"}),
        "shard": [path for path in chunk if not reasons(out)[path]] + ["b/copy.jpg"],
        "most": [path for path in reasons(out) if path not in ("b/10.jpg", "b/none17.png")],
        "tenth": list(reasons(out))[::10],
    }[chosen]
    before = {path.name: path.stat().st_ino for path in copy.glob("*.tar")}
    found = forget(copy, paths)
    assert digest(copy) == without(photos, tmp_path / "new", paths, **BASE, detections=out) != digest(out)
    assert verify(copy, deep=True).ok
    assert found.photos == len(paths)
    kept = {path.stat().st_ino for path in copy.glob("*.tar")}
    assert {inode for name, inode in before.items() if name not in found.shards} <= kept
    for path in (path for path in copy.rglob("*") if path.is_file()):
        is_table = path.suffix == ".parquet"
        content = json.dumps(pq.read_table(path).to_pylist()).encode() if is_table else path.read_bytes()
        assert not [name for name in paths if name.encode() in content], path
    more: list[dict[str, Any]] = [{}, {"repair": True}, {"detections": out}, {"detections": copy, "force": True}]
    for settings in more:  # whatever follows, they stay out
        prepare(photos, copy, **BASE, **settings)
        assert digest(copy) == digest(tmp_path / "new")
    prepare(photos, tmp_path / "third", **BASE, detections=copy)
    assert digest(tmp_path / "third") == digest(tmp_path / "new")
    assert forget(copy, paths).photos == 0


def test_additions_keep_forgotten_photos_out(photos: Path, out: Path, tmp_path: Path) -> None:
    known: dict[str, Any] = {**BASE, "detections": out}
    some, paths = shutil.copytree(photos, tmp_path / "photos"), [FIRST, "b/03.jpg", "b/none03.png", "b/none16.png"]
    later = ["b/03.jpg", "b/04.jpg", "b/none16.png", "b/none17.png"]  # in the second run
    for path in later:
        (some / path).unlink()
    ways = [tmp_path / "forgotten", tmp_path / "excluded", tmp_path / "between"]
    for way in ways:
        without(some, way, paths if way == ways[1] else [], **(BASE if way == ways[1] else known))
    forget(ways[2], [paths[0], paths[2]])
    for path in later:
        shutil.copy(photos / path, some / path)
    for way in ways:
        without(some, way, [] if way == ways[0] else paths, **known)
    forget(ways[0], paths)
    assert digest(ways[0]) == digest(ways[1]) == digest(ways[2])
    shutil.copy(photos / FIRST, some / "b" / "x.jpg")
    for way in ways:  # the list is not needed again
        prepare(some, way, **known)
        (way / "train-000000.tar").write_bytes(b"damaged")
        prepare(some, way, **BASE, repair=True)
        assert verify(way, deep=True).ok
    assert digest(ways[0]) == digest(ways[1]) == digest(ways[2])
    plan = plan_prepare(PrepareRequest.of(some, ways[0], BASE))
    assert (plan.photos, plan.new) == (len(reasons(ways[0])), 0)


def test_copy_of_excluded_photo_is_kept(photos: Path, out: Path, tmp_path: Path) -> None:
    without(photos, tmp_path / "new", ["b/02.jpg"], **BASE, detections=out)
    assert reasons(tmp_path / "new")["b/copy.jpg"] == ""


def test_left_out_photos_keep_their_place(tmp_path: Path) -> None:
    """A run of 201 photographs is looked at first, also if one of them is left out."""
    photos = write_photos(tmp_path / "photos", 201, side=30)
    assert prepare(photos, tmp_path / "a", TINY, workers=0).preflight
    forget(tmp_path / "a", ["07.jpg"])
    assert without(photos, tmp_path / "b", ["07.jpg"], settings=TINY, workers=0) == digest(tmp_path / "a")


def test_unknown_paths_change_nothing(
    photos: Path, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, everything = digest(copy), list(reasons(copy))
    for folder, paths, problem in (
        (
            copy,
            ["b/02.jpg"],
            r"^b/copy\.jpg is a duplicate of b/02\.jpg\nForget both.*--force --detections .* --exclude",
        ),
        (copy, ["b/05.jpg", "x.jpg", "01.jpg"], r"has no photograph 01\.jpg \(nor 1 others\)\.\n.*Nothing was changed"),
        (copy, everything, "all photographs of"),
        (tmp_path / "missing", ["a"], "There is no folder"),
        (copy, [], "no photograph to forget"),
    ):
        with pytest.raises((DatasetError, SettingsError), match=problem):
            forget(folder, paths)
    with pytest.raises(SourceError, match="is left out"):
        without(photos, tmp_path / "none", everything)
    without(photos, copy, ["b/05.jpg", "x.jpg"])
    assert "--exclude had no effect on 2 paths (first: b/05.jpg)" in capsys.readouterr().err
    assert digest(copy) == before
    (copy / ".facegan" / "suppressed.json").write_text("[]")
    for act in (lambda: forget(copy, ["b/05.jpg"]), lambda: prepare(photos, copy, **BASE, limit=3)):
        with pytest.raises(DamagedFile, match=r"suppressed\.json is damaged"):
            act()


@pytest.mark.parametrize("function", [_Removal.carry_out, OutputStore.assemble, OutputStore.replay])
def test_forget_stopped_at_any_line_is_finished(tiny: Path, tmp_path: Path, function: Any) -> None:
    paths, stops = ["00.jpg", "01.jpg", "02.jpg", "07.jpg"], 0
    forget(done := Path(shutil.copytree(tiny, tmp_path / "done")), paths)
    while True:
        again = Path(shutil.copytree(tiny, tmp_path / "again"))
        try:
            with stopped_at_line(function, stops):
                forget(again, paths)
            break
        except KeyboardInterrupt:
            stops += 1
        assert not (again / "dataset.json").exists() or digest(again) in (digest(tiny), digest(done))
        forget(again, paths)
        assert digest(again) == digest(done)
        assert not (again / ".facegan" / "journal.json").exists()
        shutil.rmtree(again)
    assert stops > 5


@pytest.mark.slow
@pytest.mark.parametrize("number", range(6))
def test_killed_forget_is_finished_by_the_same(out: Path, copy: Path, tmp_path: Path, number: int) -> None:
    forget(done := Path(shutil.copytree(out, tmp_path / "done")), ["b/05.jpg", "b/none00.png"])
    command = ("forget", copy, "--path", "b/05.jpg", "--path", "b/none00.png")
    with ProcessTree("-m", "facegan", *command) as family:
        family.wait_for(copy / ".facegan" / "final")
        time.sleep(random.Random(number).random() * 0.15)
        family.signal(signal.SIGKILL)
        assert family.end(60)[0] in (0, -signal.SIGKILL)
    assert not (copy / "dataset.json").exists() or digest(copy) in (digest(out), digest(done))
    assert facegan(*command).code == 0
    assert digest(copy) == digest(done)


def test_dataset_at_url_and_selection_forget_too(tiny: Path, tmp_path: Path) -> None:
    photos, paths, url = tiny.parent / "photos", ["00.jpg", "01.jpg", "02.jpg", "07.jpg"], "memory://forget"
    prepare(photos, url, TINY, workers=0)
    assert forget(url, paths, dry_run=True).shards == ("train-000000.tar", "train-000001.tar")
    forget(url, paths)
    prepare(photos, url, TINY, workers=0)
    fsspec.filesystem("memory").get("/forget", str(tmp_path / "here"), recursive=True)
    assert digest(tmp_path / "here") == without(photos, tmp_path / "new", paths, settings=TINY, workers=0)
    select([tiny], tmp_path / "few", SelectConfig(limit=5))
    forget(tmp_path / "few", ["01.jpg", "03.jpg"])
    assert list(reasons(tmp_path / "few")) == ["00.jpg", "02.jpg", "04.jpg"]
    assert verify(tmp_path / "few", deep=True).ok


def test_runs_and_what_they_made_are_named(tiny: Path, tmp_path: Path) -> None:
    """Run → generator → samples, an export and another run; and a selection with a run of its own."""
    copy, runs = Path(shutil.copytree(tiny, tmp_path / "out")), tmp_path / "runs"

    def record(name: str, file: str, content: Any) -> str:
        (runs / name / "checkpoints" / "9").mkdir(parents=True, exist_ok=True)
        (weights := runs / name / "checkpoints" / "9" / "generator.safetensors").write_text(name)
        (runs / name / file).write_text(json.dumps(content))
        return sha256_file(weights)

    prints = DatasetInfo.read(copy).faces_fingerprints("train")
    generator = record("run", "run.json", {"dataset": {"fingerprint": prints[-1]}})
    record("smaller", "run.json", {"dataset": {"fingerprint": prints[1]}})
    record("earlier", "run.json", {"dataset": {"fingerprint": prints[0]}})
    record("other", "run.json", {"dataset": {"fingerprint": "0" * 64}})
    record("further", "run.json", {"dataset": [], "init": {"sha256": generator}})
    record("export", "config.json", {"files": {"generator.safetensors": {"sha256": generator}}})
    select([copy], runs / "few", SelectConfig(limit=3))
    (*_, few) = DatasetInfo.read(runs / "few").faces_fingerprints("train")
    record("of-few", "run.json", {"dataset": {"fingerprint": few}})
    sampled = json.loads((copy / "dataset.json").read_text())
    record("drawn", "dataset.json", {**sampled, "settings": {"size": 28, "generated": {"generator": generator}}})
    expected = [("export", "export"), *(("run", name) for name in ("further", "of-few", "run", "smaller"))]
    expected += [("samples", "drawn"), ("selection", "few")]
    for more in ("--dry-run", "--quiet", "--quiet"):  # before, now, and once it is forgotten
        command = ("forget", copy, "--path", "03.jpg", "--runs", runs)
        found = json.loads(facegan(*command, more, "--json").stdout)["made"]
        assert [(one["kind"], os.path.relpath(one["path"], runs)) for one in found] == expected
    assert "selection" in facegan(*command).stdout
    assert forget(copy, ["07.jpg"]).faces == 0
    with pytest.raises(DatasetError, match="faces from facegan sample"):
        forget(runs / "drawn", ["03.jpg"])


def test_repair_excludes_nothing(tmp_path: Path) -> None:
    (tmp_path / "paths").write_text("1.jpg\n")
    with pytest.raises(SettingsError, match="--exclude has no effect with --repair"):
        prepare(tmp_path, tmp_path / "out", exclude=tmp_path / "paths", repair=True)


def test_excluded_photo_needs_no_line(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 3)
    (tmp_path / "people").write_text("00.jpg 1\n02.jpg 2\n")
    (tmp_path / "paths").write_text("01.jpg\n")
    found = prepare(photos, tmp_path / "out", TINY, workers=0, identity=tmp_path / "people", exclude=tmp_path / "paths")
    assert (found.photos, found.kept) == (2, 2)


def test_kept_detections_are_forgotten(out: Path, copy: Path) -> None:
    """A rerun with --force and its own detections may have been killed when it had just copied them."""
    keep_detections(copy, copy / ".facegan")
    forget(copy, [FIRST])
    assert not (copy / ".facegan" / "detections").exists()

"""Workers that crash or cannot reach a photograph cost that photograph, and nothing else."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from facegan.config import PrepConfig
from facegan.errors import DatasetError, FaceganError
from facegan.prep.engines import local, scheduler
from facegan.prep.prepare import prepare
from facegan.shards.verify import verify
from tests.prep.fake import TINY, write_photos
from tests.prep.odd_sources import CrashingSource, prepare_crashing
from tests.prep.outputs import digest, reasons
from tests.recording import RecordingConsole

CONFIG = TINY.model_copy(update={"shard_size": 20})


@pytest.fixture(scope="module")
def whole(portraits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset that an undisturbed run makes."""
    out = tmp_path_factory.mktemp("whole") / "out"
    prepare(portraits, out, CONFIG, workers=0)
    return out


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def test_inline_engine_gives_same_bytes(
    portraits: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And starts no process."""
    monkeypatch.delattr(local, "LocalEngine")
    console = RecordingConsole()
    result = prepare(portraits, tmp_path / "out", PrepConfig(shard_size=20), workers=0, console=console)
    assert digest(tmp_path / "out") == digest(dataset)
    assert (result.engine, result.workers, sum(console.advances)) == ("local", 0, 60)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("losses", [4, 1_000])
def test_lost_nodes_are_no_fault_of_photographs(
    losses: int, portraits: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk is submitted again, but not for ever: it may itself be what ends each node."""

    class Losing(local.InlineEngine):
        left = losses

        def result(self, task: Any) -> Any:
            found = super().result(task)
            self.left -= 1
            if self.left >= 0:
                raise local.NodeLost("the node is gone")
            return found

    monkeypatch.setattr(scheduler, "InlineEngine", Losing)
    if losses == 4:
        prepare(portraits, tmp_path / "out", CONFIG, workers=0)
        assert digest(tmp_path / "out") == digest(whole)
        return
    with pytest.raises(FaceganError, match=r"die on chunk 0, but on no single photograph \(the node is gone\)"):
        prepare(portraits, tmp_path / "out", CONFIG, workers=0)


@pytest.mark.slow
def test_fatal_photograph_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its chunk is made twice, in halves, then without it. Progress counts each photograph once."""
    photos, out, console = write_photos(tmp_path / "photos", 8), tmp_path / "out", RecordingConsole()
    (tmp_path / "once").touch()  # one more crash, which leaves no trace
    source = CrashingSource(str(photos), frozenset({b"02.jpg"}), once=tmp_path / "once")
    config = TINY.model_copy(update={"shard_size": 4})
    result = prepare_crashing(monkeypatch, source, out, config, workers=2, console=console)
    assert not (tmp_path / "once").exists()
    assert (result.rejected, result.photos) == ({"crashed": 1}, 8)
    assert {path for path, reason in reasons(out).items() if reason == "crashed"} == {"02.jpg"}
    assert verify(out).ok
    assert sum(console.advances) == 8
    assert min(console.advances) >= 0
    prepare(photos, out, config, workers=0, repair=True)
    prepare(photos, tmp_path / "whole", config, workers=0)
    assert digest(out) == digest(tmp_path / "whole")


def test_progress_moves_within_a_chunk(portraits: Path, tmp_path: Path) -> None:
    console = RecordingConsole()
    config = PrepConfig(detector="tests.prep.detectors:Slow", shard_size=60)
    prepare(portraits, tmp_path / "out", config, workers=1, console=console)
    assert sum(console.advances) == 60
    assert max(console.advances) < 60


def test_repair_retries_unreachable_photographs(
    portraits: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole chunk is unreachable, so that the shards after it change their numbers."""
    is_offline, out = tmp_path / "offline", tmp_path / "out"
    is_offline.touch()
    offline = frozenset(b"%06d.jpg" % i for i in [*range(1, 21), 55])
    source = CrashingSource(str(portraits), offline=offline, is_offline=is_offline)
    result = prepare_crashing(monkeypatch, source, out, CONFIG, workers=0)
    assert (result.rejected["unreachable"], result.shards) == (21, 2)
    assert json.loads((out / "dataset.json").read_text())["totals"]["rejected"]["unreachable"] == 21
    is_offline.unlink()
    result = prepare_crashing(monkeypatch, source, out, CONFIG, workers=0, repair=True)
    assert "unreachable" not in result.rejected
    assert digest(out) == digest(whole)


def test_repair_rebuilds_damaged_shards(portraits: Path, copy: Path, whole: Path) -> None:
    (copy / "train-000000.tar").unlink()
    with (copy / "train-000002.tar").open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff\xff")
    assert not verify(copy).ok
    for _ in range(2):  # the second repair finds nothing to do
        result = prepare(portraits, copy, CONFIG, workers=0, repair=True)
        assert digest(copy) == digest(whole)
        assert result.photos == 60


def test_repair_names_first_missing_photograph(portraits: Path, copy: Path, tmp_path: Path) -> None:
    shutil.copytree(portraits, tmp_path / "photos")
    (tmp_path / "photos" / "000003.jpg").unlink()
    (copy / "train-000000.tar").unlink()
    with pytest.raises(DatasetError, match=r"000003\.jpg is missing from the source"):
        prepare(tmp_path / "photos", copy, CONFIG, workers=0, repair=True)


def test_foreign_dataset_json_is_kept(portraits: Path, tmp_path: Path) -> None:
    """StyleGAN's labels have the same file name."""
    photos = Path(shutil.copytree(portraits, tmp_path / "photos"))
    (photos / "dataset.json").write_text('{"labels": []}')
    with pytest.raises(DatasetError, match="not empty"):
        prepare(portraits, photos, CONFIG, force=True)
    assert (photos / "dataset.json").read_text() == '{"labels": []}'


def test_script_without_main_guard_is_explained(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 1)
    call = "facegan.prepare('photos', 'out', detector='none', crop='squash', workers=1)"
    (tmp_path / "script.py").write_text(f"import facegan\n{call}\n")
    ended = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (1, ""), ended.stderr
    assert "each of them imports your script" in ended.stderr

"""Workers that die, hang, or can't reach a photograph cost that photograph, and nothing else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from facegan.config import PrepConfig
from facegan.prep import prepare as module
from facegan.prep.prepare import PrepResult, prepare
from facegan.shards.verify import verify
from tests.hearing import Heard
from tests.prep.killers import Deadly
from tests.prep.test_prepare import digest

CONFIG = PrepConfig(shard_size=20)


def prepare_deadly(monkeypatch: pytest.MonkeyPatch, source: Deadly, out: Path, **options) -> PrepResult:
    monkeypatch.setattr(module, "open_source", lambda *_: source)
    result = prepare(source.path, out, CONFIG, **options)
    monkeypatch.undo()
    return result


def outcomes(out: Path) -> dict[str, str]:
    rows = pq.read_table(out / "photos.parquet", use_threads=False).to_pylist()
    return {row["path"]: row["reason"] for row in rows}


def test_photographs_that_kill_are_found_and_the_rest_is_kept(
    portraits: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killers = frozenset({b"000007.jpg", b"000041.jpg"})
    result = prepare_deadly(monkeypatch, Deadly(portraits, killers), tmp_path / "out", workers=2)
    assert result.rejected.pop("crashed") == 2
    assert result.photos == 60
    found, whole = outcomes(tmp_path / "out"), outcomes(dataset)
    assert found == {**whole, **{name.decode(): "crashed" for name in killers}}
    assert verify(tmp_path / "out").ok
    # Once whatever killed is gone, they are tried again, and all is as if nothing had ever happened.
    prepare(portraits, tmp_path / "out", CONFIG, workers=2, repair=True)
    assert digest(tmp_path / "out") == digest(dataset)


def test_a_worker_that_dies_once_is_not_to_be_seen(
    portraits: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "once").touch()
    prepare_deadly(monkeypatch, Deadly(portraits, once=tmp_path / "once"), tmp_path / "out", workers=2)
    assert not (tmp_path / "once").exists()
    assert digest(tmp_path / "out") == digest(dataset)


def test_progress_is_reported_within_a_chunk(portraits: Path, tmp_path: Path) -> None:
    console = Heard()
    config = PrepConfig(detector="tests.prep.detectors:Slow", shard_size=60)
    prepare(portraits, tmp_path / "out", config, workers=1, console=console)
    assert sum(console.advances) == 60
    assert max(console.advances) < 60


def test_progress_is_exact_whoever_dies(portraits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its chunk is made twice, then in halves, then without the killer: 60 photographs are shown, none twice."""
    console = Heard()
    source = Deadly(portraits, frozenset({b"000055.jpg"}))
    prepare_deadly(monkeypatch, source, tmp_path / "out", workers=2, console=console)
    assert sum(console.advances) == 60
    assert min(console.advances) >= 0


def test_photographs_that_stay_away_are_told_and_can_be_tried_again(
    portraits: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole chunk stays away, so that the shards after it have to be numbered anew."""
    offline = tmp_path / "offline"
    offline.touch()
    away = frozenset(b"%06d.jpg" % i for i in [*range(1, 21), 55])
    source = Deadly(portraits, away=away, offline=offline)
    result = prepare_deadly(monkeypatch, source, tmp_path / "out", workers=1)
    assert result.rejected["unreachable"] == 21
    assert result.shards == 2
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["totals"]["rejected"]["unreachable"] == 21
    offline.unlink()
    result = prepare_deadly(monkeypatch, source, tmp_path / "out", workers=1, repair=True)
    assert "unreachable" not in result.rejected
    assert digest(tmp_path / "out") == digest(dataset)


def test_shards_that_are_gone_or_altered_are_made_again(portraits: Path, dataset_copy: Path, dataset: Path) -> None:
    (dataset_copy / "train-000000.tar").unlink()
    with (dataset_copy / "train-000002.tar").open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff\xff")
    assert not verify(dataset_copy).ok
    result = prepare(portraits, dataset_copy, CONFIG, workers=1, repair=True)
    assert verify(dataset_copy).ok
    assert digest(dataset_copy) == digest(dataset)
    assert result.photos == 60


def test_a_repair_that_needs_nothing_does_nothing(portraits: Path, dataset_copy: Path, dataset: Path) -> None:
    prepare(portraits, dataset_copy, CONFIG, workers=1, repair=True)
    assert digest(dataset_copy) == digest(dataset)


def test_a_repair_without_the_photographs_names_the_first(portraits: Path, dataset_copy: Path, tmp_path: Path) -> None:
    from facegan.errors import DatasetError

    shutil.copytree(portraits, tmp_path / "photos")
    (tmp_path / "photos" / "000003.jpg").unlink()
    (dataset_copy / "train-000000.tar").unlink()
    with pytest.raises(DatasetError, match=r"000003\.jpg is missing from the source"):
        prepare(tmp_path / "photos", dataset_copy, CONFIG, workers=1, repair=True)


def test_a_repair_does_not_go_with_force(portraits: Path, dataset_copy: Path, dataset: Path) -> None:
    from facegan.errors import SettingsError

    with pytest.raises(SettingsError, match="choose one of them"):
        prepare(portraits, dataset_copy, CONFIG, repair=True, force=True)
    assert digest(dataset_copy) == digest(dataset)


def test_a_folder_with_stylegans_labels_is_no_dataset_of_ours(portraits: Path, tmp_path: Path) -> None:
    from facegan.errors import DatasetError

    photos = Path(shutil.copytree(portraits, tmp_path / "photos"))
    (photos / "dataset.json").write_text('{"labels": []}')
    with pytest.raises(DatasetError, match="is no dataset"):
        prepare(portraits, photos, CONFIG, force=True)
    assert (photos / "dataset.json").read_text() == '{"labels": []}'


def test_a_script_that_processes_would_read_again_is_told_so(tmp_path: Path) -> None:
    """It never ended: each process met the call, and started none."""
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    Image.new("RGB", (64, 64), "red").save(photographs / "a.png")
    call = (
        f"facegan.prepare({str(photographs)!r}, {str(tmp_path / 'out')!r}, PrepConfig(detector='none', crop='squash'))"
    )
    script = tmp_path / "script.py"
    above = "import facegan\nfrom facegan.config import PrepConfig\n"
    script.write_text(f"{above}{call}\n")
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    assert ended.returncode == 1
    assert "each of them reads your script first" in ended.stderr
    script.write_text(f"{above}if __name__ == '__main__':\n    print({call}.kept)\n")
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    assert (ended.returncode, ended.stdout) == (0, "1\n"), ended.stderr

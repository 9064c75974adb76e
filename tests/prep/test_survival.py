"""prep is killed, interrupted, starved of disk, and given photographs that hang and crash: nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import tarfile
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from facegan.config import PrepConfig
from facegan.errors import DiskError
from facegan.prep.prepare import prepare
from facegan.prep.storage import OutputStore
from facegan.shards.format import DatasetInfo
from facegan.shards.verify import verify
from tests.prep.detectors import EATS, EXITS, FAULTS, HANGS, LEAVES
from tests.prep.fake import write_photos
from tests.prep.outputs import digest, reasons
from tests.process_tree import ProcessTree
from tests.stopping import stopped_at_line

SLOW = "tests.prep.detectors:Slow"
CONFIG = PrepConfig(shard_size=5, detector=SLOW)


def prep(photos: Path, out: Path, workers: int = 1) -> ProcessTree:
    settings = ("--shard-size", 5, "--detector", SLOW, "--workers", workers)
    return ProcessTree("-m", "facegan", "prep", photos, out, *settings)


@pytest.fixture(scope="module")
def photos(portraits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty portraits."""
    folder = tmp_path_factory.mktemp("photos")
    for path in sorted(portraits.iterdir())[:30]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], float]:
    """Checksums of every file of an undisturbed run, and the seconds from its first commit to its end."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    with prep(photos, out, workers=2) as family:
        family.wait_for(out / ".facegan" / "chunks" / "*.json")
        start = time.monotonic()
        code, errors = family.end(60)
        assert code == 0, errors
        assert not family.left()
        return digest(out), time.monotonic() - start


def kill(family: ProcessTree, who: str) -> None:
    victims = [] if who == "parent" else family.workers()[: None if who == "both" else 1]
    if who != "worker":
        victims.insert(0, family.parent.pid)
    for victim in victims:
        with contextlib.suppress(ProcessLookupError):  # it had ended
            os.kill(victim, signal.SIGKILL)


def is_complete(out: Path, undisturbed: dict[str, str]) -> bool:
    return digest(out) == undisturbed and verify(out).ok and not list(out.rglob("*.partial"))


@pytest.mark.parametrize(
    ("who", "share"),
    [("worker", 0.3), ("parent", 0.9)]
    + [
        pytest.param(who, random.Random(number).random(), marks=pytest.mark.slow)
        for number, who in enumerate(["parent", "worker", "both"] * 2)
    ],
)
def test_killed_run_resumes_to_same_bytes(
    undisturbed: tuple[dict[str, str], float], photos: Path, tmp_path: Path, who: str, share: float
) -> None:
    """Killed at a share of the time from the first commit to the end, so that some kills hit the finish."""
    sums, seconds = undisturbed
    out = tmp_path / "out"
    with prep(photos, out, workers=2) as family:
        family.wait_for(out / ".facegan" / "chunks" / "*.json")
        time.sleep(share * seconds)
        kill(family, who)
        code, errors = family.end(60)
        assert not family.left()
    if who == "worker":  # the run itself continues
        assert code == 0, errors
        assert is_complete(out, sums)
    elif code:
        assert code == -signal.SIGKILL
    prepare(photos, out, CONFIG, workers=0)
    assert is_complete(out, sums)


def test_journal_stopped_at_any_line_is_replayed(photos: Path, tmp_path: Path) -> None:
    """An addition, so that files are exchanged; the journal also removes one."""
    out, config = tmp_path / "first" / "out", PrepConfig(shard_size=5, detector="tests.prep.detectors:Centred")
    prepare(photos, out, config, limit=12, workers=0)
    with stopped_at_line(OutputStore.replay, 3), pytest.raises(KeyboardInterrupt):  # the first three find no journal
        prepare(photos, out, config, limit=16, workers=0)
    journal = out / ".facegan" / "journal.json"
    decided = json.loads(journal.read_bytes())
    journal.write_text(json.dumps({**decided, "remove": ["train-000009.tar"]}))
    before = digest(out)
    (out / "train-000009.tar").write_bytes(b"stale")
    whole = Path(shutil.copytree(tmp_path / "first", tmp_path / "whole")) / "out"
    OutputStore(whole).replay()
    after = digest(whole)
    assert verify(whole).ok
    assert DatasetInfo.read(whole).totals.photos == 16
    stops = 0
    while True:
        again = Path(shutil.copytree(tmp_path / "first", tmp_path / "again")) / "out"
        try:
            with stopped_at_line(OutputStore.replay, stops):
                OutputStore(again).replay()
        except KeyboardInterrupt:
            stops += 1
            left = digest(again)
            left.pop("train-000009.tar", None)
            assert left in (before, after) or "dataset.json" not in left
            OutputStore(again).replay()
        else:
            break
        assert digest(again) == after
        assert not (again / ".facegan" / "journal.json").exists()
        shutil.rmtree(tmp_path / "again")
    assert stops > 3 * len(decided["files"])  # at each of them


def test_repair_keeps_a_killed_addition(portraits: Path, tmp_path: Path) -> None:
    out, undisturbed_out = tmp_path / "out", tmp_path / "undisturbed_out"
    for folder in (out, undisturbed_out):
        prepare(portraits, folder, CONFIG, limit=15, workers=0)
    with prep(portraits, out) as family:
        family.wait_for(out / ".facegan" / "chunks" / "000003.json")
        kill(family, "parent")
        family.end(60)
        assert not family.left()
    chunks = out / ".facegan" / "chunks"
    done = {path.stem: (chunks / f"{path.stem}.tar").stat().st_ino for path in chunks.glob("*.json")}
    assert not (out / "dataset.json").exists() or DatasetInfo.read(out).totals.photos == 15
    (out / "train-000000.tar").unlink()
    (out / "train-000002.tar").write_bytes(b"altered")
    # The repair is stopped as well, once its journal is written.
    with pytest.raises(KeyboardInterrupt), stopped_at_line(OutputStore.replay, 3):
        prepare(portraits, out, CONFIG, workers=0, repair=True)
    prepare(portraits, out, CONFIG, workers=0, repair=True)
    assert verify(out).ok
    assert not (out / ".facegan" / "repairs").exists()
    assert {path.stem: (chunks / f"{path.stem}.tar").stat().st_ino for path in chunks.glob("*.json")} == done
    prepare(portraits, out, CONFIG, workers=0)
    inodes = {path.stat().st_ino for path in out.glob("*.tar")}
    assert len(done) > 1  # flushed concurrently, the fourth may be there before the first
    assert inodes >= set(done.values())  # the same files: none was made again
    prepare(portraits, undisturbed_out, CONFIG, workers=0)
    assert digest(out) == digest(undisturbed_out)


MANY = """
import sys, time
from pathlib import Path
from facegan.cli.app import main
from facegan.prep import plan
from tests.prep.odd_sources import SyntheticSource
if __name__ == "__main__":
    plan.open_source = lambda *_: SyntheticSource(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
    main(["prep", "x", *sys.argv[4:]])
"""


def many(portraits: Path, count: int, tmp_path: Path, *options: object) -> ProcessTree:
    """`facegan prep` of photographs that exist only by name; it touches tmp_path / "listed" and "read"."""
    script = tmp_path / "script.py"
    script.write_text(MANY)
    return ProcessTree(script, portraits, count, tmp_path, tmp_path / "out", *options)


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        pytest.param(moment, number, marks=() if (i + number) % 2 else pytest.mark.slow)
        for i, moment in enumerate(["sums", "listing", "finish", "start", "work"])
        for number in (signal.SIGINT, signal.SIGTERM)
    ],
)
def test_interrupted_run_stops_within_three_seconds(
    undisturbed: tuple[dict[str, str], float], photos: Path, tmp_path: Path, moment: str, number: int
) -> None:
    out = tmp_path / "out"
    if moment == "listing":  # all names are there, and are sorted
        family, sign = many(photos, 50_000, tmp_path), tmp_path / "listed"
    elif moment == "sums":
        family, sign = many(photos, 5000, tmp_path, "--dedup", "exact"), tmp_path / "read"
    else:
        signs = {"start": "settings.json", "work": "chunks/*.json", "finish": "final"}
        family, sign = prep(photos, out), out / ".facegan" / signs[moment]
    with family:
        family.wait_for(sign)
        while moment == "start" and not family.workers() and family.parent.poll() is None:
            time.sleep(0.01)
        for each in (signal.SIGSTOP, number, signal.SIGCONT):  # or it might finish before the signal arrives
            family.signal(each)
        start = time.monotonic()
        code, errors = family.end(20)
        assert code == 130, errors
        assert not family.left(max(0.0, 3 - (time.monotonic() - start)))
        assert time.monotonic() - start < 3
        assert "Traceback" not in errors
        assert "fault" not in errors
        assert moment != "work" or "Run the same command to continue" in errors
    assert not (out / "dataset.json").exists()
    if moment in ("work", "finish"):
        prepare(photos, out, CONFIG, workers=0)
        assert is_complete(out, undisturbed[0])


@pytest.mark.slow
def test_deadly_photographs_cost_only_themselves(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 3)
    deadly = {"a": HANGS, "b": FAULTS, "c": EATS, "d": EXITS, "e": LEAVES}
    for name, width in deadly.items():
        cv2.imwrite(str(photos / f"{name}.png"), np.full((100, width, 3), 128, np.uint8))
    config = PrepConfig(shard_size=1, detector="tests.prep.detectors:Crashing")
    result = prepare(photos, tmp_path / "out", config, workers=2, photo_seconds=1)
    assert (result.kept, result.rejected) == (3, {"crashed": 5})
    crashed = {path for path, reason in reasons(tmp_path / "out").items() if reason == "crashed"}
    assert crashed == {f"{name}.png" for name in deadly}
    assert verify(tmp_path / "out").ok
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("moment", ["chunks/000003.json", "final"])
def test_disk_filling_up_is_reported(
    undisturbed: tuple[dict[str, str], float], photos: Path, small_disk: Path, moment: str
) -> None:
    os.system(f"mount -o remount,size=4m {small_disk}")  # noqa: S605 - a path of pytest's own
    out, filler = small_disk / "out", small_disk / "filler"
    with prep(photos, out) as family:
        family.wait_for(out / ".facegan" / moment)
        family.signal(signal.SIGSTOP)
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        family.signal(signal.SIGCONT)
        code, errors = family.end(60)
        assert code == 1, errors
        assert f"error: The disk of {out} is full (" in errors
        assert "B are needed)." in errors
        assert not family.left()
    left = [path.name for path in out.rglob("*")]
    assert not [name for name in left if name == "dataset.json" or name.endswith(".partial")]
    filler.unlink()
    prepare(photos, out, CONFIG, workers=0)
    assert is_complete(out, undisturbed[0])


def test_disk_too_small_to_unpack_is_reported(portraits: Path, small_disk: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "photos.tar.gz", "w:gz") as tar:
        tar.add(portraits, "photos")
    out = small_disk / "out"
    # Photographs of 0.6 MB, faces of 0.9 MB.
    with pytest.raises(DiskError, match=rf"The disk of {out} is full \(1.5 MB are needed\)"):
        prepare(tmp_path / "photos.tar.gz", out, CONFIG, workers=0)
    assert not list((out / ".facegan").rglob("*.tar*"))

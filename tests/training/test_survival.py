"""A training is killed and stopped at any moment, and its disk fills up: nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from toy import steps_of, toy_config, toy_run, toy_train, weights, without_times

from facegan.errors import DiskError, Interrupted
from facegan.training.checkpoint import CheckpointManager, replace_folder
from facegan.training.log import read_stats
from tests.stopping import stopped_at_line

GIVEN: dict[str, Any] = {"width": 4, "batch": 8, "images": 240, "save_every": 48, "log_every": 16, "keep": 2}


def interrupt(run: Path, images: int, number: int) -> None:
    """Starts the run as a process of its own, and sends a signal once so many images are in its log."""
    command = [sys.executable, str(Path(__file__).with_name("toy.py")), str(run), json.dumps(GIVEN)]
    child = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    while max((row["images"] for row in read_stats(run)), default=0) < images and child.poll() is None:
        time.sleep(0.02)
    child.send_signal(number)
    child.wait(60)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_killed_and_stopped_anytime(tmp_path, seed):
    whole = toy_train(tmp_path / "whole", **GIVEN).run
    run, rng = tmp_path / "run", random.Random(seed)
    anytime = [(rng.randrange(240), rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])) for _ in range(4)]
    for images, number in anytime if seed else [(100, signal.SIGKILL)]:
        interrupt(run, images, number)
    if not seed:
        with pytest.raises(Interrupted):
            toy_run(run, toy_config(**GIVEN), stop=lambda: signal.raise_signal(signal.SIGTERM) is not None)
    toy_train(run, **GIVEN)
    assert weights(run) == weights(whole)
    assert without_times(run) == without_times(whole)
    for name in ("samples", "checkpoints"):
        assert sorted(p.name for p in (run / name).iterdir()) == sorted(p.name for p in (whole / name).iterdir())
    for file in [*(whole / "samples").iterdir(), whole / "checkpoints/000000240/state.safetensors"]:
        assert (run / file.relative_to(whole)).read_bytes() == file.read_bytes()
    assert steps_of(run, "loss_g") == steps_of(whole, "loss_g")
    assert not list(run.rglob("*.partial"))
    starts = [int(n.replace(",", "")) for n in re.findall(r"from ([\d,]+) images", (run / "log.txt").read_text())]
    assert starts == sorted(set(starts))  # log lines of starts whose progress was lost are cut away
    assert json.loads((run / "run.json").read_text())["resumed_at_images"][-1:] == starts[-1:]


def test_replacing_a_checkpoint_is_atomic(tmp_path):
    toy_train(tmp_path / "run", images=160)
    stops = 0
    while True:
        folder = Path(shutil.copytree(tmp_path / "run", tmp_path / f"{stops}")) / "checkpoints"
        new = Path(shutil.copytree(folder / "000000160", folder / ".new.partial"))
        (new / "mark").touch()
        for other in folder.glob("000000000"):
            shutil.rmtree(other)
        try:
            with stopped_at_line(replace_folder, stops):
                replace_folder(new, folder / "000000160")
        except KeyboardInterrupt:
            stops += 1
        else:
            assert (folder / "000000160/mark").exists()
            break
        found = CheckpointManager(folder.parent).newest(lambda text: pytest.fail(text))
        assert found is not None
        assert found.images == 160
        assert [path.name for path in folder.iterdir() if "replaced" in path.name] == []
    assert stops >= 4


@pytest.fixture
def disk_of_16_mb(small_disk: Path) -> Path:
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    return small_disk


class Filler:
    """Called after each step: fills the disk after one, and frees it after another."""

    def __init__(self, disk: Path, full_from: int, full_to: int) -> None:
        self.file, self.full_from, self.full_to, self.step = disk / "filler", full_from, full_to, 0

    def __call__(self) -> bool:
        self.step += 1
        if self.step == self.full_to:
            self.file.unlink()
        elif self.full_from <= self.step < self.full_to:
            with self.file.open("ab", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(b"\0" * 4096):
                    pass
        return False


def test_full_disk_delays_logs_and_checkpoints(disk_of_16_mb, tmp_path, capsys):
    """A while later there is room again; or only for the next start."""
    config = toy_config(images=320, save_every=80, sample_every=80)
    whole = toy_run(tmp_path / "whole", config).run
    capsys.readouterr()
    run = disk_of_16_mb / "run"
    toy_run(run, config, stop=Filler(disk_of_16_mb, 3, 13))
    why = "(No space left on device). Training continues; "
    assert capsys.readouterr().err.splitlines() == [
        f"warning: {run} cannot be written {why}its logs wait.",
        f"warning: the checkpoint at 80 images could not be saved {why}the next save retries.",
        f"warning: the checkpoint at 160 images could not be saved {why}the next save retries.",
    ]
    assert "can be written again" in (run / "log.txt").read_text()
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["000000000", "000000240", "000000320"]
    other = disk_of_16_mb / "other"
    filler = Filler(disk_of_16_mb, 6, 10**6)
    with pytest.raises(DiskError, match="The checkpoint at 320 images could not be saved; the newest has 80 images"):
        toy_run(other, config, stop=filler)
    assert not list(other.rglob("*.partial"))
    filler.file.unlink()
    toy_run(other, config)
    for ended in (run, other):
        assert without_times(ended) == without_times(whole)
        assert weights(ended) == weights(whole)
        for grid in (whole / "samples").iterdir():
            assert (ended / "samples" / grid.name).read_bytes() == grid.read_bytes()
        assert steps_of(ended, "loss_g") == list(range(32, 321, 32))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints at 0, 32, 64 and 96 images."""
    return toy_train(tmp_path_factory.mktemp("trained") / "run", images=96, save_every=32, keep=9).run


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("state.json", lambda data: data.replace(b'"rounds": 4', b'"rounds": 5'), "state.json has another"),
        ("state.json", lambda data: data[:-20], "state.json cannot be read"),
        ("state.safetensors", lambda data: data[:-1], "state.safetensors has another size or SHA-256"),
        ("state.safetensors", lambda data: data[:-1] + b"?", "state.safetensors has another"),
        ("generator.safetensors", lambda data: b"", "generator.safetensors has another"),
    ],
)
def test_damaged_checkpoints_are_skipped(trained, tmp_path, capsys, name, damage, words):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints/000000096")
    file = run / "checkpoints/000000064" / name
    file.write_bytes(damage(file.read_bytes()))
    (run / "checkpoints/.000000320.partial").mkdir()  # of a killed process
    (run / "samples/.000000096.png.7.partial").write_bytes(b"half")
    toy_train(run, images=96, save_every=32, keep=9)
    assert not list(run.rglob("*.partial"))
    output = capsys.readouterr().err
    assert f"000000064 is damaged ({words}" in output
    assert "using the one before." in output
    assert weights(run) == weights(trained)
    assert without_times(run) == without_times(trained)
    assert (run / "checkpoints/000000064.damaged").is_dir()


def test_damaged_lines_of_stats(trained, tmp_path):
    """A resumed run keeps invalid lines and all rows, and cuts an incomplete line away."""
    run = tmp_path / "run"
    toy_train(run, images=64, save_every=32, keep=9)
    lines = (run / "stats.jsonl").read_bytes().splitlines(keepends=True)
    damaged = [lines[0], b"\n", b"{damaged\n", *lines[1:]]
    (run / "stats.jsonl").write_bytes(b"".join([*damaged, b'{"images": 96, "rounds": 6, "loss_d"']))
    toy_train(run, images=96, save_every=32, keep=9)
    assert without_times(run) == without_times(trained)
    assert (run / "stats.jsonl").read_bytes().splitlines(keepends=True)[:-1] == damaged

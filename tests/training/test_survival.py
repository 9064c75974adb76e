"""A real `facegan train` is killed and stopped at any moment, and its disk fills up: nothing is lost."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import steps_of, toy_config, toy_run, toy_train, weights, without_times

from facegan.errors import DiskError
from facegan.training.checkpoint import CheckpointManager, replace_folder
from facegan.training.log import AppendOnlyFile, read_stats
from tests.process_tree import ProcessTree
from tests.stopping import stopped_at_line

OPTIONS = "--batch 8 --images 960 --save-every 96 --sample-every 160 --log-every 16 --keep 2 --precision fp32 --quiet"
SETTINGS = "--set train.width=4 --set train.latent=16 --set train.milestones=100,300"


def facegan_train(dataset: Path, run: Path) -> ProcessTree:
    return ProcessTree("-m", "facegan", "train", "--shards", dataset, "--run", run, *OPTIONS.split(), *SETTINGS.split())


def finish(dataset: Path, run: Path) -> None:
    with facegan_train(dataset, run) as family:
        code, errors = family.end(120)
    assert code == 0, errors


@pytest.fixture(scope="module")
def uninterrupted(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """An uninterrupted run, and its seconds from the first checkpoint on."""
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    with facegan_train(dataset, run) as family:
        family.wait_for(run / "checkpoints" / "000000000")
        start = time.monotonic()
        code, errors = family.end(120)
    assert code == 0, errors
    return run, time.monotonic() - start


def assert_same(run: Path, whole: Path) -> None:
    assert weights(run) == weights(whole)
    assert without_times(run) == without_times(whole)
    for name in ("samples", "checkpoints"):
        assert sorted(p.name for p in (run / name).iterdir()) == sorted(p.name for p in (whole / name).iterdir())
    for grid in (whole / "samples").iterdir():
        assert (run / "samples" / grid.name).read_bytes() == grid.read_bytes()
    last = Path("checkpoints/000000960/state.safetensors")
    assert (run / last).read_bytes() == (whole / last).read_bytes()
    assert (run / "losses.png").exists()
    assert steps_of(run, "loss_g") == steps_of(whole, "loss_g")
    assert not list(run.rglob("*.partial"))
    starts = [int(n.replace(",", "")) for n in re.findall(r"from ([\d,]+) images", (run / "log.txt").read_text())]
    assert starts == sorted(set(starts))  # log lines of starts whose progress was lost are cut away


def interrupt(dataset: Path, run: Path, number: int, seconds: float, sign: str = "") -> int:
    """Starts the run, and sends a signal so many seconds later, or once a file like ``sign`` exists."""
    with facegan_train(dataset, run) as family:
        family.wait_for(run / "checkpoints" / "0*")
        if sign:
            family.wait_for(run / sign)
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            family.signal(number)
        return family.end(60)[0]


def test_killed_while_saving_then_stopped(uninterrupted, dataset, tmp_path):
    whole, _ = uninterrupted
    run = tmp_path / "run"
    assert interrupt(dataset, run, signal.SIGKILL, 0, "checkpoints/.0000003*.partial") == -signal.SIGKILL
    assert interrupt(dataset, run, signal.SIGTERM, 0, "checkpoints/.0000004*.partial") == 130
    finish(dataset, run)
    assert_same(run, whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_killed_and_stopped_anytime(uninterrupted, dataset, tmp_path, seed):
    whole, seconds = uninterrupted
    run, rng = tmp_path / "run", random.Random(seed)
    for _ in range(5):
        number = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        interrupt(dataset, run, number, rng.random() * 0.6 * seconds)
    finish(dataset, run)
    assert_same(run, whole)


def test_next_start_removes_partial_files(tmp_path):
    run = tmp_path / "run"
    toy_train(run, images=160)
    left = [
        run / ".losses.png.7.partial",
        run / "samples/.000000160.png.7.partial",
        run / "checkpoints/.000000320.partial",
    ]
    for path in left[:2]:
        path.write_bytes(b"half")
    left[2].mkdir()
    toy_train(run, images=160)  # which is finished
    assert not any(path.exists() for path in left)


def test_replacing_a_checkpoint_is_atomic(tmp_path):
    toy_train(tmp_path / "run", images=160)
    stops = 0
    while True:
        folder = Path(shutil.copytree(tmp_path / "run/checkpoints", tmp_path / f"{stops}"))
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
        found = CheckpointManager(folder).newest(lambda text: pytest.fail(text))
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
    config = toy_config(images=640)
    whole = toy_train(tmp_path / "whole", images=640).run
    capsys.readouterr()
    run = disk_of_16_mb / "run"
    toy_run(run, config, stop=Filler(disk_of_16_mb, 5, 25))
    output = capsys.readouterr().err.splitlines()
    assert output == [
        f"warning: {run} cannot be written (No space left on device). Training continues; its logs wait.",
        "warning: the checkpoint at 160 images could not be saved (No space left on device). "
        "Training continues; the next save retries.",
        "warning: the checkpoint at 320 images could not be saved (No space left on device). "
        "Training continues; the next save retries.",
    ]
    assert without_times(run) == without_times(whole)
    assert weights(run) == weights(whole)
    for grid in (whole / "samples").iterdir():
        assert (run / "samples" / grid.name).read_bytes() == grid.read_bytes()
    assert steps_of(run, "loss_g") == list(range(32, 641, 32))
    assert "can be written again" in (run / "log.txt").read_text()
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["000000000", "000000480", "000000640"]


def test_disk_that_stays_full_is_an_error(disk_of_16_mb, tmp_path, capsys):
    config = toy_config(images=640)
    whole = toy_train(tmp_path / "whole", images=640).run
    run = disk_of_16_mb / "run"
    filler = Filler(disk_of_16_mb, 12, 10**6)
    with pytest.raises(DiskError) as caught:
        toy_run(run, config, stop=filler)
    assert str(caught.value) == (
        "The checkpoint at 640 images could not be saved; the newest has 160 images.\n"
        f"Free disk space for {run}, then start the same command again."
    )
    assert caught.value.exit_code == 1
    assert not list(run.rglob("*.partial"))
    filler.file.unlink()
    toy_run(run, config)
    assert without_times(run) == without_times(whole)
    assert weights(run) == weights(whole)


@given(st.lists(st.one_of(st.binary(max_size=9000), st.sampled_from(["fill", "room"])), max_size=12))
def test_append_only_file_has_whole_pieces(small_folder, actions):
    """On a small disk: the file is a prefix of the pieces, and with free space all of them."""
    path = small_folder / "file"
    path.unlink(missing_ok=True)
    file, added = AppendOnlyFile(path), []
    os.truncate(small_folder / "filler", 0)
    for action in actions:
        if action == "fill":
            with (small_folder / "filler").open("ab", buffering=0) as filler, contextlib.suppress(OSError):
                while filler.write(b"\0" * 4096):
                    pass
        elif action == "room":
            os.truncate(small_folder / "filler", 0)
        else:
            added.append(action)
            with contextlib.suppress(DiskError):
                file.add(action)
            whole = path.read_bytes()
            assert len(whole) == file.length
            assert whole in {b"".join(added[:count]) for count in range(len(added) + 1)}
    os.truncate(small_folder / "filler", 0)
    file.sync()
    assert path.read_bytes() == b"".join(added)


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("small")
    mounted = os.geteuid() == 0 and shutil.which("mount")
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if not mounted or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    (folder / "filler").touch()
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_damaged_checkpoints_are_skipped(tmp_path, capsys):
    whole = toy_train(tmp_path / "whole", images=96, save_every=16, keep=9)
    for name, damage, words in [
        ("state.json", lambda data: data.replace(b'"rounds": 4', b'"rounds": 5'), "state.json has another SHA-256"),
        ("state.json", lambda data: data[:-20], "state.json cannot be read"),
        ("state.safetensors", lambda data: data[:-1], "state.safetensors has "),
        ("state.safetensors", lambda data: data[:-1] + b"?", "state.safetensors has another SHA-256"),
        ("generator.safetensors", lambda data: b"", "generator.safetensors has 0 bytes"),
    ]:
        run = Path(shutil.copytree(whole.run, tmp_path / "run"))
        for later in ("000000080", "000000096"):
            shutil.rmtree(run / "checkpoints" / later)
        file = run / "checkpoints/000000064" / name
        file.write_bytes(damage(file.read_bytes()))
        toy_train(run, images=96, save_every=16, keep=9)
        output = capsys.readouterr().err
        assert f"000000064 is damaged ({words}" in output
        assert "using the one before." in output
        assert (run / "generator.safetensors").read_bytes() == whole.generator.read_bytes()
        assert without_times(run) == without_times(whole.run)
        assert (run / "checkpoints/000000064.damaged").is_dir()
        shutil.rmtree(run)


def test_invalid_lines_of_stats_stay(tmp_path):
    """An empty line, and one that somebody has damaged: a resumed run keeps them, and all rows."""
    whole = toy_train(tmp_path / "whole").run
    run = tmp_path / "run"
    toy_train(run, images=160)
    lines = (run / "stats.jsonl").read_bytes().splitlines(keepends=True)
    (run / "stats.jsonl").write_bytes(b"".join([lines[0], b"\n", *lines[1:]]))
    toy_train(run)
    assert without_times(run) == without_times(whole)
    lines = (run / "stats.jsonl").read_bytes().splitlines(keepends=True)
    (run / "stats.jsonl").write_bytes(b"".join([*lines[:3], b"{damaged\n", *lines[3:]]))
    toy_train(run)
    assert (run / "stats.jsonl").read_bytes().splitlines(keepends=True) == [*lines[:3], b"{damaged\n", *lines[3:]]


def test_incomplete_line_is_cut_away(tmp_path):
    whole = toy_train(tmp_path / "whole").run
    run = tmp_path / "run"
    toy_train(run, images=160)
    with (run / "stats.jsonl").open("ab") as file:
        file.write(b'{"images": 192, "rounds": 12, "loss_d"')
    toy_train(run)
    assert without_times(run) == without_times(whole)
    assert len(read_stats(run)) == len((run / "stats.jsonl").read_bytes().splitlines())

"""Tar shards that facegan did not make, and the output of commands."""

from __future__ import annotations

import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest
import torch

from facegan.errors import DatasetError, FaceganError, SettingsError
from facegan.stream import FaceShards, StreamOptions, WebDatasetShards, open_faces
from tests.prep.servers import FAST, FlakyServer
from tests.recording import RecordingConsole
from tests.shards.made import rewrite

SIZE = 24


def picture(number: int, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    return np.full((height, width, 3), number, np.uint8)


def shard(path: Path, pictures: dict[str, np.ndarray | bytes]) -> Path:
    encoded = {
        name: pixels if isinstance(pixels, bytes) else cv2.imencode(Path(name).suffix, pixels)[1].tobytes()
        for name, pixels in pictures.items()
    }
    rewrite(path, encoded)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures, filled with their number, in three tars; some have a text file."""
    folder = tmp_path_factory.mktemp("foreign")
    for number in range(3):
        first = 4 * number
        pictures: dict[str, np.ndarray | bytes] = {f"deep/{first + i}.png": picture(first + i) for i in range(4)}
        pictures[f"deep/{first}.txt"] = b"a face"
        shard(folder / f"x-{number}.tar", dict(sorted(pictures.items())))
    return folder


def values_of(faces: FaceShards | WebDatasetShards, count: int, batch: int = 6, **options) -> list[int]:
    batches = faces.batches(batch, **options)
    taken = [next(batches) for _ in range(count)]
    batches.close()
    assert all(
        one.shape == (batch // options.get("world_size", 1), 3, SIZE, SIZE) and one.dtype == torch.uint8
        for one in taken
    )
    return [int(face[0, 0, 0]) for one in taken for face in one]


def test_epochs_show_every_face(folder: Path) -> None:
    heard = RecordingConsole()
    faces = open_faces(f"{folder}/x-{{0..2}}.tar", console=heard)
    assert (len(faces), faces.size, faces.channels) == (12, SIZE, 3)
    assert "in random but not exact order" in heard.notes[0]
    taken = values_of(faces, 200)
    assert np.bincount(taken, minlength=12).tolist() == pytest.approx([100] * 12, rel=0.7)
    assert taken[:12] != sorted(taken[:12])


def test_output_of_commands_and_compressed_tars(folder: Path, tmp_path: Path) -> None:
    faces = open_faces(f"pipe:cat {shlex.quote(str(folder / 'x-1.tar'))}")
    assert len(faces) == 4
    assert set(values_of(faces, 10)) == {4, 5, 6, 7}
    shard(tmp_path / "a.tar.gz", {f"{i}.jpg": picture(16 * i) for i in range(4)})
    assert set(values_of(open_faces(str(tmp_path / "a.tar.gz")), 10)) == {0, 16, 32, 48}


def test_http_shards_are_retried(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FAST.items():
        monkeypatch.setenv(name, value)
    fsspec.filesystem("http").clear_instance_cache()
    with FlakyServer(folder) as server:
        server.faults = {"x-1.tar": ["503"], "x-2.tar": ["short"]}
        faces = open_faces(f"{server.url}/x-{{0..2}}.tar")
        assert len(faces) == 12
        assert len(set(values_of(faces, 20))) == 12
        server.always["x-1.tar"] = "404"
        with pytest.raises(DatasetError, match=r"x-1.tar cannot be read"):
            values_of(open_faces(f"{server.url}/x-{{0..2}}.tar"), 400)
        assert not list((cache / "shards").iterdir())


def test_ranks_show_different_faces(folder: Path) -> None:
    faces = open_faces(f"{folder}/x-{{0..2}}.tar")
    seen = [set(values_of(faces, 40, batch=6, rank=rank, world_size=2)) for rank in (0, 1)]
    assert all(seen)
    with pytest.raises(SettingsError, match="cannot be divided evenly by 4"):
        faces.batches(6, world_size=4)


def test_position_is_saved_and_restored(folder: Path) -> None:
    faces = open_faces(f"{folder}/x-{{0..2}}.tar")
    first = faces.batches(6)
    next(first)
    state = first.state_dict()
    first.close()
    assert state["position"] == 6
    first = faces.batches(6)
    first.load_state_dict(state)
    next(first)
    assert first.state_dict()["position"] == 12
    first.close()
    with pytest.raises(DatasetError, match="not the shards of the saved position"):
        open_faces(f"{folder}/x-{{0..1}}.tar").batches(6).load_state_dict(state)


@pytest.mark.parametrize(
    ("pictures", "said"),
    [
        ({"a.png": picture(1, 20, 24)}, r"a.png in .* has 24×20 pixels; faces must be squares"),
        ({"a.png": b"no image"}, r"a.png in .* cannot be decoded"),
        ({"a.txt": b"text"}, "has no images"),
    ],
)
def test_unsuitable_images_are_named(tmp_path: Path, pictures: dict, said: str) -> None:
    path = shard(tmp_path / "x.tar", pictures)
    with pytest.raises(DatasetError, match=said):
        values_of(open_faces(str(path)), 20)


def test_skip_broken_counts(tmp_path: Path) -> None:
    heard = RecordingConsole()
    path = shard(tmp_path / "x.tar", {"a.png": picture(1), "b.png": picture(2, 20, 20), "c.png": picture(3)})
    faces = open_faces(str(path), options=StreamOptions(skip_broken=True), console=heard)
    assert set(values_of(faces, 10)) == {1, 3}
    assert faces.skipped == len(heard.warnings) > 0
    assert "It is left out (--skip-broken)" in heard.warnings[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "val"}, "--split val: only datasets of facegan prep have splits"),
        ({"options": StreamOptions(verify=True)}, "has no checksums"),
        ({"options": StreamOptions("ram")}, "--cache ram needs numbered faces"),
        ({"options": StreamOptions(workers=2)}, "--workers has no effect"),
    ],
)
def test_options_without_effect_are_refused(folder: Path, options: dict, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        open_faces(f"{folder}/x-0.tar", **options)


def test_unreadable_tars_and_failing_commands(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"x-7.tar cannot be read"):
        open_faces(str(folder / "x-7.tar"))
    with pytest.raises(DatasetError, match="its exit code is 7"):
        len(open_faces(f"pipe:head -c 3000 {shlex.quote(str(folder / 'x-0.tar'))}; exit 7"))
    with pytest.raises(SettingsError, match=r"x-\{0.tar"):
        open_faces(f"{folder}/x-{{0.tar")
    (tmp_path / "cut.tar").write_bytes((folder / "x-0.tar").read_bytes()[:3000])
    with pytest.raises(DatasetError, match=r"cut.tar cannot be read"):
        values_of(open_faces(str(tmp_path / "cut.tar")), 1)


def test_error_is_raised_again(folder: Path, tmp_path: Path) -> None:
    path = shard(tmp_path / "x.tar", {"a.png": picture(1), "b.png": picture(1, 20, 20)})
    batches = open_faces(str(path)).batches(6)
    for _ in range(3):
        with pytest.raises(DatasetError, match=r"b.png in .* is not an image of 24×24"):
            next(batches)
    batches.close()
    with pytest.raises(FaceganError, match="The stream was closed"):
        next(batches)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def silent(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A command that prints four faces, starts another command, ignores SIGTERM and never ends."""
    monkeypatch.setattr("facegan.stream.tar._GRACE_SECONDS", 0.1)
    pids = tmp_path / "pids"
    words = (
        f"sleep 1000 & echo $! >> {pids}; echo $$ >> {pids}; cat {shlex.quote(str(folder / 'x-0.tar'))} | head -c 5000"
    )
    return f"pipe:trap '' TERM; {words}; sleep 1000"


def all_ended(pids: Path) -> bool:
    """All processes that the commands started."""
    started, deadline = [int(pid) for pid in pids.read_text().split()], time.monotonic() + 20
    while any(map(is_running, started)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(is_running, started))


def test_close_ends_waiting_for_command(silent: str, tmp_path: Path) -> None:
    batches = open_faces(silent).batches(6)
    closing = threading.Timer(0.5, batches.close)
    closing.start()
    with pytest.raises(FaceganError, match="The stream was closed"):
        next(batches)
    closing.join()
    assert all_ended(tmp_path / "pids")
    assert len((tmp_path / "pids").read_text().split()) == 4  # once for the size, once for the batch


def test_silent_command_times_out(silent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faces = open_faces(silent)
    monkeypatch.setenv("FACEGAN_TIMEOUT_SECONDS", "0.05")
    for ask in (lambda: next(faces.batches(6)), lambda: len(faces)):
        with pytest.raises(DatasetError, match=r"cannot be read: .?it printed nothing for 0.5 seconds"):
            ask()
    assert all_ended(tmp_path / "pids")


def test_command_ends_with_process(silent: str, tmp_path: Path) -> None:
    script = (
        "import signal, sys; from facegan.stream import open_faces; "
        "signal.signal(signal.SIGALRM, lambda *_: sys.exit()); batches = open_faces(sys.argv[1]).batches(6); "
        "signal.setitimer(signal.ITIMER_REAL, 0.3); next(batches)"
    )
    command = [sys.executable, "-c", script, silent]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert all_ended(tmp_path / "pids")

"""Datasets behind URLs: an S3 store and a flaky HTTP server, both on loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from facegan.errors import DatasetError, SettingsError
from facegan.stream import FaceShards, open_faces
from tests.prep.servers import FlakyServer, s3_server
from tests.recording import RecordingConsole
from tests.shards.made import flip, reseal

Numbers = Callable[[torch.Tensor], list[int]]
SHARDS = [f"train-{i:06d}.tar" for i in range(5)]


def batches_of(faces: FaceShards, numbers: Numbers, count: int, **options) -> list[list[int]]:
    batches = faces.batches(**{"batch_size": 4, "seed": 2, **options})
    taken = [numbers(next(batches)) for _ in range(count)]
    batches.close()
    faces.close()
    return taken


def test_url_gives_same_batches_as_folder(flaky: FlakyServer, made: Path, numbers: Numbers) -> None:
    local = batches_of(FaceShards(made), numbers, 20)
    for _ in range(2):  # then from the user cache
        assert batches_of(FaceShards(flaky.url), numbers, 20) == local
        assert {name: flaky.asked[name] for name in SHARDS} == dict.fromkeys(SHARDS, 1)


def test_s3_gives_same_batches(made: Path, cache: Path, numbers: Numbers) -> None:
    with s3_server():
        fs = fsspec.filesystem("s3")
        for path in made.iterdir():
            if path.is_file():
                fs.put_file(str(path), f"faces/deep/{path.name}")
        assert batches_of(FaceShards("s3://faces/deep/"), numbers, 20) == batches_of(FaceShards(made), numbers, 20)
        with pytest.raises(DatasetError, match=r"s3://faces/none/dataset.json is unavailable"):
            FaceShards("s3://faces/none")


@pytest.mark.parametrize("fault", ["drop", "503", "short", "no length", "hang"])
def test_temporary_faults_are_retried(flaky: FlakyServer, made: Path, numbers: Numbers, fault: str) -> None:
    flaky.faults = {name: [fault] for name in ["dataset.json", *SHARDS]}
    assert batches_of(FaceShards(flaky.url), numbers, 10) == batches_of(FaceShards(made), numbers, 10)
    assert min(flaky.asked[name] for name in SHARDS) == 2


def test_skip_broken_leaves_out_shards(flaky: FlakyServer, numbers: Numbers) -> None:
    flaky.always["train-000003.tar"] = "404"  # faces 20 to 26
    heard = RecordingConsole()
    faces = FaceShards(flaky.url, skip_broken=True, console=heard)
    taken = [face for batch in batches_of(faces, numbers, 15, batch_size=6) for face in batch]
    assert set(taken) == set(range(30)) - set(range(20, 27))
    assert (len(taken), faces.skipped) == (90, 7)
    (said,) = heard.warnings
    assert said.startswith(f"The shard {flaky.url}/train-000003.tar is unavailable: FileNotFoundError")
    assert said.endswith("With --skip-broken its 7 faces are left out.")
    again = FaceShards(flaky.url, skip_broken=True)
    assert [face for batch in batches_of(again, numbers, 15, batch_size=6) for face in batch] == taken


def test_damaged_cache_is_downloaded_again(flaky: FlakyServer, made: Path, numbers: Numbers, cache: Path) -> None:
    local = batches_of(FaceShards(made), numbers, 10)
    assert batches_of(FaceShards(flaky.url), numbers, 10) == local
    for number, path in enumerate(sorted((cache / "shards").glob("*.tar"))):
        data = path.read_bytes()
        path.write_bytes(data[:-1] if number % 2 else data[:600] + b"?" + data[601:])
    assert batches_of(FaceShards(flaky.url), numbers, 10) == local
    assert {flaky.asked[name] for name in SHARDS} == {2}


class Silent(fsspec.AbstractFileSystem):
    """A protocol without timeouts of its own, as those of gs:// and hf:// may be, whose server says nothing."""

    protocol = "silent"
    root, heard = Path(), threading.Event()
    names: tuple[str, ...] = ()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("silent://")

    def get_file(self, rpath, lpath=None, callback=None, outfile=None, **options) -> None:
        if Path(rpath).name in self.names:
            self.heard.wait()
        shutil.copy(self.root / Path(rpath).name, str(lpath))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"samples": 10**12}, "cannot hold 1,000,000,000,000 samples"),
        ({"samples": 10**18, "bytes": 10**30}, "dataset.json is damaged"),
        ({"size": 10**9}, "dataset.json has an invalid setting: size is 1000000000"),
        ({"size": "64"}, "dataset.json has an invalid setting: size is '64'"),
    ],
)
def test_implausible_sizes_are_refused(flaky: FlakyServer, tmp_path: Path, changes: dict, said: str) -> None:
    info = json.loads((flaky.folder / "dataset.json").read_text())
    if "size" in changes:
        info["settings"] |= changes
    else:
        info["shards"][0] |= changes
    flaky.folder = tmp_path
    (tmp_path / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(DatasetError, match=said):
        FaceShards(flaky.url)


@pytest.mark.parametrize("name", ["dataset.json", SHARDS[2]])
def test_endless_data_is_refused(flaky: FlakyServer, cache: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facegan.stream.remote._MOST_INFO_BYTES", 1_000_000)
    flaky.always[name] = "endless"
    with pytest.raises(DatasetError, match=rf"{name} is unavailable: .*the server sends more than"):
        FaceShards(flaky.url).pixels(15)
    assert not list(cache.glob("shards/.*"))


@pytest.mark.parametrize(
    ("name", "fault", "asked", "advice"),
    [
        ("dataset.json", "503", 4, "Is http://127.0.0.1"),
        (SHARDS[3], "503", 4, "--skip-broken"),
        (SHARDS[3], "404", 1, ""),
    ],
)
def test_unavailable_file_is_named(flaky: FlakyServer, name: str, fault: str, asked: int, advice: str) -> None:
    flaky.always[name] = fault
    with pytest.raises(DatasetError, match=rf"{flaky.url}/{name} is unavailable") as raised:
        FaceShards(flaky.url)
    assert advice in str(raised.value)
    assert flaky.asked[name] == asked


def test_wrong_checksum_is_refused(flaky: FlakyServer, made: Path, tmp_path: Path, cache: Path) -> None:
    flaky.folder = Path(shutil.copytree(made, tmp_path / "other"))
    shard = flaky.folder / SHARDS[1]
    flip(shard, -20_000)
    with pytest.raises(DatasetError, match=r"1.tar is unavailable: OSError: the download differs from the SHA-256"):
        FaceShards(flaky.url)
    assert len(list((cache / "shards").glob("*.tar"))) == 4
    assert not list((cache / "shards").glob("*.partial"))


@pytest.mark.parametrize("name", ["dataset.json", SHARDS[0]])
def test_silent_protocol_times_out(made: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    fsspec.register_implementation("silent", Silent, clobber=True)
    monkeypatch.setenv("FACEGAN_TIMEOUT_SECONDS", "0.1")
    monkeypatch.setenv("FACEGAN_RETRY_SECONDS", "0.01")
    monkeypatch.setattr(Silent, "root", made)
    monkeypatch.setattr(Silent, "names", (name,))
    with pytest.raises(DatasetError, match=rf"silent://x/{name} is unavailable: OSError: no data for 0.3 seconds"):
        FaceShards("silent://x")
    Silent.heard.set()
    Silent.heard = threading.Event()


def test_dataset_larger_than_cache_is_streamed(
    flaky: FlakyServer, numbers: Numbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACEGAN_CACHE_GB", "much")
    with pytest.raises(SettingsError, match=r"FACEGAN_CACHE_GB=much is invalid. Set a number of gigabytes above 0"):
        FaceShards(flaky.url)
    monkeypatch.setenv("FACEGAN_CACHE_GB", "0.0001")
    with pytest.raises(SettingsError, match=r"user cache may hold 100 kB.\nSet FACEGAN_CACHE_GB to 0.\d+ or more"):
        FaceShards(flaky.url)
    heard = RecordingConsole()
    faces = open_faces(flaky.url, console=heard)
    assert (len(faces), faces.size, faces.channels) == (30, 28, 3)
    assert "in random but not exact order" in heard.notes[0]
    batches = faces.batches(6, seed=2)
    assert {face for _ in range(60) for face in numbers(next(batches))} == set(range(30))
    batches.close()


def test_least_recently_used_is_evicted(flaky: FlakyServer, made: Path, cache: Path, monkeypatch) -> None:
    shards = cache / "shards"
    shards.mkdir(parents=True)
    for name, age in (("old", 1), ("older", 0)):
        (shards / f"{name}.tar").write_bytes(bytes(50_000))
        os.utime(shards / f"{name}.tar", (age, age))
    total = sum((made / name).stat().st_size for name in SHARDS)
    monkeypatch.setenv("FACEGAN_CACHE_GB", str((total + 60_000) / 1e9))
    FaceShards(flaky.url)
    assert (shards / "old.tar").exists()
    assert not (shards / "older.tar").exists()


def test_evicted_shard_is_downloaded_again(flaky: FlakyServer, made: Path, cache: Path) -> None:
    faces, local = FaceShards(flaky.url), FaceShards(made)
    for path in (cache / "shards").glob("*.tar"):
        path.unlink()
    assert np.array_equal(faces.pixels(0), local.pixels(0))
    assert flaky.asked[SHARDS[0]] == 2


def test_interrupt_does_not_wait_for_download(flaky: FlakyServer, cache: Path) -> None:
    flaky.always = dict.fromkeys(SHARDS[1:], "slow")  # for ten minutes each
    code = (
        "import signal, sys, time; from facegan import FaceShards\n"
        "def stop(*_): raise KeyboardInterrupt\n"
        "signal.signal(signal.SIGALRM, stop); signal.setitimer(signal.ITIMER_REAL, 0.5)\n"
        "try: FaceShards(sys.argv[1])\n"
        "except KeyboardInterrupt: print('stopped')\n"
    )
    environment = {**os.environ, "FACEGAN_TIMEOUT_SECONDS": "30"}
    command = [sys.executable, "-c", code, flaky.url]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped\n", "")
    flaky.always = {}
    assert FaceShards(flaky.url).pixels(29).any()
    assert not list((cache / "shards").glob(".*"))


def test_processes_download_shards_once(flaky: FlakyServer, made: Path) -> None:
    code = "import sys; from facegan import FaceShards; print(int(FaceShards(sys.argv[1]).pixels(29).sum()))"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, flaky.url], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        printed = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert printed == [f"{int(FaceShards(made).pixels(29).sum())}\n"] * 2
    assert {name: flaky.asked[name] for name in SHARDS} == dict.fromkeys(SHARDS, 1)


def test_attributes_come_with_the_faces(flaky: FlakyServer, made: Path, cache: Path) -> None:
    table = pq.read_table(made / "photos.parquet")
    table = table.append_column("Age", [np.arange(len(table))])
    out = Path(shutil.copytree(made, cache.parent / "aged"))
    pq.write_table(table, out / "photos.parquet")
    reseal(out)
    flaky.folder, flaky.faults = out, {"photos.parquet": ["short"]}
    ages = FaceShards(flaky.url).attributes(["Age"])
    assert ages.equals(FaceShards(out).attributes())
    assert FaceShards(flaky.url).attributes().equals(ages)
    assert flaky.asked["photos.parquet"] == 2
    (out / "photos.parquet").write_bytes(b"altered")
    shutil.rmtree(cache / "shards")
    with pytest.raises(DatasetError, match=r"photos\.parquet is unavailable: .* differs from the SHA-256"):
        FaceShards(flaky.url).attributes()

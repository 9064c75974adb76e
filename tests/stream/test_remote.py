"""Shards behind a URL: from an S3 store and from an HTTP server that fails as it is told to, both on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

import facegan.stream.fetch
from facegan.errors import DatasetError, FaceganError, SettingsError
from facegan.stream import FaceShards
from tests.hearing import Heard
from tests.prep.servers import Fickle, s3_server

Numbers = Callable[[torch.Tensor], list[int]]
SHARDS = [f"train-{i:06d}.tar" for i in range(5)]


def shown(faces: FaceShards, numbers: Numbers, count: int, **options) -> list[list[int]]:
    batches = faces.batches(**{"batch_size": 4, "seed": 2, **options})
    taken = [numbers(next(batches)) for _ in range(count)]
    batches.close()
    faces.close()
    return taken


def sums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.tar"))}


@pytest.mark.parametrize("kind", ["off", "ram"])
def test_the_same_batches_as_from_a_folder(fickle: Fickle, made: Path, numbers: Numbers, kind: str) -> None:
    local = shown(FaceShards(made), numbers, 20, cache=kind)
    assert shown(FaceShards(fickle.url), numbers, 20, cache=kind) == local
    assert {name: fickle.asked[name] for name in SHARDS} == dict.fromkeys(SHARDS, 1)
    assert shown(FaceShards(fickle.url), numbers, 20, cache=kind) == local  # from the cache folder now
    assert {name: fickle.asked[name] for name in SHARDS} == dict.fromkeys(SHARDS, 1)


def test_a_whole_file_of_faces_needs_no_shards(fickle: Fickle, made: Path, numbers: Numbers, cache: Path) -> None:
    local = shown(FaceShards(made), numbers, 20, cache="off")
    assert shown(FaceShards(fickle.url), numbers, 20, cache="disk") == local
    assert [path.suffix for path in sorted((cache / "decoded").iterdir())] == [".faces", ".lock"]
    shutil.rmtree(cache / "shards")
    fickle.asked.clear()
    assert shown(FaceShards(fickle.url), numbers, 20, cache="disk") == local
    assert set(fickle.asked) == {"dataset.json"}


def test_a_face_by_number(fickle: Fickle, made: Path) -> None:
    here, there = FaceShards(made), FaceShards(fickle.url)
    for number in (29, 0, 13):
        assert np.array_equal(here[number][0], there[number][0])
        assert here[number][1] == there[number][1]
    there.close()


def test_from_s3(made: Path, cache: Path, numbers: Numbers) -> None:
    with s3_server():
        fs = fsspec.filesystem("s3")
        for path in made.iterdir():
            if path.is_file():
                fs.put_file(str(path), f"faces/deep/{path.name}")
        assert shown(FaceShards("s3://faces/deep/"), numbers, 20) == shown(FaceShards(made), numbers, 20)
        with pytest.raises(DatasetError, match=r"s3://faces/none/dataset.json can't be had"):
            FaceShards("s3://faces/none")
    entries = json.loads((made / "dataset.json").read_text())["shards"]
    assert sums(cache / "shards") == {f"{entry['sha256']}.tar": entry["sha256"] for entry in entries}


@pytest.mark.parametrize("fault", ["drop", "503", "short", "untold", "hang"])
def test_a_fault_that_passes_is_not_noticed(fickle: Fickle, made: Path, numbers: Numbers, fault: str) -> None:
    fickle.faults = {name: [fault] for name in ["dataset.json", *SHARDS]}
    assert shown(FaceShards(fickle.url), numbers, 10) == shown(FaceShards(made), numbers, 10)
    assert min(fickle.asked[name] for name in SHARDS) == 2


@pytest.mark.parametrize(("fault", "asked"), [("503", 4), ("404", 1), ("short", 4)])
def test_a_shard_that_stays_broken_is_named(fickle: Fickle, fault: str, asked: int) -> None:
    fickle.always["train-000003.tar"] = fault
    faces = FaceShards(fickle.url)
    with pytest.raises(DatasetError, match=rf"The shard {fickle.url}/train-000003.tar can't be had") as told:
        for _ in faces.batches(30):
            pass
    assert "--skip-broken" in str(told.value)
    assert fickle.asked["train-000003.tar"] == asked
    faces.close()


def test_a_shard_with_another_sum_is_not_taken(fickle: Fickle, made: Path, tmp_path: Path, cache: Path) -> None:
    fickle.folder = Path(shutil.copytree(made, tmp_path / "other"))
    shard = fickle.folder / SHARDS[1]
    data = bytearray(shard.read_bytes())
    data[-20_000] ^= 1
    shard.write_bytes(data)
    faces = FaceShards(fickle.url)
    with pytest.raises(DatasetError, match=r"train-000001.tar can't be had: OSError: what came has not the SHA-256"):
        next(faces.batches(30))
    faces.close()
    assert len(sums(cache / "shards")) == 4
    assert not list((cache / "shards").glob("*.partial"))


def test_skip_broken_counts_and_goes_on(fickle: Fickle, numbers: Numbers) -> None:
    fickle.always["train-000003.tar"] = "404"  # faces 20 to 26
    heard = Heard()
    faces = FaceShards(fickle.url, skip_broken=True, console=heard)
    taken = [face for batch in shown(faces, numbers, 15, batch_size=6) for face in batch]
    assert set(taken) == set(range(30)) - set(range(20, 27))
    assert (len(taken), faces.skipped) == (90, 7)
    (said,) = heard.warnings
    assert said.startswith(f"The shard {fickle.url}/train-000003.tar can't be had: FileNotFoundError")
    assert said.endswith("With --skip-broken its 7 faces are left out.")
    again = FaceShards(fickle.url, skip_broken=True)
    assert [face for batch in shown(again, numbers, 15, batch_size=6) for face in batch] == taken


def test_a_damaged_file_in_the_cache_is_fetched_anew(fickle: Fickle, made: Path, numbers: Numbers, cache: Path) -> None:
    local = shown(FaceShards(made), numbers, 10)
    assert shown(FaceShards(fickle.url), numbers, 10) == local
    for number, path in enumerate(sorted((cache / "shards").glob("*.tar"))):
        data = path.read_bytes()
        path.write_bytes(data[:-1] if number % 2 else data[:600] + b"?" + data[601:])
    assert shown(FaceShards(fickle.url), numbers, 10) == local
    assert {fickle.asked[name] for name in SHARDS} == {2}


@pytest.fixture
def bounded(made: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """A cache of four shards and a bit: blocks of two."""
    largest = max((made / name).stat().st_size for name in SHARDS)
    monkeypatch.setenv("FACEGAN_CACHE_GB", str(4.2 * largest / 1e9))
    assert sum((made / name).stat().st_size for name in SHARDS) > 4.2 * largest
    return int(4.2 * largest)


@pytest.mark.parametrize("kind", ["off", "ram"])
def test_a_dataset_larger_than_the_cache(
    fickle: Fickle, numbers: Numbers, cache: Path, bounded: int, kind: str
) -> None:
    faces = FaceShards(fickle.url)
    assert faces.block_shards == 2
    whole = shown(faces, numbers, 30, cache=kind)
    sequence = [face for batch in whole for face in batch]
    for epoch in range(4):
        assert sorted(sequence[30 * epoch : 30 * epoch + 30]) == list(range(30))
    used = sum(path.stat().st_size for path in (cache / "shards").glob("*.tar"))
    assert 0 < used <= bounded
    ranks = [shown(FaceShards(fickle.url), numbers, 30, cache=kind, rank=rank, world_size=2) for rank in (0, 1)]
    assert [one + two for one, two in zip(*ranks, strict=True)] == whole


def test_resuming_in_blocks(fickle: Fickle, numbers: Numbers, bounded: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = shown(FaceShards(fickle.url), numbers, 30)
    faces = FaceShards(fickle.url)
    first = faces.batches(4, 2)
    for _ in range(11):
        next(first)
    state = first.state_dict()
    assert state["block_shards"] == 2
    first.close()
    faces.close()
    monkeypatch.setenv("FACEGAN_CACHE_GB", "1")  # all would fit now: the order stays
    faces = FaceShards(fickle.url)
    second = faces.batches(4, 2)
    second.load_state_dict(state)
    assert [numbers(next(second)) for _ in range(19)] == whole[11:]
    second.close()
    faces.close()
    monkeypatch.setenv("FACEGAN_CACHE_GB", str(bounded / 2 / 1e9))
    faces = FaceShards(fickle.url)
    with pytest.raises(SettingsError, match="needs 2 shards at a time, and the cache for fetched shards holds two"):
        faces.batches(4, 2).load_state_dict(state)
    faces.close()


def test_a_cache_too_small_for_two_shards(fickle: Fickle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEGAN_CACHE_GB", "0.00001")
    with pytest.raises(SettingsError, match=r"two of them do not fit in the cache of 10.0 kB: set FACEGAN_CACHE"):
        FaceShards(fickle.url)


def test_what_was_not_used_for_longest_goes_first(fickle: Fickle, made: Path, cache: Path, monkeypatch) -> None:
    shards = cache / "shards"
    shards.mkdir(parents=True)
    for name, age in (("old", 1), ("older", 0)):
        (shards / f"{name}.tar").write_bytes(bytes(50_000))
        os.utime(shards / f"{name}.tar", (age, age))
    total = sum((made / name).stat().st_size for name in SHARDS)
    monkeypatch.setenv("FACEGAN_CACHE_GB", str((total + 60_000) / 1e9))
    faces = FaceShards(fickle.url, verify=True)
    assert (shards / "old.tar").exists()
    assert not (shards / "older.tar").exists()
    faces.close()


def test_a_shard_that_could_not_be_had_is_asked_for_again(fickle: Fickle, made: Path) -> None:
    fickle.faults["train-000000.tar"] = ["503"] * 4
    faces = FaceShards(fickle.url)
    for _ in range(3):  # for a while the same is told without asking
        with pytest.raises(DatasetError, match=r"train-000000.tar can't be had"):
            faces.pixels(0)
    assert fickle.asked["train-000000.tar"] == 4
    time.sleep(1.1)
    assert np.array_equal(faces.pixels(0), FaceShards(made).pixels(0))
    assert fickle.asked["train-000000.tar"] == 5
    faces.close()


def test_a_shard_that_others_push_out_at_any_moment(
    fickle: Fickle, made: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file goes when it is about to be summed, and when it is about to be opened."""
    faces, local = FaceShards(fickle.url), FaceShards(made)
    faces.pixels(0)
    faces.close()
    summed = facegan.stream.fetch.sha256_file

    def gone(path: Path) -> str:
        if path.suffix == ".tar":
            path.unlink()
        return summed(path)

    with monkeypatch.context() as patched:
        patched.setattr("facegan.stream.fetch.sha256_file", gone)
        faces = FaceShards(fickle.url)
        assert np.array_equal(faces.pixels(0), local.pixels(0))
    faces.rest()
    next((cache / "shards").glob("*.tar")).unlink()
    assert np.array_equal(faces.pixels(1), local.pixels(1))
    assert fickle.asked["train-000000.tar"] == 3
    faces.close()


def test_shards_are_fetched_in_the_order_of_the_stream(
    fickle: Fickle, made: Path, numbers: Numbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facegan.stream.fetch._AT_ONCE", 1)
    ends = np.cumsum(FaceShards(made).counts)
    local = [number for (number,) in shown(FaceShards(made), numbers, 30, batch_size=1, cache="off")]
    needed = list(dict.fromkeys(SHARDS[np.searchsorted(ends, number, "right")] for number in local))
    assert needed != sorted(needed)
    assert [number for (number,) in shown(FaceShards(fickle.url), numbers, 30, batch_size=1, workers=1)] == local
    assert [name for name in fickle.asked if name in SHARDS] == needed


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


@pytest.mark.parametrize("name", ["dataset.json", SHARDS[0]])
def test_a_protocol_without_timeouts_that_goes_quiet(
    made: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fsspec.register_implementation("silent", Silent, clobber=True)
    monkeypatch.setenv("FACEGAN_TIMEOUT_SECONDS", "0.1")
    monkeypatch.setenv("FACEGAN_RETRY_SECONDS", "0.01")
    monkeypatch.setattr(Silent, "root", made)
    monkeypatch.setattr(Silent, "names", (name,))
    why = r"(OSError: nothing came for 0.3|less than 1,000 bytes a) second"
    with pytest.raises(DatasetError, match=rf"silent://x/{name} can't be had: {why}"):
        FaceShards("silent://x").pixels(0)
    assert FaceShards("silent://x").pixels(7).any() if name != "dataset.json" else True
    Silent.heard.set()
    Silent.heard = threading.Event()


def told(fickle: Fickle, folder: Path, **changes) -> None:
    """The server tells something else of its first shard."""
    info = json.loads((fickle.folder / "dataset.json").read_text())
    info["shards"][0] |= changes
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps(info))
    fickle.folder = folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"samples": -1}, "dataset.json is damaged"),
        ({"samples": 10**12}, "can't hold 1,000,000,000,000 samples"),
        ({"samples": 10**30}, "dataset.json is damaged"),
        ({"samples": 10**18, "bytes": 10**30}, "dataset.json is damaged"),
        ({"bytes": -5}, "dataset.json is damaged"),
        ({"bytes": 10**400}, "dataset.json is damaged"),
        ({"samples": 2**33, "bytes": 2**42}, "index of its 8,589,934,616 faces takes 275 GB of memory"),
    ],
)
def test_numbers_that_can_not_be(
    fickle: Fickle, tmp_path: Path, changes: dict, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facegan.stream.claims.available_bytes", lambda: 1e11)  # what the machine tells
    told(fickle, tmp_path / "told", **changes)
    with pytest.raises(DatasetError, match=said):
        FaceShards(fickle.url)


@pytest.mark.parametrize("size", [10**9, -1, "64"])
def test_a_size_that_can_not_be(fickle: Fickle, made: Path, tmp_path: Path, size: object) -> None:
    info = json.loads((made / "dataset.json").read_text())
    info["settings"]["size"] = size
    fickle.folder = tmp_path
    (tmp_path / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(DatasetError, match="does not say how large its faces are"):
        FaceShards(fickle.url)


@pytest.mark.parametrize("name", ["dataset.json", SHARDS[2]])
def test_bytes_without_end(fickle: Fickle, cache: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facegan.stream.fetch._MOST_INFO_BYTES", 1_000_000)
    fickle.always[name] = "endless"
    with pytest.raises(DatasetError, match=rf"{name} can't be had: OSError: more than .* came"):
        FaceShards(fickle.url).pixels(15)
    assert not list(cache.glob("shards/.*"))


def test_closing_does_not_wait_for_a_server_that_hangs(fickle: Fickle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEGAN_TIMEOUT_SECONDS", "60")
    fsspec.filesystem("http").clear_instance_cache()
    fickle.always = dict.fromkeys(SHARDS, "hang")
    faces = FaceShards(fickle.url)
    batches = faces.batches(4)
    told: list[Exception] = []

    def wait() -> None:
        try:
            next(batches)
        except (FaceganError, CancelledError, RuntimeError) as error:  # RuntimeError: its pool takes no work any more
            told.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    while waiting.is_alive() and not fickle.asked.keys() & set(SHARDS):
        time.sleep(0.01)
    batches.close()
    faces.close()
    waiting.join(5)
    assert not waiting.is_alive()
    assert told
    with pytest.raises(FaceganError, match="was closed"):
        faces.pixels(0)


def test_an_unreachable_place(fickle: Fickle) -> None:
    fickle.always["dataset.json"] = "503"
    with pytest.raises(DatasetError, match=r"/dataset.json can't be had: .*503") as told:
        FaceShards(fickle.url)
    assert "Is http://127.0.0.1" in str(told.value)

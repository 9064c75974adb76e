"""Caches: the same batches as without, memory as promised, and a file that outlives the run, or is not believed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from facegan.errors import DatasetError, DiskError, SettingsError
from facegan.shards.images import encode_image
from facegan.stream import Batches, FaceShards
from facegan.stream.cache import MemoryCache
from facegan.stream.order import Order
from facegan.stream.supply import DeviceSupply
from tests.hearing import Heard
from tests.shards.made import members, rewrite


def take(batches: Batches, count: int) -> list[torch.Tensor]:
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_memory_is_used_again_but_never_while_somebody_holds_it(made: Path) -> None:
    batches = FaceShards(made).batches(8)
    held = next(batches)[3:5, 1]
    before = held.clone()
    places = {next(batches).data_ptr() for _ in range(50)}
    assert torch.equal(held, before)
    assert held.untyped_storage().data_ptr() not in places
    assert len(places) < 10
    batches.close()


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("kind", ["off", "ram", "disk"])
def test_any_cache_cold_or_warm_and_any_number_of_threads_give_the_same(
    made: Path, cache: Path, kind: str, workers: int
) -> None:
    plain = take(FaceShards(made).batches(8, seed=5, cache="off"), 12)
    for _ in ("cold", "warm"):
        faces = FaceShards(made)
        assert same(take(faces.batches(8, seed=5, cache=kind, workers=workers), 12), plain)


def test_auto_says_what_it_took_and_why(made: Path) -> None:
    heard = Heard()
    batches = FaceShards(made, console=heard).batches(8)
    batches.close()
    assert batches.cache == "ram"
    assert batches.describe() == {"cache": "ram", "workers": batches.describe()["workers"], "skipped": 0}
    assert "Faces are kept in memory, decoded once: 70.6 kB of the" in heard.notes[-1]


def test_auto_where_memory_is_short(made: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facegan.stream.choice.available_bytes", lambda: 100_000.0)  # what the machine tells
    heard = Heard()
    faces = FaceShards(made, console=heard)
    assert faces.batches(8).cache == "off"
    assert "PNG shards are read as fast" in heard.notes[-1]
    faces.format = "jpg"
    assert faces.batches(8).cache == "disk"
    assert "too much for memory" in heard.notes[-1]
    monkeypatch.setenv("FACEGAN_CACHE_GB", "0.00001")
    for path in (cache / "decoded").iterdir():
        path.unlink()
    assert faces.batches(8).cache == "off"


def test_no_gpu_no_cache_on_it(made: Path) -> None:
    with pytest.raises(SettingsError, match="--cache gpu keeps faces on a GPU, and the device is cpu"):
        FaceShards(made).batches(8, cache="gpu")


def test_the_cache_on_a_device_gives_the_same(made: Path) -> None:
    """With the CPU for a device: what is asked of a GPU is asked of it."""
    faces, order = FaceShards(made), Order(FaceShards(made).counts, 5)
    supply = DeviceSupply(faces, torch.device("cpu"), ThreadPoolExecutor(2), 2)
    wanted = [order.at(8 * i, 8) for i in range(12)]
    waiting = [supply.begin(indices) for indices in wanted]
    for indices, finish in zip(wanted, waiting, strict=True):
        batch = finish()
        supply.between()
        assert np.array_equal(batch.numpy(), np.stack([faces.pixels(int(i)) for i in indices]))
    supply.between()
    supply.between()
    assert supply.begin(wanted[0])().shape == (8, 28, 28, 3)
    supply.close()


def test_once_all_faces_are_on_the_device_batches_are_told_as_numbers(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces = FaceShards(made)
    supply = DeviceSupply(faces, torch.device("cpu"), ThreadPoolExecutor(2), 2)
    plain = take(FaceShards(made).batches(8, seed=5, cache="off"), 20)
    monkeypatch.setattr("facegan.stream.batches.open_supply", lambda *_: ("gpu", supply))
    batches = faces.batches(8, seed=5)
    got, all_faces = [], None
    while len(got) < 20:
        if (all_faces := batches.faces) is None or len(got) % 5 == 4:
            got.append(next(batches))
        else:
            got.append(all_faces[batches.numbers()].permute(0, 3, 1, 2))
    assert all_faces is not None
    assert same(got, plain)
    assert batches.state_dict()["position"] == 20 * 8
    batches.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["gpu", "ram", "off"])
def test_the_same_on_a_gpu(made: Path, kind: str) -> None:
    plain = take(FaceShards(made).batches(8, seed=5, cache="off"), 12)
    there = take(FaceShards(made).batches(8, seed=5, cache=kind, device="cuda"), 12)
    assert all(batch.is_cuda for batch in there)
    assert same([batch.cpu() for batch in there], plain)


def test_memory_holds_the_faces_and_little_else(made: Path) -> None:
    faces = FaceShards(made)
    kept = MemoryCache(faces)
    kept.fill(np.arange(len(faces)))
    pixels = 28 * 28 * 3
    assert pixels <= (kept.faces.nbytes + kept.filled.nbytes) / len(faces) < 1.1 * pixels


def test_a_file_is_found_by_the_next_run_and_read_without_the_shards(made: Path, cache: Path) -> None:
    first, heard = take(FaceShards(made).batches(8, cache="disk"), 20), Heard()
    file = next((cache / "decoded").glob("*.faces"))
    assert file.stat().st_size == 30 * (28 * 28 * 3 + 4)
    again = FaceShards(made, console=heard)
    again.read = None  # type: ignore[method-assign, assignment] # it must not be asked for anything
    assert same(take(again.batches(8, cache="disk"), 20), first)
    assert "as an earlier run left them" in heard.notes[-1]
    assert heard.warnings == []
    assert sorted(path.suffix for path in (cache / "decoded").iterdir()) == [".faces", ".lock"]


def test_a_damaged_file_is_not_believed(made: Path, cache: Path) -> None:
    first, heard = take(FaceShards(made).batches(8, cache="disk"), 20), Heard()
    file = next((cache / "decoded").glob("*.faces"))
    data = bytearray(file.read_bytes())
    data[5 * 28 * 28 * 3 + 100] ^= 1
    file.write_bytes(data)
    assert same(take(FaceShards(made, console=heard).batches(8, cache="disk"), 20), first)
    assert [text for text in heard.warnings if "is damaged: its faces are decoded anew" in text]
    assert not file.exists()
    assert same(take(FaceShards(made).batches(8, cache="disk"), 20), first)
    assert file.exists()
    file.write_bytes(file.read_bytes()[:-1])  # of another size: no cache of these faces
    assert same(take(FaceShards(made).batches(8, cache="disk"), 20), first)


def kept(cache: Path) -> list[Path]:
    return list((cache / "decoded").glob("*.faces"))


def test_what_a_killed_run_left_is_made_anew(made: Path, cache: Path) -> None:
    faces = FaceShards(made)
    (cache / "decoded").mkdir(parents=True)
    partials = [cache / "decoded" / f".{name}.faces.partial" for name in (faces.decoded_key, "of other shards")]
    for partial in partials:
        partial.write_bytes(b"half")
    plain = take(faces.batches(8, cache="off"), 20)
    assert same(take(FaceShards(made).batches(8, cache="disk"), 20), plain)
    assert not list((cache / "decoded").glob("*.partial"))
    assert len(kept(cache)) == 1


def test_processes_fill_one_file_together(made: Path, cache: Path) -> None:
    plain = take(FaceShards(made).batches(8, cache="off"), 12)
    faces, heard = FaceShards(made), Heard()
    first, second = FaceShards(made).batches(8, cache="disk"), faces.batches(8, cache="disk")
    third = FaceShards(made, console=heard).batches(8, cache="disk")
    assert (first.cache, second.cache, third.cache) == ("disk", "disk", "disk")
    half = [next(third) for _ in range(3)]
    assert same(take(first, 12), plain)  # and with it all faces
    faces.read = None  # type: ignore[method-assign, assignment] # it must not be asked for anything
    assert same(take(second, 12), plain)
    assert same([*half, *take(third, 9)], plain)
    assert heard.warnings == []
    assert [path.suffix for path in sorted((cache / "decoded").iterdir())] == [".faces", ".lock"]
    assert "as an earlier run left them" not in heard.notes[-1]


def test_a_file_that_nobody_finished_goes_with_the_last_one(made: Path, cache: Path) -> None:
    first, second = (FaceShards(made).batches(8, cache="disk") for _ in range(2))
    first.close()
    assert list((cache / "decoded").glob("*.partial"))
    second.close()
    assert not list((cache / "decoded").glob("*.partial"))


SCRIPT = """
import sys
from facegan import FaceShards
batches = FaceShards(sys.argv[1]).batches(10, cache="disk", rank=int(sys.argv[2]), world_size=2)
shown = [next(batches) for _ in range(60)]
batches.close()
print(batches.cache)
"""


def test_ranks_share_a_file(made: Path, cache: Path) -> None:
    commands = [[sys.executable, "-c", SCRIPT, str(made), str(rank)] for rank in (0, 1)]
    ranks = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    try:
        assert [rank.communicate(timeout=120)[0] for rank in ranks] == ["disk\n", "disk\n"]
    finally:
        for rank in ranks:
            rank.kill()
    faces = FaceShards(made)
    (file,) = kept(cache)
    pixels = np.stack([faces.pixels(i) for i in range(30)])
    assert file.read_bytes() == pixels.tobytes() + b"".join(zlib.crc32(row).to_bytes(4, "little") for row in pixels)
    assert [path.suffix for path in sorted((cache / "decoded").iterdir())] == [".faces", ".lock"]


def altered(folder: Path) -> None:
    """Another image in the same place of a shard, of which dataset.json knows nothing."""
    shard = folder / "train-000001.tar"
    names = [name for name in members(shard) if name.endswith(".png")]
    picture = encode_image(np.full((28, 28, 3), 99, np.uint8), "png")
    rewrite(shard, {**members(shard), names[2]: picture})


def gone(folder: Path) -> None:
    (folder / "train-000001.tar").unlink()


@pytest.mark.parametrize("what", [altered, gone])
def test_a_file_is_not_taken_for_other_shards(made: Path, tmp_path: Path, cache: Path, what) -> None:
    copy = Path(shutil.copytree(made, tmp_path / "copy"))
    first = take(FaceShards(copy).batches(8, cache="disk"), 12)
    what(copy)
    plain = take(FaceShards(copy, skip_broken=True).batches(8, cache="off"), 12)
    assert not same(plain, first)
    for _ in range(2):
        assert same(take(FaceShards(copy, skip_broken=True).batches(8, cache="disk"), 12), plain)


def test_shards_altered_while_the_file_is_made(made: Path, tmp_path: Path, cache: Path) -> None:
    copy = Path(shutil.copytree(made, tmp_path / "copy"))
    batches = FaceShards(copy).batches(8, cache="disk")
    os.utime(copy / "train-000004.tar", ns=(5, 5))
    take(batches, 12)
    assert kept(cache) == []


def test_stand_ins_are_shared_with_nobody(made: Path, tmp_path: Path, cache: Path) -> None:
    copy = Path(shutil.copytree(made, tmp_path / "copy"))
    faces = FaceShards(copy, skip_broken=True)
    with (copy / "train-000001.tar").open("r+b") as shard:  # it is whole when it is opened
        shard.seek(1100)
        shard.write(b"?" * 100)
    first, second = faces.batches(8, cache="disk"), FaceShards(copy).batches(8, cache="disk")
    assert [next(first) for _ in range(12)]
    with pytest.raises(DatasetError, match="is no whole image"):
        take(second, 12)
    third = FaceShards(copy, skip_broken=True).batches(8, cache="disk")
    assert third.cache == "off"  # one has its file for itself
    third.close()
    first.close()
    second.close()
    assert kept(cache) == []


def test_what_was_not_used_for_longest_makes_room_on_the_disk(
    made: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / "decoded").mkdir(parents=True)
    for number in range(3):
        path = cache / "decoded" / f"{number}.faces"
        path.write_bytes(bytes(50_000))
        os.utime(path, (number, number))

    def disk_usage(folder: Path) -> SimpleNamespace:  # a disk of 160 kB
        return SimpleNamespace(free=160_000 - sum(path.stat().st_size for path in kept(cache)))

    monkeypatch.setattr("facegan.stream.room.shutil.disk_usage", disk_usage)
    take(FaceShards(made).batches(8, cache="disk"), 12)
    assert {"2.faces"} < {path.name for path in kept(cache)}
    assert len(kept(cache)) == 2


def test_more_than_what_is_free_is_refused_before(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facegan.stream.choice.available_bytes", lambda: 50_000.0)  # what the machine tells
    said = "--cache ram needs 70.6 kB of memory, and 50.0 kB are free.\nChoose disk, off, or auto"
    with pytest.raises(SettingsError, match=said):
        FaceShards(made).batches(8, cache="ram")


def test_auto_goes_on_to_the_next_one(made: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was free when it was asked for is not any more, or the folder can't be made."""

    def full(*_: object) -> None:
        raise MemoryError

    heard, plain = Heard(), take(FaceShards(made).batches(8, cache="off"), 12)
    monkeypatch.setattr("facegan.stream.choice.MemoryCache", full)
    with pytest.raises(SettingsError, match=r"--cache ram needs 70.6 kB, and they are not to be had \(MemoryError\)"):
        FaceShards(made).batches(8, cache="ram")
    faces = FaceShards(made, console=heard)
    faces.format = "jpg"
    batches = faces.batches(8)
    assert batches.cache == "disk"
    assert same(take(batches, 12), plain)
    shutil.rmtree(cache)
    cache.mkdir(parents=True)
    (cache / "decoded").write_text("in the way")
    batches = faces.batches(8)
    assert batches.cache == "off"
    assert same(take(batches, 12), plain)
    assert heard.warnings == []
    with pytest.raises(DiskError, match="a file is in the way"):
        faces.batches(8, cache="disk")


@pytest.mark.parametrize(
    ("here", "times"), [("2", "2 times 70.6 kB"), ("", "8 times 70.6 kB"), ("1", "in memory, deco")]
)
def test_processes_of_this_machine_alone_share_its_memory(made: Path, monkeypatch, here: str, times: str) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
    heard = Heard()
    FaceShards(made, console=heard).batches(8, world_size=8).close()
    assert times in heard.notes[-1]
    assert ("times" in heard.notes[-1]) == ("times" in times)


def test_a_cache_larger_than_allowed(made: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEGAN_CACHE_GB", "0.00001")
    with pytest.raises(SettingsError, match=r"Set FACEGAN_CACHE_GB to 0.01 or more"):
        FaceShards(made).batches(8, cache="disk")
    monkeypatch.setenv("FACEGAN_CACHE_GB", "much")
    with pytest.raises(SettingsError, match="FACEGAN_CACHE_GB=much: it has to be a number of gigabytes above 0"):
        FaceShards(made).batches(8, cache="disk")

"""Caches: the same batches as without, memory as promised, and a file that outlives the run, or is not believed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from facegan.console import Console
from facegan.errors import SettingsError
from facegan.stream import Batches, FaceShards
from facegan.stream.cache import MemoryCache
from facegan.stream.order import Order
from facegan.stream.supply import DeviceSupply


class Heard(Console):
    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


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


def test_what_a_killed_run_left_is_made_anew(made: Path, cache: Path) -> None:
    faces = FaceShards(made)
    (cache / "decoded").mkdir(parents=True)
    partial = cache / "decoded" / f".{faces.fingerprint}.faces.partial"
    partial.write_bytes(b"half")
    plain = take(faces.batches(8, cache="off"), 20)
    assert same(take(FaceShards(made).batches(8, cache="disk"), 20), plain)
    assert not partial.exists()
    assert (cache / "decoded" / f"{faces.fingerprint}.faces").exists()


def test_two_runs_do_not_make_the_same_file(made: Path, cache: Path) -> None:
    heard = Heard()
    first = FaceShards(made).batches(8, cache="disk")
    second = FaceShards(made, console=heard).batches(8, cache="disk")
    assert (first.cache, second.cache) == ("disk", "off")
    assert "Another run is making this cache" in heard.notes[-1]
    assert same(take(first, 12), take(second, 12))


def test_a_cache_larger_than_allowed(made: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEGAN_CACHE_GB", "0.00001")
    with pytest.raises(SettingsError, match=r"Set FACEGAN_CACHE_GB to 0.01 or more"):
        FaceShards(made).batches(8, cache="disk")
    monkeypatch.setenv("FACEGAN_CACHE_GB", "much")
    with pytest.raises(SettingsError, match="FACEGAN_CACHE_GB=much: it has to be a number of gigabytes above 0"):
        FaceShards(made).batches(8, cache="disk")

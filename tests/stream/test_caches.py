"""Caches give the same batches as no cache, and fit in memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from facegan.errors import SettingsError
from facegan.stream import Batches, FaceShards
from facegan.stream.cache import DeviceProvider
from tests.recording import RecordingConsole


def take(batches: Batches, count: int) -> list[torch.Tensor]:
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_buffers_in_use_are_never_reused(made: Path) -> None:
    batches = FaceShards(made).batches(8)
    held = next(batches)[3:5, 1]
    before = held.clone()
    addresses = {next(batches).data_ptr() for _ in range(50)}
    assert torch.equal(held, before)
    assert held.untyped_storage().data_ptr() not in addresses
    assert len(addresses) < 10
    batches.close()


def test_device_cache_gives_same_batches(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the CPU in place of a GPU; once all faces are there, also by their numbers."""
    faces = FaceShards(made)
    provider = DeviceProvider(faces, torch.device("cpu"), ThreadPoolExecutor(2), 2)
    plain = take(FaceShards(made).batches(8, seed=5, cache="off"), 20)
    monkeypatch.setattr("facegan.stream.loader.open_provider", lambda *_: ("gpu", provider))
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
def test_gpu_gives_same_batches(made: Path) -> None:
    plain = take(FaceShards(made).batches(8, seed=5, cache="off"), 12)
    for kind in ("gpu", "ram", "off"):
        there = take(FaceShards(made).batches(8, seed=5, cache=kind, device="cuda"), 12)
        assert all(batch.is_cuda for batch in there)
        assert same([batch.cpu() for batch in there], plain)


@pytest.mark.parametrize(
    ("here", "times"), [("2", "2 times 70.6 kB"), ("", "8 times 70.6 kB"), ("1", "in memory, decoded once: 70.6 kB of")]
)
def test_only_local_processes_share_memory(made: Path, monkeypatch, here: str, times: str) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
    heard = RecordingConsole()
    FaceShards(made, console=heard).batches(8, world_size=8).close()
    assert times in heard.notes[-1]
    assert ("times" in heard.notes[-1]) == ("times" in times)


def test_scarce_memory_is_left_free(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = RecordingConsole()
    monkeypatch.setattr("facegan.stream.cache.available_bytes", lambda: 100_000.0)
    assert FaceShards(made, console=heard).batches(8).cache == "off"
    assert "70.6 kB are too much for the free memory" in heard.notes[-1]
    monkeypatch.setattr("facegan.stream.cache.available_bytes", lambda: 50_000.0)
    with pytest.raises(SettingsError, match=r"--cache ram needs 70.6 kB in memory; 50.0 kB are free"):
        FaceShards(made).batches(8, cache="ram")


def test_auto_survives_a_failed_allocation(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    heard, plain = RecordingConsole(), take(FaceShards(made).batches(8, cache="off"), 12)
    monkeypatch.setattr("facegan.stream.cache.MemoryCache", full)
    with pytest.raises(SettingsError, match="--cache ram failed: MemoryError"):
        FaceShards(made).batches(8, cache="ram")
    batches = FaceShards(made, console=heard).batches(8)
    assert batches.cache == "off"
    assert "ram failed: MemoryError" in heard.notes[-1]
    assert same(take(batches, 12), plain)

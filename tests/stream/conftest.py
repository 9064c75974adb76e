"""A small dataset whose faces differ in their pixels, and a user cache for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from facegan.stream import FaceShards
from tests.prep.servers import FAST, FlakyServer
from tests.shards.made import Made, make_dataset


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 faces of 28×28 pixels in five shards of 6, 7, 7, 7 and 3."""
    photos = [Made(f"{i:03d}.jpg") for i in range(31)]
    photos[2] = Made("002.jpg", scores=[], reason="no_face")
    return make_dataset(tmp_path_factory.mktemp("made") / "out", photos, size=28, shard_size=7)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user cache, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "facegan"


@pytest.fixture
def flaky(made: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyServer]:
    """The dataset on a web server that fails on demand, and a client that retries quickly."""
    for name, value in FAST.items():
        monkeypatch.setenv(name, value)
    fsspec.filesystem("http").clear_instance_cache()
    with FlakyServer(made) as server:
        yield server


@pytest.fixture(scope="session")
def numbers(made: Path) -> Callable[[torch.Tensor], list[int]]:
    """The faces of a batch by number."""
    faces = FaceShards(made)
    known = {faces.pixels(i).tobytes(): i for i in range(len(faces))}
    assert len(known) == 30
    return lambda batch: [known[np.ascontiguousarray(face).tobytes()] for face in batch.permute(0, 2, 3, 1).numpy()]

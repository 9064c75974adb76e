"""Remote datasets and processes: forked DataLoader workers, and other processes that download the same shards."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from facegan.stream import FaceShards
from tests.prep.servers import FlakyServer

SHARDS = [f"train-{i:06d}.tar" for i in range(5)]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12 and on
@pytest.mark.parametrize("used", [False, True])
def test_forked_dataloader_reads_remote(flaky: FlakyServer, made: Path, used: bool) -> None:
    faces, local = FaceShards(flaky.url), FaceShards(made)
    if used:
        assert np.array_equal(faces.pixels(3), local.pixels(3))
    loader = DataLoader(
        faces, batch_size=6, collate_fn=_pixels, num_workers=1, multiprocessing_context="fork", timeout=30
    )
    for _ in range(2):
        assert np.array_equal(np.concatenate(list(loader)), np.stack([local.pixels(i) for i in range(30)]))


def _pixels(rows: list[tuple[np.ndarray, dict]]) -> np.ndarray:
    return np.stack([pixels for pixels, _ in rows])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12 and on
def test_fork_while_lock_is_held(made: Path) -> None:
    faces = FaceShards(made)
    want = faces.pixels(0).tobytes()
    with faces._maps._lock:  # as another thread might
        child = os.fork()
        if child == 0:
            os._exit(0 if faces.pixels(0).tobytes() == want and faces.pixels(29).any() else 1)
    killer = threading.Timer(30, os.kill, (child, 9))
    killer.start()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    killer.cancel()


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

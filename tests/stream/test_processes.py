"""Remote shards and processes: forked ones, ones that end, and others that fetch into the same cache."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from facegan.shards.layout import DatasetInfo
from facegan.stream import FaceShards
from tests.hearing import Heard
from tests.prep.servers import Fickle

SHARDS = [f"train-{i:06d}.tar" for i in range(5)]


def only_whole_shards(cache: Path) -> bool:
    return all(hashlib.sha256(path.read_bytes()).hexdigest() == path.stem for path in (cache / "shards").glob("*.tar"))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12 and on
@pytest.mark.parametrize("used", [False, True])
def test_in_a_forked_loader(fickle: Fickle, made: Path, used: bool) -> None:
    faces, local = FaceShards(fickle.url), FaceShards(made)
    if used:  # its threads and connections are the parent's
        assert np.array_equal(faces.pixels(3), local.pixels(3))
        faces.ahead(range(5))
    loader = DataLoader(
        faces, batch_size=6, collate_fn=_pixels, num_workers=1, multiprocessing_context="fork", timeout=30
    )
    for _ in range(2):
        assert np.array_equal(np.concatenate(list(loader)), np.stack([local.pixels(i) for i in range(30)]))
    faces.close()


def _pixels(rows: list[tuple[np.ndarray, dict]]) -> np.ndarray:
    return np.stack([pixels for pixels, _ in rows])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12 and on
def test_a_fork_while_locks_are_held(fickle: Fickle, made: Path) -> None:
    faces = FaceShards(fickle.url)
    want = faces.pixels(0).tobytes()
    with faces._lock, faces._maps._lock, faces._stand_ins._lock, faces._fetched._lock:  # as other threads might
        child = os.fork()
        if child == 0:
            os._exit(0 if faces.pixels(0).tobytes() == want and faces.pixels(29).any() else 1)
    killer = threading.Timer(30, os.kill, (child, 9))
    killer.start()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    killer.cancel()
    faces.close()


SCRIPT = """
import sys
from facegan import FaceShards
faces = FaceShards(sys.argv[1])
if sys.argv[2] == "item":
    print(faces[0][0].shape)
    faces.ahead(range(5))
else:
    batches = faces.batches(2)
    faces.ahead(range(5))
    print(faces[0][0].shape)
    batches._begin(0)
"""


@pytest.mark.parametrize("what", ["item", "batches"])
def test_a_process_ends_without_waiting_for_shards(fickle: Fickle, cache: Path, what: str) -> None:
    fickle.always = dict.fromkeys(SHARDS[1:], "slow")  # for ten minutes each
    environment = {**os.environ, "FACEGAN_TIMEOUT_SECONDS": "30"}
    command = [sys.executable, "-c", SCRIPT, fickle.url, what]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "(28, 28, 3)\n", "")
    assert only_whole_shards(cache)
    assert (cache / "shards").exists()
    fickle.always = {}
    faces = FaceShards(fickle.url)
    assert not list((cache / "shards").glob(".*"))
    assert faces.pixels(29).any()
    faces.close()


def test_what_killed_runs_left_goes_but_not_what_others_write(fickle: Fickle, cache: Path) -> None:
    shards = cache / "shards"
    shards.mkdir(parents=True)
    (shards / ".dead.tar.1-0.partial").write_bytes(b"half")
    (shards / ".live.tar.2-0.partial").write_bytes(b"half")
    with (shards / ".live.tar.2-0.partial").open("rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        FaceShards(fickle.url).close()
    assert [path.name for path in shards.iterdir()] == [".live.tar.2-0.partial"]


def test_a_process_that_gets_no_further_is_not_waited_for(fickle: Fickle, made: Path, cache: Path) -> None:
    entry = DatasetInfo.read(made).shards[0]
    (cache / "shards").mkdir(parents=True)
    (cache / "shards" / f".{entry.sha256}.tar.1-0.partial").write_bytes(b"half")
    heard = Heard()
    with (cache / "shards" / f"{entry.sha256}.lock").open("w") as stopped:
        fcntl.flock(stopped, fcntl.LOCK_EX)
        faces = FaceShards(fickle.url, console=heard)
        assert np.array_equal(faces.pixels(0), FaceShards(made).pixels(0))
        faces.close()
    (said,) = heard.warnings
    assert said == f"Another process fetches {fickle.url}/{SHARDS[0]} and gets no further: fetched here."
    assert only_whole_shards(cache)


def test_a_process_that_gets_on_is_waited_for(fickle: Fickle, made: Path, cache: Path) -> None:
    entry = DatasetInfo.read(made).shards[0]
    shard = (made / entry.name).read_bytes()
    (cache / "shards").mkdir(parents=True)
    partial = cache / "shards" / f".{entry.sha256}.tar.1-0.partial"
    heard, ended = Heard(), threading.Event()

    def fetch_slowly() -> None:  # for longer than a process that stands still is waited for
        with (cache / "shards" / f"{entry.sha256}.lock").open("w") as lock, partial.open("wb") as file:
            fcntl.flock(lock, fcntl.LOCK_EX)
            fcntl.flock(file, fcntl.LOCK_EX)
            begun.set()
            for at in range(0, len(shard), -(-len(shard) // 25)):
                file.write(shard[at : at + -(-len(shard) // 25)])
                file.flush()
                ended.wait(0.1)
            partial.rename(partial.with_name(f"{entry.sha256}.tar"))

    begun = threading.Event()
    other = threading.Thread(target=fetch_slowly)
    other.start()
    begun.wait()
    faces = FaceShards(fickle.url, console=heard)
    assert np.array_equal(faces.pixels(0), FaceShards(made).pixels(0))
    faces.close()
    ended.set()
    other.join()
    assert (fickle.asked[SHARDS[0]], heard.warnings) == (0, [])


RANK = """
import json, os, sys
import torch.distributed as dist
from facegan import FaceShards
url, known, rank = sys.argv[1], sys.argv[2], int(sys.argv[3])
dist.init_process_group("gloo", init_method=f"file://{known}", rank=rank, world_size=2)
faces = FaceShards(url)
batches = faces.batches(4, 2, rank=rank, world_size=2)
shown = [next(batches)[:, :, 0, 0].tolist() for _ in range(15)]
print(json.dumps([faces.block_shards, batches.state_dict()["block_shards"], shown]))
batches.close()
faces.close()
dist.destroy_process_group()
"""


def test_ranks_with_caches_of_two_sizes_agree_on_the_order(
    fickle: Fickle, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = max((made / name).stat().st_size for name in SHARDS)
    small, large = str(4.2 * largest / 1e9), "1"
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, fickle.url, str(tmp_path / "meet"), str(rank)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "FACEGAN_CACHE_GB": room, "XDG_CACHE_HOME": str(tmp_path / str(rank))},
        )
        for rank, room in enumerate((large, small))
    ]
    try:
        told = [json.loads(rank.communicate(timeout=120)[0]) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [blocks for *blocks, _ in told] == [[0, 2], [2, 2]]
    monkeypatch.setenv("FACEGAN_CACHE_GB", small)
    faces = FaceShards(fickle.url)
    batches = faces.batches(4, 2)
    assert [one + two for one, two in zip(told[0][2], told[1][2], strict=True)] == [
        next(batches)[:, :, 0, 0].tolist() for _ in range(15)
    ]
    batches.close()
    faces.close()

"""Chunks on a Ray cluster: the same bytes, whatever becomes of a node on the way. Nodes are on loopback."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from facegan.config import PrepConfig
from facegan.errors import FaceganError
from facegan.prep.engines import scheduler
from facegan.prep.engines.ray import RayEngine
from facegan.prep.prepare import prepare
from tests.prep.fake import write_photos
from tests.prep.odd_sources import CrashingSource, prepare_crashing
from tests.prep.outputs import digest, reasons
from tests.prep.servers import FAST, FlakyServer, table_of

pytest.importorskip("ray", reason="needs Ray (the extra 'ray')")
CONFIG = PrepConfig(shard_size=20)
SMALL = PrepConfig(shard_size=4)

# Ray's own: sockets and files that it leaves to the collector, and names it has deprecated for itself.
IGNORED = ("ResourceWarning", "DeprecationWarning", "FutureWarning", "pytest.PytestUnraisableExceptionWarning")
pytestmark = [pytest.mark.filterwarnings(f"ignore::{name}") for name in IGNORED]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that runs nothing, and two nodes with a CPU each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
    yield cluster
    cluster.shutdown()


@pytest.mark.slow  # starting Ray takes ten seconds
def test_nodes_prefetch_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FAST.items():
        monkeypatch.setenv(name, value)
    config = PrepConfig(detector="none", crop="squash", size=28, shard_size=20)
    with FlakyServer(write_photos(tmp_path / "photos", 40), keeps_alive=True) as server:
        table = table_of(tmp_path / "x.parquet", server.url)
        prepare(table, tmp_path / "here", config, workers=0, fetch_ahead=1)
        server.crowd = 8
        prepare(table, tmp_path / "ray", config, engine="ray", workers=1, fetch_ahead=9)
        assert 8 <= server.most_at_once <= 9
    assert digest(tmp_path / "ray") == digest(tmp_path / "here")


def test_address_without_cluster_is_refused(portraits: Path, tmp_path: Path) -> None:
    with pytest.raises(FaceganError, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        prepare(portraits, tmp_path / "out", CONFIG, engine="ray", ray_address="127.0.0.1:1")


@pytest.mark.slow
def test_fatal_photograph_on_cluster(
    portraits: Path, dataset: Path, tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = CrashingSource(str(portraits), frozenset({b"000007.jpg"}))
    prepare_crashing(monkeypatch, source, tmp_path / "out", CONFIG, engine="ray", ray_address=cluster.address)
    assert reasons(tmp_path / "out") == {**reasons(dataset), "000007.jpg": "crashed"}


@pytest.mark.slow
def test_running_cluster_is_left_alone(portraits: Path, dataset: Path, tmp_path: Path, cluster: Any) -> None:
    """It failed: "There is no Ray cluster at this machine"."""
    done = prepare(portraits, tmp_path / "out", CONFIG, engine="ray", workers=1)
    assert (done.engine, done.nodes) == ("ray", 1)
    assert digest(tmp_path / "out") == digest(dataset)


@pytest.mark.slow
def test_lost_job_is_sent_again(
    portraits: Path, dataset: Path, tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four photographs were taken for fatal and prep ended, because Ray had lost the job's own bytes with a node."""
    import ray

    class Owner:
        def own(self, value: Any) -> list[Any]:
            return [ray.put(value)]

    class Forgetful(RayEngine):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            owner: Any = ray.remote(num_cpus=0)(Owner).remote()
            [self._job] = ray.get(owner.own.remote(self._job))  # lost with its owner
            ray.kill(owner)

    monkeypatch.setattr(scheduler, "RayEngine", Forgetful)
    prepare(portraits, tmp_path / "out", CONFIG, engine="ray", ray_address=cluster.address)
    assert digest(tmp_path / "out") == digest(dataset)


@pytest.mark.slow
def test_lost_node_costs_no_chunk(portraits: Path, tmp_path: Path, cluster: Any) -> None:
    """The last test: it removes a node for good."""
    prepare(portraits, tmp_path / "local", SMALL, workers=2)
    whole = prepare(portraits, tmp_path / "whole", SMALL, engine="ray", ray_address=cluster.address)
    assert (whole.engine, whole.nodes) == ("ray", 2)
    assert digest(tmp_path / "whole") == digest(tmp_path / "local")

    left: list[int] = []  # chunks that were still to be made

    def remove() -> None:
        chunks = tmp_path / "lost" / ".facegan" / "chunks"
        while not list(chunks.glob("*.json")):  # in the middle: one chunk is there, fourteen are not
            time.sleep(0.02)
        cluster.remove_node(cluster.workers[0], allow_graceful=False)
        left.append(15 - len(list(chunks.glob("*.json"))))

    remover = threading.Thread(target=remove)
    remover.start()
    prepare(portraits, tmp_path / "lost", SMALL, engine="ray", ray_address=cluster.address)
    remover.join()
    assert 0 < left[0] < 15
    assert digest(tmp_path / "lost") == digest(tmp_path / "local")

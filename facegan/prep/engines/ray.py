"""The engine ``ray``: the same chunks as tasks on a Ray cluster.

Nodes need facegan installed and the photographs under the same path or URL. They return the bytes of their chunks, and
the driver writes them. Detector models travel with the job.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import socket
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from facegan.console import Console
from facegan.errors import FaceganError, SettingsError
from facegan.faces.detect import cache_folder
from facegan.files import make_folder, remove_partials, write_bytes
from facegan.prep.chunk import Survey
from facegan.prep.commit import ChunkOutcome, ChunkWork, import_chunk, rows_path, shard_path
from facegan.prep.engines.local import NodeLost, OnProgress, WorkerDied
from facegan.prep.engines.worker import Job, Worker, prepare_process
from facegan.system import cpu_name

_Job = tuple[Job, tuple[bytes, ...], str]  # as it travels: with the contents of its models, and a token of the run


class _Made(NamedTuple):
    """A chunk as it travels."""

    outcome: ChunkOutcome
    cpu: str
    shard: bytes | None
    rows: bytes


class RayEngine:
    """Makes chunks on the cluster at ``address``, or on one that is started on this machine for this run."""

    def __init__(self, job: Job, address: str | None, workers: int, console: Console) -> None:
        self._ray = _connect(address, max(1, workers))
        self.slots = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        self._console, self._folder = console, job.folder
        self._cpus: set[str] = set()
        self.nodes: set[str] = set()
        models = tuple(path.read_bytes() for path in job.models)
        self._packed: _Job = (job, models, os.urandom(8).hex())
        self._job = self._ray.put(self._packed)
        self._make = self._ray.remote(num_cpus=1, max_retries=0)(_make)  # `run_chunks` retries
        self._running: set[Any] = set()

    def submit(self, work: ChunkWork | Survey, is_trial: bool = False) -> Any:
        task = self._make.remote(self._job, work, is_trial)
        self._running.add(task)
        return task

    def wait(self, on_progress: OnProgress | None = None) -> list[Any]:
        return self._ray.wait(list(self._running), num_returns=1)[0]

    def result(self, task: Any) -> Any:
        """As `LocalEngine.result`. Raises WorkerDied if its process ended, NodeLost if its node or its data is gone."""
        from ray import exceptions as errors

        self._running.discard(task)
        try:
            result = self._ray.get(task)
        except (errors.WorkerCrashedError, errors.OutOfMemoryError) as error:
            raise WorkerDied(_reason(error)) from None
        except (errors.NodeDiedError, errors.ObjectLostError) as error:
            # The job itself may be what was lost: Ray gives up such an object for good.
            self._job = self._ray.put(self._packed)
            raise NodeLost(_reason(error)) from None
        except errors.RayTaskError as error:
            raise error.as_instanceof_cause() from None
        if not isinstance(result, _Made):
            return result
        outcome, cpu, shard, rows = result
        import_chunk(self._folder, outcome.chunk, shard, rows)
        self.nodes.add(outcome.node)
        if self._cpus and cpu not in self._cpus:
            others = ", ".join(self._cpus)
            self._console.warn(f"The nodes have different CPUs ({cpu}; {others}): bytes may differ.")
        self._cpus.add(cpu)
        now = time.monotonic()  # each node has its own clock
        return replace(outcome, started=now - (outcome.finished - outcome.started), finished=now)

    def close(self) -> None:
        for task in self._running:
            with contextlib.suppress(Exception):  # it may have ended, or its node may be lost
                self._ray.cancel(task, force=True)
        self._ray.shutdown()
        remove_partials(self._folder)


def _reason(error: Exception) -> str:
    """What Ray says, in a line; without a remote traceback."""
    error = getattr(error, "cause", None) or error
    return f"{type(error).__name__}: {str(error).splitlines()[0]}"


def _connect(address: str | None, workers: int) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns about its own default
    try:
        import ray
    except ImportError:
        raise SettingsError("--engine ray needs Ray. Install it: pip install 'facegan[ray]'") from None
    # "local" starts a cluster; None would join one that happens to run on this machine.
    started: dict[str, Any] = {"address": "local", "num_cpus": workers, "include_dashboard": False}
    options: dict[str, Any] = {"address": address} if address else started
    try:
        host, _, port = (address or "").removeprefix("ray://").rpartition(":")
        if port.isdigit():  # without a listener there Ray waits for minutes and then ends the process
            socket.create_connection((host, int(port)), timeout=5).close()
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise FaceganError(f"There is no Ray cluster at {address or 'this machine'}: {error}") from None
    return ray


_workers: dict[str, Worker] = {}  # in a process of the cluster, by the token of its run


def _make(packed: _Job, work: ChunkWork | Survey, is_trial: bool) -> Any:
    import ray

    job, models, token = packed
    if token not in _workers:  # Ray runs many tasks in one process, and loading a detector takes a second
        prepare_process()
        _workers.clear()
        _workers[token] = Worker(replace(job, models=tuple(map(_cached_model, job.models, models))))
    if isinstance(work, Survey):
        return _workers[token].survey(work)
    with tempfile.TemporaryDirectory() as name:
        folder, number = Path(name), work.chunk.number
        outcome = _workers[token].make(work, folder)
        if is_trial:
            return None
        shard = shard_path(folder, number).read_bytes() if outcome.chunk.shard else None
        rows = rows_path(folder, number).read_bytes()
    node = ray.get_runtime_context().get_node_id()
    return _Made(replace(outcome, node=node), cpu_name(), shard, rows)


def _cached_model(path: Path, data: bytes) -> Path:
    """A file with the model's bytes on this node, in the user cache: processes come and go."""
    cached = make_folder(cache_folder() / hashlib.sha256(data).hexdigest()) / path.name
    if not cached.is_file() or cached.read_bytes() != data:
        write_bytes(cached, data)
    return cached

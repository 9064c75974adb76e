"""The engine ``ray``: the same chunks as tasks on a Ray cluster.

Nodes need facegan installed and the photographs under the same path or URL. Nodes that see the dataset's folder commit
their chunks there; others return the bytes, and the driver writes them. Detector models travel with the job.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import socket
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from facegan.console import Console
from facegan.errors import FaceganError, SettingsError
from facegan.faces.detect import cache_folder
from facegan.files import TEMPORARY, make_folder, remove_partials, write_bytes
from facegan.prep.commit import ChunkOutcome, ChunkWork, import_chunk, rows_path, shard_path
from facegan.prep.engines.local import WorkerDied
from facegan.prep.engines.worker import Job, Worker, prepare_process
from facegan.system import cpu_name


@dataclass(frozen=True, eq=False)
class _RayJob:
    """A job as it travels, with the contents of its models. Equal jobs have the same token, one per run."""

    job: Job
    models: tuple[bytes, ...]
    token: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _RayJob) and other.token == self.token

    def __hash__(self) -> int:
        return hash(self.token)

    @property
    def _mark(self) -> Path:
        return self.job.folder / f".{self.token}{TEMPORARY}"

    def mark_folder(self) -> None:
        self._mark.write_text(self.token)

    def sees_folder(self) -> bool:
        """Whether this process sees the driver's folder, and not another one of the same name."""
        try:
            return self._mark.read_text() == self.token
        except OSError:
            return False


@dataclass(frozen=True)
class _RemoteResult:
    """A chunk as it comes back: with its bytes, unless they are in the driver's folder already."""

    outcome: ChunkOutcome
    cpu: str
    is_in_folder: bool = False
    shard: bytes | None = None
    rows: bytes = b""


class RayEngine:
    """Makes chunks on the cluster at ``address``, or on one that is started on this machine for this run."""

    name = "ray"

    def __init__(self, job: Job, address: str | None, workers: int | None, console: Console) -> None:
        """
        Raises:
            SettingsError: Ray is not installed.
            FaceganError: there is no cluster at that address.
        """
        self._ray = _connect(address, workers)
        self.slots = workers or max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        self._console, self._folder = console, job.folder
        self._cpus: set[str] = set()
        self.nodes: set[str] = set()
        models = tuple(path.read_bytes() for path in job.models)
        ray_job = _RayJob(replace(job, folder=job.folder.absolute()), models, os.urandom(8).hex())
        ray_job.mark_folder()
        self._job = self._ray.put(ray_job)
        options = {"num_cpus": 1, "max_retries": 0}  # `run_chunks` retries
        self._make = self._ray.remote(**options)(_make)
        self._try_out = self._ray.remote(**options)(_try_out)
        self._running: set[Any] = set()

    def submit(self, work: ChunkWork, is_trial: bool = False) -> Any:
        task = (self._try_out if is_trial else self._make).remote(self._job, work)
        self._running.add(task)
        return task

    def wait(self) -> list[Any]:
        return self._ray.wait(list(self._running), num_returns=1)[0]

    def result(self, task: Any) -> ChunkOutcome | None:
        """
        Raises:
            WorkerDied: its process or its node ended.
        """
        from ray import exceptions as errors

        self._running.discard(task)
        try:
            result: _RemoteResult | None = self._ray.get(task)
        except (
            errors.WorkerCrashedError,
            errors.NodeDiedError,
            errors.OutOfMemoryError,
            errors.ObjectLostError,
        ) as error:
            raise WorkerDied(str(error).splitlines()[0]) from None
        except errors.RayTaskError as error:
            raise error.as_instanceof_cause() from None
        if result is None:
            return None
        if not result.is_in_folder:
            import_chunk(self._folder, result.outcome.chunk, result.shard, result.rows)
        self.nodes.add(result.outcome.node)
        if self._cpus and result.cpu not in self._cpus:
            others = ", ".join(self._cpus)
            self._console.warn(f"The nodes have different CPUs ({result.cpu}; {others}): bytes may differ.")
        self._cpus.add(result.cpu)
        seconds = result.outcome.finished - result.outcome.started
        now = time.monotonic()  # each node has its own clock
        return replace(result.outcome, started=now - seconds, finished=now)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._running:
            with contextlib.suppress(Exception):  # it may have ended, or its node may be lost
                self._ray.cancel(task, force=True)
        self._ray.shutdown()
        remove_partials(self._folder)


def _connect(address: str | None, workers: int | None) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns about its own default
    try:
        import ray
    except ImportError:
        raise SettingsError("--engine ray needs Ray. Install it: pip install 'facegan[ray]'") from None
    if address:
        _require_listener(address)
    # "local" starts a cluster; None would join one that happens to run on this machine.
    started: dict[str, Any] = {"address": "local", "num_cpus": workers, "include_dashboard": False}
    options: dict[str, Any] = {"address": address} if address else started
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise FaceganError(f"There is no Ray cluster at {address or 'this machine'}: {error}") from None
    return ray


def _require_listener(address: str) -> None:
    """Without one, Ray waits for minutes and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return  # "auto"
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise FaceganError(f"There is no Ray cluster at {address}: {error}.") from None


# In the processes of the cluster.


@functools.lru_cache(maxsize=1)
def _worker(job: _RayJob) -> Worker:
    """This process's worker. Ray runs many tasks in one process, and loading a detector takes a second."""
    prepare_process()
    models = tuple(map(_cached_model, job.job.models, job.models))
    return Worker(replace(job.job, models=models))


def _cached_model(path: Path, data: bytes) -> Path:
    """A file with the model's bytes on this node, in the user cache: processes come and go."""
    cached = make_folder(cache_folder() / hashlib.sha256(data).hexdigest()) / path.name
    if not cached.is_file() or cached.read_bytes() != data:
        write_bytes(cached, data)
    return cached


def _make(job: _RayJob, work: ChunkWork) -> _RemoteResult:
    import ray

    worker, node = _worker(job), ray.get_runtime_context().get_node_id()
    if job.sees_folder():
        worker.job = replace(worker.job, folder=job.job.folder)
        return _RemoteResult(replace(worker.make(work), node=node), cpu_name(), is_in_folder=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        worker.job = replace(worker.job, folder=folder)
        outcome = replace(worker.make(work), node=node)
        shard = shard_path(folder, work.chunk.number).read_bytes() if outcome.chunk.shard else None
        rows = rows_path(folder, work.chunk.number).read_bytes()
    return _RemoteResult(outcome, cpu_name(), shard=shard, rows=rows)


def _try_out(job: _RayJob, work: ChunkWork) -> None:
    worker = _worker(job)
    worker.job = replace(worker.job, folder=Path(tempfile.gettempdir()))
    worker.try_out(work)

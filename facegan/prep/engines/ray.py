"""The engine ``ray``: the same chunks as tasks on a Ray cluster.

Nodes need facegan installed and have to reach the photographs under the same path or URL. Those that reach the
dataset's folder as well commit their chunks there; what others make comes back to the driver, which commits it. The
models travel with the job.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import socket
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from facegan.console import Console
from facegan.errors import FaceganError, SettingsError
from facegan.faces.detect import cache_folder
from facegan.files import TEMPORARY, make_folder, remove_partials, write_bytes
from facegan.prep.commit import ChunkOutcome, ChunkWork, import_chunk, rows_path, shard_path
from facegan.prep.engines.local import WorkerDied
from facegan.prep.engines.worker import Job, Worker, pin_to_cpu
from facegan.system import affinity_cpus, cpu_name


@dataclass(frozen=True)
class _RayJob:
    """A job as it travels: the models with it, for nodes have no file of that name."""

    job: Job
    models: tuple[bytes, ...]
    token: str  # one a run: a Ray process outlives runs

    def mark_folder(self) -> None:
        self._mark.write_text(self.token)

    @property
    def sees_folder(self) -> bool:
        """Whether this process has the driver's folder before it, and not another of the same name."""
        try:
            return self._mark.read_text() == self.token
        except OSError:
            return False

    @property
    def _mark(self) -> Path:
        return self.job.folder / f".{self.token}{TEMPORARY}"


@dataclass(frozen=True)
class _RemoteResult:
    """A chunk as it comes back: with its bytes, unless they are in the driver's folder already."""

    done: ChunkOutcome
    cpu: str
    is_there: bool = False
    shard: bytes | None = None
    rows: bytes = b""


class RayEngine:
    """Runs chunks on the cluster at ``address``, or on one that is started on this machine and goes with us."""

    name = "ray"

    def __init__(self, job: Job, address: str | None, workers: int | None, console: Console) -> None:
        """
        Raises:
            SettingsError: Ray is not installed.
            FaceganError: there is no cluster at that address.
        """
        self._ray = _connected(address, workers)
        self.slots = workers or max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        self._console, self._folder = console, job.folder
        self._cpus: set[str] = set()
        self.nodes: set[str] = set()
        models = tuple(path.read_bytes() for path in job.models)
        token = os.urandom(8).hex()
        parcel = _RayJob(replace(job, folder=job.folder.absolute()), models, token)
        parcel.mark_folder()
        self._parcel = self._ray.put(parcel)
        options = {"num_cpus": 1, "max_retries": 0}  # what dies is told of here, and judged by `run_chunks`
        self._do = self._ray.remote(**options)(_do)
        self._try_out = self._ray.remote(**options)(_try_out)
        self._under_way: set[Any] = set()

    def submit(self, work: ChunkWork, trial: bool = False) -> Any:
        handle = (self._try_out if trial else self._do).remote(self._parcel, work)
        self._under_way.add(handle)
        return handle

    def wait(self, handles: Iterable[Any]) -> set[Any]:
        return set(self._ray.wait(list(handles), num_returns=1)[0])

    def result(self, handle: Any) -> ChunkOutcome | None:
        """
        Raises:
            WorkerDied: its process or its node did.
        """
        from ray import exceptions

        self._under_way.discard(handle)
        try:
            returned: _RemoteResult | None = self._ray.get(handle)
        except (
            exceptions.WorkerCrashedError,
            exceptions.NodeDiedError,
            exceptions.OutOfMemoryError,
            exceptions.ObjectLostError,
        ) as error:
            raise WorkerDied(str(error).splitlines()[0]) from None
        except exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from None
        if returned is None:
            return None
        if not returned.is_there:
            import_chunk(self._folder, returned.done.chunk, returned.shard, returned.rows)
        self.nodes.add(returned.done.node)
        self._warn_of_mixed(returned.cpu)
        seconds = returned.done.finished - returned.done.started
        now = time.monotonic()  # nodes have clocks of their own
        return replace(returned.done, started=now - seconds, finished=now)

    def _warn_of_mixed(self, cpu: str) -> None:
        if self._cpus and cpu not in self._cpus:
            self._console.warn(f"the nodes have different CPUs ({cpu}; {', '.join(self._cpus)}): bytes may differ.")
        self._cpus.add(cpu)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._under_way:
            with contextlib.suppress(Exception):  # it may have ended, or its node be gone
                self._ray.cancel(handle, force=True)
        self._ray.shutdown()
        remove_partials(self._folder)


def _connected(address: str | None, workers: int | None) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray warns of its own default otherwise
    try:
        import ray
    except ImportError:
        raise SettingsError("--engine ray needs Ray, which is not installed: facegan[ray].") from None
    if address:
        _refuse_nobody(address)
    # "local" starts one, where None would join one that happens to run on this machine.
    started: dict[str, Any] = {"address": "local", "num_cpus": workers, "include_dashboard": False}
    given: dict[str, Any] = {"address": address} if address else started
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **given)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise FaceganError(f"There is no Ray cluster at {address or 'this machine'}: {error}") from None
    return ray


def _refuse_nobody(address: str) -> None:
    """Where nobody listens Ray itself waits for minutes, and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return  # "auto"
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise FaceganError(f"There is no Ray cluster at {address}: {error}.") from None


_workers: dict[str, Worker] = {}
_seat: socket.socket | None = None


def _started(parcel: _RayJob) -> Worker:
    """This process's worker for the run; made when the first chunk comes."""
    if parcel.token not in _workers:
        _workers.clear()
        _pin_worker(parcel.token)
        paths = tuple(map(_model, parcel.job.models, parcel.models))
        _workers[parcel.token] = Worker(replace(parcel.job, models=paths))
    return _workers[parcel.token]


def _pin_worker(token: str) -> None:
    """Takes a CPU that no other process of the run has, as local workers do where they use all of a machine's."""
    import ray

    global _seat
    here = ray.get_runtime_context().get_node_id()
    slots = sum(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["NodeID"] == here)
    for seat in range(affinity_cpus() if slots == affinity_cpus() else 0):
        if _seat:
            _seat.close()
        _seat = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError):  # somebody sits there, or this is no Linux
            _seat.bind(f"\0facegan-{token}-{seat}")  # an abstract name: it goes with the process
            return pin_to_cpu(seat)


def _model(path: Path, data: bytes) -> Path:
    """A file with the model's bytes on this node: kept in the cache, for processes here come and go."""
    here = make_folder(cache_folder() / hashlib.sha256(data).hexdigest()) / path.name
    if not here.is_file() or here.read_bytes() != data:
        write_bytes(here, data)
    return here


def _do(parcel: _RayJob, work: ChunkWork) -> _RemoteResult:
    import ray

    worker, node = _started(parcel), ray.get_runtime_context().get_node_id()
    if parcel.sees_folder:
        worker.job = replace(worker.job, folder=parcel.job.folder)
        return _RemoteResult(replace(worker.do(work), node=node), cpu_name(), is_there=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        worker.job = replace(worker.job, folder=folder)
        done = worker.do(work)
        shard = shard_path(folder, work.chunk.number).read_bytes() if done.chunk.shard else None
        rows = rows_path(folder, work.chunk.number).read_bytes()
    return _RemoteResult(replace(done, node=node), cpu_name(), shard=shard, rows=rows)


def _try_out(parcel: _RayJob, work: ChunkWork) -> None:
    worker = _started(parcel)
    worker.job = replace(worker.job, folder=Path(tempfile.gettempdir()))
    worker.try_out(work)

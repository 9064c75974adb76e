"""What this process may use of a machine: by affinity, by control groups of both versions, by memory."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from facegan import system
from facegan.config import PrepConfig
from facegan.prep.prepare import prepare
from tests.recording import RecordingConsole


class Files:
    """A folder with the files that the kernel shows to a process in control groups."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.groups = folder / "proc", folder / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "meminfo").write_text("MemTotal: 64000000 kB\nMemAvailable: 32000000 kB\n")
        self._memberships, self._mounts = "", "22 1 0:20 / / rw - overlay  rw\n"

    def hierarchy(self, mount: str, kind: str, options: str, group: str, root: str = "/") -> Path:
        """Mounts one, with this process in ``group``; gives the folder of the mount."""
        names = "" if kind == "cgroup2" else options.removeprefix("rw,")
        self._memberships += f"{len(self._memberships)}:{names}:{group}\n"
        folder = self.groups / mount
        self._mounts += f"30 22 0:30 {root} {folder} rw,nosuid shared:9 - {kind} {kind} {options}\n"
        (self.proc / "self" / "cgroup").write_text(self._memberships)
        (self.proc / "self" / "mountinfo").write_text(self._mounts)
        folder.mkdir(parents=True)
        return folder


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def write(folder: Path, **values: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


def test_without_control_groups_the_affinity_counts(tmp_path: Path) -> None:
    assert system.cpu_quota(tmp_path) == math.inf
    assert system.usable_cpus(tmp_path) == len(os.sched_getaffinity(0))
    assert system.available_bytes(tmp_path) == math.inf
    assert system.prep_workers(tmp_path) == system.usable_cpus(tmp_path)


@pytest.mark.parametrize(("quota", "cpus"), [("150000 100000", 1.5), ("20000 100000", 0.2), ("max 100000", math.inf)])
def test_container_of_version_2(files: Files, quota: str, cpus: float) -> None:
    write(files.hierarchy("", "cgroup2", "rw", "/"), cpu__max=quota)
    assert system.cpu_quota(files.proc) == cpus
    assert 1 <= system.usable_cpus(files.proc) == min(system.affinity_cpus(), math.ceil(min(cpus, 4096)))


def test_smallest_quota_of_groups_wins(files: Files) -> None:
    root = files.hierarchy("", "cgroup2", "rw", "/pod/container/step")
    write(root / "pod", cpu__max="200000 100000", memory__max=900_000_000, memory__current=100_000_000)
    write(root / "pod" / "container", cpu__max="800000 100000", memory__max="max", memory__current=100_000_000)
    write(root / "other", cpu__max="1000 100000")
    assert system.cpu_quota(files.proc) == 2.0
    assert system.available_bytes(files.proc) == 800_000_000


def test_hierarchies_of_version_1(files: Files) -> None:
    cpu = files.hierarchy("cpu,cpuacct", "cgroup", "rw,cpu,cpuacct", "/docker/id")
    memory = files.hierarchy("memory", "cgroup", "rw,memory", "/docker/id")
    files.hierarchy("unified", "cgroup2", "rw", "/docker/id")
    write(cpu, cpu__cfs_quota_us=-1, cpu__cfs_period_us=100_000)
    write(cpu / "docker" / "id", cpu__cfs_quota_us=50_000, cpu__cfs_period_us=20_000)
    write(memory, memory__limit_in_bytes=9223372036854771712, memory__usage_in_bytes=5_000_000_000)
    write(memory / "docker" / "id", memory__limit_in_bytes=500_000_000, memory__usage_in_bytes=300_000_000)
    write(memory / "docker" / "id", memory__stat="inactive_file 1\ntotal_active_file 20\ntotal_inactive_file 100")
    assert system.cpu_quota(files.proc) == 2.5
    assert system.available_bytes(files.proc) == 200_000_120


def test_groups_and_mounts_that_differ(tmp_path: Path) -> None:
    """Docker without a namespace of control groups: the group has its host's name, the mount shows it alone. And a
    group outside of the mount."""
    inner = Files(tmp_path / "inner")
    cpu = inner.hierarchy("cpu", "cgroup", "rw,cpu", "/docker/id/inner", root="/docker/id")
    write(cpu / "inner", cpu__cfs_quota_us=100_000, cpu__cfs_period_us=100_000)
    assert system.cpu_quota(inner.proc) == 1.0
    outside = Files(tmp_path / "outside")
    write(outside.hierarchy("", "cgroup2", "rw", "/../elsewhere"), cpu__max="300000 100000")
    assert system.cpu_quota(outside.proc) == 3.0


@pytest.mark.skipif(system.usable_cpus() == 1, reason="one CPU limits the workers to one before memory does")
def test_prep_says_that_memory_limits_workers(portraits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "available_bytes", lambda *_: 350e6)  # what the machine says
    console = RecordingConsole()
    config = PrepConfig(detector="none", crop="squash", size=32, shard_size=20)
    assert prepare(portraits, tmp_path / "out", config, console=console).workers == 1
    assert "Memory limits the workers: each takes up to 300 MB, and 350 MB are available" in "".join(console.notes)


def test_idle_threads_sleep_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, spins in (({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)):
        monkeypatch.setattr(os, "environ", dict(given))
        system.configure_openmp()
        assert os.environ.get("GOMP_SPINCOUNT") == spins


@pytest.mark.parametrize(
    ("given", "threads"), [({}, "1"), ({"OMP_NUM_THREADS": "2"}, "2"), ({"MKL_NUM_THREADS": "2"}, None)]
)
def test_quota_limits_threads_of_torch(
    files: Files, given: dict[str, str], threads: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(files.hierarchy("", "cgroup2", "rw", "/"), cpu__max="70000 100000")
    monkeypatch.setattr(os, "environ", dict(given))
    system.configure_openmp(files.proc)
    assert os.environ.get("OMP_NUM_THREADS") == threads


_RESIDENT = """
import resource
from pathlib import Path
from facegan.system import keep_freed_memory

def left():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20
    before = resident()
    block = bytearray(48 << 20)
    block[::4096] = bytes(len(block) >> 12)
    del block
    return resident() - before

before = left()
keep_freed_memory()
print(before, left())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is configured")
@pytest.mark.parametrize("given", [{}, {"MALLOC_TRIM_THRESHOLD_": "131072"}])
def test_freed_memory_is_kept_unless_malloc_is_configured(given: dict[str, str]) -> None:
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", _RESIDENT]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment | given)
    before, after = map(int, result.stdout.split())  # MiB
    assert before < 10
    assert after < 10 if given else after > 40

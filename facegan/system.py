"""The machine: CPUs, memory, devices, within the limits of its container."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from facegan.errors import DeviceError, suggest

if TYPE_CHECKING:
    import torch

_PROC = Path("/proc")
# A worker of prep used at most 233 MB, or 268 MB with photographs from URLs (BENCHMARKS.md).
PREP_WORKER_BYTES = 300_000_000
_MOST_EXCESS_LOAD = 0.7  # a training alone has a load of its threads, and 0.1 for decoding
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def usable_cpus(proc: Path = _PROC) -> int:
    """CPUs that this process may use: the smaller of its affinity and its container's quota."""
    return max(1, math.ceil(min(affinity_cpus(), cpu_quota(proc))))


def affinity_cpus() -> int:
    """CPUs that the scheduler may put this process on. In a container this is often every CPU of the host."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(proc: Path = _PROC) -> float:
    """CPU time per wall time that control groups allow (``docker --cpus 1.5``); infinite without a limit."""
    quotas = [math.inf]
    for group in _control_groups("cpu", proc):
        for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):  # versions 2 and 1
            match _numbers(group, *names):
                case [quota, period] if quota > 0 and period > 0:
                    quotas.append(quota / period)
    return min(quotas)


def configure_openmp(proc: Path = _PROC) -> None:
    """Set the variables that torch's OpenMP reads when it is loaded, unless the user set them. Called by the CLI.

    Idle threads spin before they sleep. On a busy machine, libgomp's 300,000 iterations take CPU time from other
    threads; 10,000 trained about five times as fast there, and equally fast on an idle machine. Fewer iterations
    slow an idle machine down: 3,000 by about 7 %, none (a passive wait) by 20 %. See BENCHMARKS.md.
    """
    if os.environ.keys().isdisjoint(("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")):
        os.environ["GOMP_SPINCOUNT"] = "10000"
    # Torch sees the affinity but not the quota.
    if cpu_quota(proc) < affinity_cpus() and os.environ.keys().isdisjoint(("OMP_NUM_THREADS", "MKL_NUM_THREADS")):
        os.environ["OMP_NUM_THREADS"] = str(usable_cpus(proc))


def advice_if_overloaded(threads: int) -> str:
    """Advice for OpenMP's threads if other programs want the CPUs, too; empty without. By the last minute's load.

    After each operation the threads wait for the last of them. On two CPUs beside one busy process, two threads train
    42 images/s, one thread 147; alone 258 and 161 (BENCHMARKS.md).
    """
    load, cpus = 0.0, os.cpu_count() or 1  # both are the host's in a container
    with contextlib.suppress(AttributeError, OSError):  # Windows has none, and a system may refuse to tell
        load = os.getloadavg()[0]
    if threads < 2 or load < cpus + _MOST_EXCESS_LOAD:
        return ""
    fewer = max(1, threads - round(load - cpus))
    return (
        f"other programs use the CPUs as well (load {load:.1f}, {cpus} CPUs), and the threads of a training wait for "
        f"each other. Stop it and resume with OMP_NUM_THREADS={fewer}: this may be several times as fast."
    )


def keep_freed_memory() -> None:
    """Let glibc's malloc keep what this process frees. By default it returns large blocks to the system.

    torch allocates and frees the same tensors in every step of a training on the CPU, and the system clears each page
    again: 4,000 to 8,000 page faults a step with 16 images of 64×64. Without them steps are about 5 % faster
    (BENCHMARKS.md). Blocks of 1 GiB or more, such as a cache of faces, are still returned. Does nothing with another
    libc, or if the user configured malloc.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    with contextlib.suppress(AttributeError, OSError, TypeError):  # no mallopt, or no library of this process
        mallopt = ctypes.CDLL(None).mallopt
        # Older versions refuse more than 32 MiB.
        if mallopt(_M_MMAP_THRESHOLD, 2**30) or mallopt(_M_MMAP_THRESHOLD, 2**25):
            mallopt(_M_TRIM_THRESHOLD, -1)  # never


def _control_groups(controller: str, proc: Path) -> Iterator[Path]:
    """Folders of this process's control group and its ancestors, cgroup v1 and v2.

    /proc/self/cgroup names the group; /proc/self/mountinfo says which part of the tree is mounted, and where. A
    container often sees only its own group, mounted as the root.
    """
    try:
        lines = (proc / "self/cgroup").read_text(errors="surrogateescape").splitlines()
        mounts = (proc / "self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return  # not Linux
    groups = {name: path for _, names, path in (line.split(":", 2) for line in lines) for name in names.split(",")}
    for mount in mounts:
        place, _, file_system = mount.partition(" - ")
        root, folder = place.split()[3:5]
        kind, *_, options = file_system.split()
        if kind not in ("cgroup", "cgroup2") or (kind == "cgroup" and controller not in options.split(",")):
            continue
        group = PurePosixPath(groups.get(controller if kind == "cgroup" else "", "/"))
        below = group.relative_to(root) if group.is_relative_to(root) and ".." not in group.parts else PurePosixPath()
        yield from (Path(folder) / part for part in (below, *below.parents))


def _numbers(group: Path, *names: str) -> list[float]:
    """The numbers in files of a control group; empty if a file is missing or says "max"."""
    try:
        return [float(word) for name in names for word in (group / name).read_text().split()]
    except (OSError, ValueError):
        return []


def proc_fields(path: Path) -> dict[str, str]:
    """The ``name: value`` lines of a file in /proc, up to its first empty line; none if it cannot be read."""
    try:
        lines = path.read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def kilobytes(text: str) -> int:
    """Bytes of ``"1024 kB"``."""
    return int(text.split()[0]) * 1024


def cpu_name() -> str:
    """The CPU's model, with family and model number, because virtual machines shorten the name."""
    fields = proc_fields(_PROC / "cpuinfo")
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    return f"{fields['model name']} (family {fields.get('cpu family', '?')}, model {fields.get('model', '?')})"


def cpu_flags() -> frozenset[str]:
    """Instruction sets as Linux names them; empty if /proc/cpuinfo does not exist."""
    return frozenset(proc_fields(_PROC / "cpuinfo").get("flags", "").split())


def memory_bytes(field: str = "MemTotal", proc: Path = _PROC) -> float:
    """A field of /proc/meminfo (``MemTotal``, ``MemAvailable``) in bytes; infinite if it cannot be read."""
    text = proc_fields(proc / "meminfo").get(field)
    return kilobytes(text) if text else math.inf


def available_bytes(proc: Path = _PROC) -> float:
    """Free memory in bytes, within the limits of the machine and of its control groups."""
    free = [memory_bytes("MemAvailable", proc)]
    for group in _control_groups("memory", proc):
        for names in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            match _numbers(group, *names):
                case [limit, taken]:
                    free.append(max(0.0, limit - taken + _page_cache_bytes(group)))
    return min(free)


def _page_cache_bytes(group: Path) -> float:
    """What the kernel frees when processes need memory."""
    stat: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError):
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    # Version 1 includes child groups in total_*. Neither counts the pages of a tmpfs here.
    return sum(float(stat.get(f"total_{name}", stat.get(name, 0))) for name in ("active_file", "inactive_file"))


def prep_workers(proc: Path = _PROC) -> int:
    """One worker process per usable CPU, as far as memory allows; at least one."""
    return max(1, int(min(usable_cpus(proc), available_bytes(proc) / PREP_WORKER_BYTES)))


def peak_memory_bytes() -> int:
    """Peak resident memory of this process; 0 if unknown."""
    if text := proc_fields(_PROC / "self/status").get("VmHWM"):
        return kilobytes(text)
    try:
        import resource  # POSIX only
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def describe() -> dict[str, str | int]:
    """The machine in a few words, recorded beside every measured figure."""
    return {
        "cpu": cpu_name(),
        "cpus": usable_cpus(),
        "memory_gb": round(memory_bytes() / 1e9) if memory_bytes() != math.inf else 0,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


_KINDS = ("auto", "cpu", "cuda", "mps")


def choose_device(asked: str) -> torch.device:
    """``auto`` is a GPU if there is one; DeviceError if there is no such device."""
    import torch

    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, index = asked.partition(":")
    if kind not in _KINDS or (index and not (kind == "cuda" and index.isdecimal())):
        raise DeviceError(f"--device {asked} is unknown. Choose auto, cpu, cuda, cuda:N or mps.{suggest(kind, _KINDS)}")
    if kind == "cuda" and not torch.cuda.is_available():
        built = "this torch was built without CUDA" if torch.version.cuda is None else "torch sees no NVIDIA GPU"
        raise DeviceError(f"--device {asked} is unavailable: {built}. Use --device auto or --device cpu.")
    if kind == "cuda" and int(index or 0) >= (count := torch.cuda.device_count()):
        raise DeviceError(f"--device {asked} is unavailable: the GPUs are cuda:0 to cuda:{count - 1}.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("--device mps is unavailable: this machine has no Apple GPU. Use --device auto.")
    return torch.device(asked)

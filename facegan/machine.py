"""What this machine is: CPU, usable cores, memory. For plans, records of runs, benchmarks and the doctor."""

from __future__ import annotations

import os
import platform
import resource
from pathlib import Path


def usable_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The CPU's model, with family and model number where virtual machines shorten the name."""
    fields = _cpuinfo()
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    return f"{fields['model name']} (family {fields.get('cpu family', '?')}, model {fields.get('model', '?')})"


def cpu_flags() -> frozenset[str]:
    """Instruction sets as Linux names them; empty where /proc/cpuinfo does not exist."""
    return frozenset(_cpuinfo().get("flags", "").split())


def _cpuinfo() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    first = text.split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def memory_bytes(field: str = "MemTotal") -> float:
    """A field of /proc/meminfo (``MemTotal``, ``MemAvailable``) in bytes; infinite where there is none to read."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    return next((int(line.split()[1]) * 1024.0 for line in lines if line.startswith(f"{field}:")), float("inf"))


def available_bytes() -> float:
    """Memory that this process may still take: of the machine, or of the container that it lives in."""
    free = memory_bytes("MemAvailable")
    group = Path("/sys/fs/cgroup")  # the version 2 of Linux's control groups
    try:
        limit, taken = float((group / "memory.max").read_text()), float((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # there is none, or no limit ("max")
        return free
    return min(free, limit - taken + float(stat.get("file", 0)))  # pages of files are given up when others need room


def peak_memory_bytes() -> int:
    """The most memory that this process has used."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        # In bytes on macOS. On Linux this figure also counts what the parent used before the process began its work.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def describe() -> dict[str, str | int]:
    """The machine in a few words, as it stands beside every measured figure."""
    return {
        "cpu": cpu_name(),
        "cpus": usable_cpus(),
        "memory_gb": round(memory_bytes() / 1e9) if memory_bytes() != float("inf") else 0,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }

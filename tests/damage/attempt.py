"""One damaged file and a command that reads it, watched."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random

from tests.damage.cases import Case, damaged
from tests.damage.world import call

_MOST_SECONDS, _MOST_BYTES = 20, 1_000_000_000
_MOST_LINES = 4  # of an error, its own word included


def attempt(case: Case, world: Path, room: Path, seed: int) -> str:
    """What is wrong with how the command ends; "" where nothing is."""
    command = damaged(case, world, room, Random(seed))
    before, start = _begin_peak(), time.process_time()  # of the CPU: a machine may be busy
    code, said = call(*command)
    seconds, taken = time.process_time() - start, _peak() - before
    problem = problem_of(code, said)
    if not problem and (seconds > _MOST_SECONDS or taken > _MOST_BYTES):
        problem = f"{seconds:.0f} s, {taken / 1e6:,.0f} MB"
    return problem and f"{' '.join(map(str, command))}: {problem}"


def problem_of(code: int, said: str) -> str:
    error = said[said.rfind("error: ") :] if code else ""
    if code not in (0, 1, 2) or "fault in facegan" in said or (code and not said.strip()):
        return f"exit code {code}, {said[-800:]}"
    if "Traceback" in said or len(error.splitlines()) > _MOST_LINES or len(error) > 2_000:
        return f"it says {said[-800:]}"
    return ""


def _begin_peak() -> int:
    """Forgets the most memory that this process has had, and gives what it has now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024

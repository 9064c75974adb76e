"""A command with all its descendants, and whether any of them is left."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[1]


class ProcessTree:
    """``python COMMAND`` in a process group of its own. Descendants are recognised by an environment variable."""

    def __init__(self, *command: object) -> None:
        name, value = "FACEGAN_TEST_TREE", secrets.token_hex(8)
        self._token = f"{name}={value}"
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self.parent = subprocess.Popen(
            [sys.executable, *map(str, command)],
            env={**os.environ, name: value, "PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def members(self) -> list[int]:
        """Ids of all living processes."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                ours = self._token.encode() in (folder / "environ").read_bytes()
                if ours and (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found.append(int(folder.name))
        return found

    def workers(self) -> list[int]:
        found = []
        for member in self.members():
            with contextlib.suppress(OSError):
                if b"spawn_main" in Path(f"/proc/{member}/cmdline").read_bytes():
                    found.append(member)
        return found

    def wait_for(self, path: Path, seconds: float = 60) -> None:
        """Until ``path``, whose name may be a pattern, exists or the command ends."""
        end = time.monotonic() + seconds
        while not any(path.parent.glob(path.name)) and self.parent.poll() is None and time.monotonic() < end:
            time.sleep(0.002)

    def signal(self, number: int) -> None:
        """Signal the whole group, as a terminal sends Ctrl-C."""
        os.killpg(self.parent.pid, number)

    def end(self, seconds: float) -> tuple[int, str]:
        """Exit code and stderr of the command, which must end within ``seconds``."""
        errors = self.parent.communicate(timeout=seconds)[1]
        return self.parent.returncode, errors

    def left(self, seconds: float = 10) -> list[int]:
        """Processes still alive after ``seconds``."""
        end = time.monotonic() + seconds
        while (members := self.members()) and time.monotonic() < end:
            time.sleep(0.02)
        return members

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members():
            with contextlib.suppress(OSError):
                os.kill(member, signal.SIGKILL)
        self.parent.communicate()

"""facegan works where Python has no POSIX-only modules, as on Windows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
POSIX_ONLY = ("fcntl", "grp", "posix_ipc", "pty", "pwd", "resource", "termios", "tty")

# The standard library and other packages may have imported them already, or need them: only facegan's own imports fail.
PROGRAM = f"""
import builtins, sys

real = builtins.__import__

def without_posix(name, globals=None, locals=None, fromlist=(), level=0):
    if name.partition(".")[0] in {POSIX_ONLY!r} and str((globals or {{}}).get("__name__")).startswith("facegan"):
        raise ImportError(f"{{name}} does not exist here")
    return real(name, globals, locals, fromlist, level)

builtins.__import__ = without_posix
from facegan.cli.app import main

for command in (
    ["prep", "photos", "out", "--workers", "0", "--detector", "none", "--crop", "squash", "--size", "32"],
    ["verify", "out"],
    ["train", "--shards", "out", "--run", "run", "--images", "32", "--batch", "16", "--set", "train.width=8"],
    ["sample", "run", "--out", "grid.png", "--n", "4"],
):
    sys.argv = ["facegan", *command]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""


def test_commands_run_without_posix_modules(tmp_path: Path, portraits: Path) -> None:
    (tmp_path / "photos").symlink_to(portraits)
    command, environment = [sys.executable, "-c", PROGRAM], {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "grid.png").stat().st_size > 1000

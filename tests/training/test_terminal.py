"""Ctrl-C in a real terminal of 80 columns."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


class Terminal:
    """A command in a terminal of 80 columns."""

    def __init__(self, *command: object) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "facegan", *map(str, command)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**environment, "TERM": "xterm-256color"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.output = b""
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the other side is closed
            while data := os.read(self.master, 4096):
                self.output += data

    def wait_for(self, path: Path, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not path.exists() and self.process.poll() is None and time.monotonic() < end:
            time.sleep(0.002)

    def press(self) -> None:
        os.write(self.master, b"\x03")

    def end(self) -> tuple[int, str]:
        """Exit code, and all that was printed, without colours and movements."""
        try:
            code = self.process.wait(120)
        finally:
            self.process.kill()
            self.reader.join()
            os.close(self.master)
        return code, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.output.decode())


def test_interrupt_in_a_terminal(dataset: Path, tmp_path: Path) -> None:
    """Train, press Ctrl-C twice, go on to the end, start once more."""
    run = tmp_path / "run"
    options = ["--batch", 60, "--images", 120, "--precision", "fp32", "--set", "train.width=16"]
    command = ["train", "--shards", dataset, *options, "--run", run]
    terminal = Terminal(*command)
    terminal.wait_for(run / "checkpoints" / "000000000")
    terminal.press()
    time.sleep(0.05)
    terminal.press()
    code, output = terminal.end()
    assert code == 130, output
    assert f"{run} (sample grids: {run / 'samples'})" in output.replace("\r\n", "")
    assert output.index("Stopping ") < output.index("Stopped at ")
    code, output = Terminal(*command).end()
    assert code == 0, output
    assert "0/0" not in output
    again = Terminal(*command)
    code, output = again.end()
    assert code == 0, output
    assert "is finished: it has 120 images" in output
    assert "0/0" not in output
    shutil.move(run, tmp_path / "stopped")
    code, output = Terminal(*command).end()
    assert code == 0, output
    for name in ("generator.safetensors", "samples/000000120.png"):
        assert (run / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()

"""A tiny trained run, and Python code in a process that cannot import facegan."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from facegan.config import TrainConfig
from facegan.console import Console
from facegan.stream import FaceShards
from facegan.training import train

NO_FACEGAN = """\
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "facegan":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
"""


def tiny_run(dataset: Path, run: Path) -> Path:
    config = TrainConfig.for_method("dcgan", width=4, latent=8, batch=4, images=8, precision="fp32", save_every=4)
    with closing(FaceShards(str(dataset))) as faces:
        train(config, faces, run, device="cpu", console=Console(quiet=True), dataset=str(dataset))
    return run


def run_without_facegan(code: str, folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", NO_FACEGAN + code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout

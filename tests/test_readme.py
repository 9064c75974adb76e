"""What the README tells people to type works as it is written."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
DOCS = README.parent / "docs"


def section(heading: str) -> str:
    return README.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def test_your_own_nets_and_losses(tmp_path: Path, dataset: Path) -> None:
    blocks = re.findall(r"\n\n((?:    .+\n)+)", section("Your own nets and losses"))
    nets, commands = map(textwrap.dedent, blocks)
    loss = re.findall(r"\n\n((?:    .+\n)+)", (DOCS / "training.md").read_text().partition("## Your own loss\n")[2])[0]
    (tmp_path / "mine.py").write_text(nets + textwrap.dedent(loss))
    shutil.copytree(dataset, tmp_path / "out")
    train, sample = (shlex.split(command)[1:] for command in commands.splitlines())
    for arguments in [[*train, "--set", "train.loss=mine:LOSS"], sample]:
        # -P: Python does not add the current folder by itself, as it does not for an installed `facegan`.
        program = [sys.executable, "-P", "-m", "facegan"]
        environment = {**os.environ, "PYTHONPATH": str(README.parent)}
        ended = subprocess.run(
            [*program, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "mine.png").stat().st_size > 1000


def test_as_a_library(tmp_path: Path, portraits: Path, models: Path) -> None:
    code = re.findall(r"```python\n(.+?)```", section("Python"), re.DOTALL)
    assert len(code) == 1
    (tmp_path / "tutorial.py").write_text(code[0])
    (tmp_path / "photos").symlink_to(portraits)
    ended = subprocess.run(
        [sys.executable, "-W", "error", "tutorial.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(README.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr
    assert "photographs kept" in ended.stdout
    assert (tmp_path / "runs/mine/generator.safetensors").exists()


def test_readme_fits_a_page() -> None:
    assert len(README.read_text().splitlines()) <= 200

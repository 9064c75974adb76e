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


def section(heading: str) -> str:
    return README.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def test_add_your_own_net_or_loss(tmp_path: Path, dataset: Path) -> None:
    text = section("Add your own net or loss")
    assert len(text.strip().splitlines()) + 2 == 20  # with its heading and the line below that
    code, command = (textwrap.dedent(block) for block in re.findall(r"\n\n((?:    .+\n)+)", text))
    (tmp_path / "mine.py").write_text(code)
    shutil.copytree(dataset, tmp_path / "out")
    for arguments in [shlex.split(command)[1:], ["sample", "mine", "--out", "grid.png", "--trust-code"]]:
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
    assert (tmp_path / "grid.png").stat().st_size > 1000


def test_as_a_library(tmp_path: Path, portraits: Path, models: Path) -> None:
    code = re.findall(r"```python\n(.+?)```", section("As a library"), re.DOTALL)
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
    assert "of 60 photographs kept" in ended.stdout
    assert (tmp_path / "grid.png").stat().st_size > 10_000

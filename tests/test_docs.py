"""README and docs say what the program does: what they tell people to type works, and the settings are current."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from facegan.config import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def python(*arguments: str, cwd: Path) -> str:
    """What ``python`` prints."""
    command, environment = [sys.executable, *arguments], {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def settings_table() -> str:
    rows = ["| setting | default | unit | meaning |", "|---|---|---|---|"]
    for name, field in TrainConfig.model_fields.items():
        default = "by method or nets" if field.is_required() or field.default is None else str(field.default) or "–"
        meaning = TrainConfig.describe(name).replace("|", "\\|")
        rows.append(f"| `{name}` | {default} | {TrainConfig.unit(name)} | {meaning} |")
    return "\n".join(rows) + "\n"


def test_table_of_settings_is_current() -> None:
    text = (ROOT / "docs/training.md").read_text()
    assert text.partition("<!-- settings: train -->\n")[2].partition("<!-- end -->")[0] == settings_table()


def test_readme_fits_a_page() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
    assert len((ROOT / "CHANGELOG.md").read_text().partition("## 0.1.0")[2].partition("\n## ")[0].splitlines()) <= 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


def section(heading: str) -> str:
    return (ROOT / "README.md").read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def test_your_own_nets_and_losses(tmp_path: Path, dataset: Path) -> None:
    pages = (
        section("Your own nets and losses"),
        (ROOT / "docs/training.md").read_text().partition("## Your own loss\n")[2],
    )
    blocks = [re.findall(r"\n\n((?:    .+\n)+)", page) for page in pages]
    nets, commands, loss = map(textwrap.dedent, [*blocks[0], blocks[1][0]])
    (tmp_path / "mine.py").write_text(nets + loss)
    shutil.copytree(dataset, tmp_path / "out")
    train, sample = (shlex.split(command)[1:] for command in commands.splitlines())
    for arguments in [[*train, "--set", "train.loss=mine:LOSS"], sample]:
        # -P: Python does not add the current folder by itself, as it does not for an installed `facegan`.
        python("-P", "-m", "facegan", *arguments, cwd=tmp_path)
    assert (tmp_path / "mine.png").stat().st_size > 1000


def test_as_a_library(tmp_path: Path, portraits: Path, models: Path) -> None:
    code = re.findall(r"```python\n(.+?)```", section("Python"), re.DOTALL)
    assert len(code) == 1
    (tmp_path / "tutorial.py").write_text(code[0])
    (tmp_path / "photos").symlink_to(portraits)
    assert "photographs kept" in python("-W", "error", "tutorial.py", cwd=tmp_path)
    assert (tmp_path / "runs/mine/generator.safetensors").exists()

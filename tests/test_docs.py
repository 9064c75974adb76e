"""README and docs say what the program does: what they tell people to type works, and the settings are current."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import sys
import textwrap
from pathlib import Path

import pytest

from facegan.config import TrainConfig
from tests.recipes.program import facegan

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


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


def test_your_own_nets_and_losses(tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = (
        section("Your own nets and losses"),
        (ROOT / "docs/training.md").read_text().partition("## Your own loss\n")[2],
    )
    blocks = [re.findall(r"\n\n((?:    .+\n)+)", page) for page in pages]
    nets, commands, loss = map(textwrap.dedent, [*blocks[0], blocks[1][0]])
    (tmp_path / "mine.py").write_text(nets + loss)
    shutil.copytree(dataset, tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])  # for an installed `facegan` as well
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # another test's
    train, sample = (shlex.split(command)[1:] for command in commands.splitlines())
    for arguments in [[*train, "--set", "train.loss=mine:LOSS", "--images", "64"], sample]:
        ended = facegan(*arguments)
        assert ended.code == 0, ended.stderr
    assert (tmp_path / "mine.png").stat().st_size > 1000
    del sys.modules["mine"]


def test_as_a_library(
    tmp_path: Path, portraits: Path, models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = re.findall(r"```python\n(.+?)```", section("Python"), re.DOTALL)
    assert len(code) == 1
    (tmp_path / "tutorial.py").write_text(code[0])
    (tmp_path / "photos").mkdir()
    for number in range(1, 21):
        (tmp_path / f"photos/{number}.jpg").symlink_to(portraits / f"{number:06d}.jpg")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(tmp_path / "tutorial.py"), run_name="__main__")
    assert "photographs kept" in capsys.readouterr().out
    assert (tmp_path / "runs/mine/generator.safetensors").exists()

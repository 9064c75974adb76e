"""The pages of docs/ say what the program does: links lead somewhere, and the table of settings is generated."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from facegan.config import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def settings_table() -> str:
    rows = ["| setting | default | unit | meaning |", "|---|---|---|---|"]
    for name, field in TrainConfig.model_fields.items():
        default = "by method or nets" if field.is_required() or field.default is None else str(field.default) or "–"
        meaning = TrainConfig.describe(name).replace("|", "\\|")
        rows.append(f"| `{name}` | {default} | {TrainConfig.unit(name)} | {meaning} |")
    return "\n".join(rows) + "\n"


def test_the_table_of_settings_is_current() -> None:
    text = (ROOT / "docs/training.md").read_text()
    assert text.partition("<!-- settings: train -->\n")[2].partition("<!-- end -->")[0] == settings_table()


def test_the_readme_fits_a_page_and_the_changelog_half_a_one() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
    assert len((ROOT / "CHANGELOG.md").read_text().partition("## 0.1.0")[2].partition("\n## ")[0].splitlines()) <= 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target

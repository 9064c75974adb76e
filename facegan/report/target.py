"""Where a page goes. Nothing heavy is imported: wrong names are refused at once."""

from __future__ import annotations

from pathlib import Path

from facegan.errors import SettingsError

FILE_NAME, FOLDER = "report.html", "explorer"  # inside a run's folder


def report_path(run: Path, explore: bool = False) -> Path:
    """Where a run's page goes unless someone says otherwise."""
    return run / (FOLDER if explore else FILE_NAME)


def refuse_other_name(out: Path, explore: bool = False) -> None:
    """
    Raises:
        SettingsError: a page is not named as pages are, or an explorer's folder is.
    """
    is_page = out.suffix.lower() in (".html", ".htm")
    if explore and is_page:
        raise SettingsError(f"--out {out}: an explorer is a folder; leave {out.suffix} out.")
    if not explore and not is_page:
        raise SettingsError(f"--out {out}: pages are HTML files; give it a name that ends in .html.")
